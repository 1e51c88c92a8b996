"""The code, commands and reference pages of README and docs are those of the package."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.core import TyperGroup
from typer.main import get_command

from egeunet.cli.main import app
from egeunet.data.synthetic import draw, write_dataset

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = ("index", "getting-started", "predict", "evaluate")
RUN = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in NAMES)]


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page, without those marked `<!-- not run -->`."""
    found = re.findall(
        rf"^(<!-- not run -->\n)?```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S
    )
    return [code for skipped, code in found if not skipped]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages name: lesion.jpg, other.jpg, images/, and the dataset my/."""
    path = tmp_path_factory.mktemp("docs")
    write_dataset(path / "my", 12)
    shutil.copytree(path / "my" / "images", path / "images")
    for seed, name in enumerate(("lesion.jpg", "other.jpg"), 4):
        Image.fromarray(draw(seed, (192, 256))[0]).save(path / name)
    return path


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_python_code_runs(page: Path, folder: Path) -> None:
    code = "\n".join(blocks(page, "python"))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks that call egeunet."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if re.match(r"\s*(\S+ \| )?egeunet ", line)]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.stem)
def test_commands_are_accepted(page: Path) -> None:
    for line in commands(page):
        words = shlex.split(line, comments=True)
        words = words[words.index("egeunet") + 1 :]
        command = get_command(app)
        while isinstance(command, TyperGroup):
            context = command.make_context("egeunet", words[:1], resilient_parsing=True)
            command = command.get_command(context, words[0])
            assert command, line
            words = words[1:]
        words = [word for word in words if word not in {"&", ">", "mask.png", "<"}]
        if "--help" not in words:
            command.make_context("egeunet", words)


def test_reference_pages_are_fresh() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    for name, text in reference.render().items():
        assert (ROOT / "docs" / name).read_text("utf-8") == text, (
            f"{name} is stale: run `make docs`"
        )
