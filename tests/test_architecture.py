"""Imports go one way: what ARCHITECTURE and CONTRIBUTING promise, read from the files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import egeunet

SOURCE = Path(egeunet.__file__).parent
ANYBODY = {
    *(
        "errors",
        "progress",
        "files",
        "environment",
        "compat",
        "memory",
        "notice",
    ),
    "egeunet",
}
MAY_IMPORT = {
    "engine": set(),
    "models": {"engine"},
    "metrics": set(),
    "inference": {"engine"},
    "serve": {"inference"},
    "batch": {"inference"},
    "data": {"engine", "inference"},
    "training": {"models", "metrics", "inference", "data"},
    "evaluation": {"models", "metrics", "inference", "data", "training"},
    "exporting": {"engine", "models", "metrics", "inference", "data", "training", "evaluation"},
    "api": {"models", "metrics", "inference", "data", "training", "evaluation", "exporting"},
    "cli": {
        *("models", "metrics", "inference", "data", "training", "evaluation", "exporting"),
        *("api", "serve", "batch"),
    },
}
HEAVY = {
    *("torch", "scipy", "monai", "matplotlib", "onnx", "lightning_fabric"),
    *("fastapi", "httpx2", "uvicorn", "pydantic"),
    *("ray", "pyarrow", "pandas", "fsspec"),
}


def imports(path, top_level_only=False):
    """Yield the dotted names that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its room"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files():
    found = ((p, p.relative_to(SOURCE).with_suffix("").parts) for p in sorted(SOURCE.rglob("*.py")))
    return [
        pytest.param(path, parts[0], id="/".join(parts))
        for path, parts in found
        if parts[0] not in {"__init__", "__main__"} | ANYBODY
    ]


@pytest.mark.parametrize(("path", "room"), files())
def test_a_file_imports_only_from_rooms_below(path, room):
    ours = [name.split(".") for name in imports(path) if name.split(".")[0] == "egeunet"]
    rooms = {parts[1] for parts in ours if len(parts) > 1 and (SOURCE / parts[1]).is_dir()}
    rooms |= {parts[1] for parts in ours if parts[1:2] in (["api"],)}
    assert rooms <= MAY_IMPORT[room] | {room}


@pytest.mark.parametrize(("path", "room"), [p for p in files() if "inference" in p.id])
def test_inference_never_imports_torch(path, room):
    assert not {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY
    # A result may be plotted, and become a table.
    on_demand = {"matplotlib", "pandas"}
    assert not {name.split(".")[0] for name in imports(path)} & (HEAVY - on_demand)


@pytest.mark.parametrize(("path", "room"), [p for p in files() if p.id.startswith("cli/")])
def test_commands_import_heavy_libraries_only_when_they_run(path, room):
    assert not {name.split(".")[0] for name in imports(path, top_level_only=True)} & HEAVY


@pytest.mark.parametrize(("path", "room"), files())
def test_only_the_command_line_prints(path, room):
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    assert room == "cli" or "print" not in names


def test_importing_the_package_and_asking_for_help_load_nothing_heavy():
    code = (
        "import sys, egeunet, egeunet.cli.main;"
        f"heavy = {HEAVY | {'onnxruntime'}!r} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    for name in egeunet.__all__:
        assert getattr(egeunet, name)
    with pytest.raises(AttributeError, match="nothing"):
        egeunet.nothing  # noqa: B018
