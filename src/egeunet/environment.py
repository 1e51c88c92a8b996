"""Description of the machine, software and command that produced a result."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("egeunet", "torch", "lightning-fabric", "numpy", "scipy", "pillow"),
    *("onnx", "onnxruntime"),
)
# An absolute folder at the start of a word, of a value after `=` or of an item of a list.
_FOLDER = re.compile(r"(?<![^=\[, ])(?:[A-Za-z]:)?[/\\](?:[^,\]]*[/\\])?")


def environment() -> dict[str, Any]:
    """Describe this process and its machine as JSON values.

    Returns:
        `python`, `os`, `cpu`, `cores` (usable by this process), `ram_gb`, `gpu` (None without one
        or without torch loaded), `kernels` ("compiled" or "formulas": how plain float32 models run
        on the CPU; None if no model is loaded), `cpu_capability` (vector instructions that torch
        uses, such as "AVX2"; None without torch), `versions` (None: not installed), `git_commit` of
        the checkout this package runs from (`-dirty` if the package's files are changed, None
        outside a checkout) and `command` (absolute paths shortened to their last name).
    """
    torch = sys.modules.get("torch")
    kernels = sys.modules.get("egeunet.models.kernels")
    gpu = torch is not None and torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu": _cpu(),
        "cores": count_cores(),
        "ram_gb": _ram_gb(),
        "gpu": str(torch.cuda.get_device_name()) if torch and gpu else None,
        "kernels": kernels and ("compiled" if kernels.load_kernels() else "formulas"),
        "cpu_capability": torch and torch.backends.cpu.get_cpu_capability(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "git_commit": _git_commit(),
        "command": _command(),
    }


def describe_environment(row: Mapping[str, Any], software: str = "") -> str:
    """Return one line about the machine and software of a result row.

    Args:
        row: A row with the keys of `environment()`; with `shared` if the machine was busy.
        software: Text in place of the versions of ONNX Runtime and torch.
    """
    versions = row["versions"]
    software = software or f"ONNX Runtime {versions['onnxruntime']}, torch {versions['torch']}"
    busy = "; shared with other work" if row.get("shared") else ""
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


def _version(name: str) -> str | None:
    from importlib import metadata  # here, because `import egeunet` shall not wait for it

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    here = Path(__file__)
    # An environment may lie inside the checkout of another project.
    if _output("git", "-C", str(here.parent), "ls-files", here.name) != here.name:
        return None
    commit = _output("git", "-C", str(here.parent), "rev-parse", "HEAD")
    # Only the package: results and pages are written by it.
    changed = _output("git", "-C", str(here.parent), "diff", "--name-only", "HEAD", "--", ".")
    return f"{commit}-dirty" if changed else commit


def _command() -> str:
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join((name, *(_FOLDER.sub("", word.rstrip("/")) for word in sys.argv[1:])))


def _output(*command: str) -> str | None:
    """Return what a program prints; None if it is missing or fails."""
    import subprocess

    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
