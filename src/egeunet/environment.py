"""Where and with what something was run; written beside every result."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "egeunet",
    "torch",
    "lightning-fabric",
    "torchmetrics",
    "numpy",
    "scipy",
    "pillow",
    "onnx",
    "onnxruntime",
)


def environment() -> dict[str, Any]:
    """Describe this process and its machine.

    Returns:
        What JSON can hold: `python`, `os`, `cpu`, `cores` (those this process may use), `ram_gb`,
        `gpu` (None without one, or where torch is not loaded), `kernels` ("compiled" or "formulas":
        how float32 networks are computed on the CPU; None where no network is loaded),
        `cpu_capability` (the vector instructions torch uses, such as "AVX2"; None without torch),
        `versions` (None: not installed),
        `git_commit` of the checkout this package runs from (`-dirty` when the package's own files
        were changed, None outside a checkout) and the `command` line, absolute paths by their last
        name.
    """
    return {
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu": _cpu(),
        "cores": count_cores(),
        "ram_gb": _ram_gb(),
        "gpu": _gpu(),
        "kernels": _kernels(),
        "cpu_capability": _cpu_capability(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "git_commit": _git_commit(),
        "command": _command(),
    }


def describe_environment(row: Mapping[str, Any], software: str = "") -> str:
    """Say in a line what `environment` found, from a row that holds it.

    Args:
        row: Of results; one with `shared` was measured while others computed there.
        software: What to name instead of the versions of ONNX Runtime and torch.
    """
    versions = row["versions"]
    software = software or f"ONNX Runtime {versions['onnxruntime']}, torch {versions['torch']}"
    busy = "; others computed there meanwhile" if row.get("shared") else ""
    commit = f", commit {row['git_commit'][:12]}" if row["git_commit"] else ""
    return f"{row['cpu']}, {row['cores']} cores, {software}{commit}{busy}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    return platform.processor() or platform.machine()


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ram_gb() -> float | None:
    if not hasattr(os, "sysconf"):  # Windows
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _gpu() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())


def _kernels() -> str | None:
    kernels = sys.modules.get("egeunet.models.kernels")
    if kernels is None:
        return None
    return "formulas" if kernels.library() is None else "compiled"


def _cpu_capability() -> str | None:
    torch = sys.modules.get("torch")
    return None if torch is None else str(torch.backends.cpu.get_cpu_capability())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    here = Path(__file__)
    # Installed into an environment inside some other checkout, that one's commit says nothing.
    if _output("git", "-C", str(here.parent), "ls-files", here.name) != here.name:
        return None
    commit = _output("git", "-C", str(here.parent), "rev-parse", "HEAD")
    # Of the package alone: results and pages are written by what is described here.
    changed = _output("git", "-C", str(here.parent), "diff", "--name-only", "HEAD", "--", ".")
    return f"{commit}-dirty" if changed else commit


def _command() -> str:
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join((name, *map(_without_folder, sys.argv[1:])))


def _without_folder(word: str) -> str:
    """Absolute paths by their last names: where they lie is nobody's business.

    A path stands alone, after `key=`, or in a list there.
    """
    key, sign, value = word.rpartition("=")
    if not (value.startswith("[") and value.endswith("]")):
        return f"{key}{sign}{Path(value).name}" if Path(value).is_absolute() else word
    parts = [part.strip() for part in value[1:-1].split(",")]
    names = [Path(part).name if Path(part).is_absolute() else part for part in parts]
    return word if names == parts else f"{key}{sign}[{', '.join(names)}]"


def _output(*command: str) -> str | None:
    """Return what a program prints; None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
