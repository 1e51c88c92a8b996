"""C code of the package, compiled on the machine that runs it.

A `.c` file is compiled by the C compiler of the machine when it is first used (seconds, kept in the
cache folder) and shares the threads of torch. Where there is no compiler, who asks gets None and
computes in another way. EGEUNET_KERNELS=0 switches all of it off.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from egeunet.files import cache_folder

# -ffast-math would switch denormals off in the whole process; these are the parts of it that let
# loops with sums become vector code.
FLAGS = (
    *("-O3", "-march=native", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"),
    *("-fassociative-math", "-fno-signed-zeros", "-fno-tree-pre"),
)


class Long(int):
    """A number that C takes as `long`."""


@functools.cache
def load(source: Path) -> Any:
    """Return the compiled `source` as a library, or None where it cannot be had.

    It uses the OpenMP functions that torch has loaded: import torch before.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if os.environ.get("EGEUNET_KERNELS") == "0" or compiler is None or os.name == "nt":
        return None
    text = source.read_bytes()
    machine = f"{platform.machine()} {platform.processor()} {_cpu_flags()} {compiler} {FLAGS}"
    key = hashlib.sha256(text + machine.encode()).hexdigest()[:16]
    path = cache_folder() / f"{source.stem}-{key}.so"
    try:
        if not path.is_file():
            _compile(source, compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None


def call(library: Any, name: str, *arguments: Any) -> None:
    """Call a function: tensors go as their address, floats as `float`, None as NULL."""
    getattr(library, name)(*map(_to_c, arguments))


def _to_c(value: Any) -> Any:
    if hasattr(value, "data_ptr"):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.c_long(value) if isinstance(value, Long) else value


def _compile(source: Path, compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        code, whole = Path(folder) / "code.o", Path(folder) / "code.so"
        # Compiled with OpenMP but linked without: its functions are those that torch has loaded,
        # so that there is one pool of threads and not two that wait for each other.
        for command in (
            [compiler, *FLAGS, "-c", str(source), "-o", str(code)],
            [compiler, "-shared", str(code), "-o", str(whole), "-lm"],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        whole.replace(path)


def _cpu_flags() -> str:
    """What `-march=native` depends on: a cache folder may be shared by unlike machines."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return ""
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
