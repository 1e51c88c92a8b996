"""Compile C files of the package on the user's machine and load them.

A `.c` file is compiled by the machine's C compiler when it is first used, kept in a private cache
folder, and shares torch's threads. Without a compiler, or with EGEUNET_KERNELS=0, callers get None
and compute their plain formulas.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from egeunet.errors import EgeunetError
from egeunet.files import atomic_write, cache_folder

# -ffast-math would switch denormals off in the whole process; these are the parts of it that let
# loops with sums become vector code.
FLAGS = (
    *("-O3", "-march=native", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"),
    *("-fassociative-math", "-fno-signed-zeros", "-fno-tree-pre"),
)
_HASH = 32  # hexadecimal digits of SHA-256 in a file name
_log = logging.getLogger(__name__)
_warned = False


class Long(int):
    """An integer that C takes as `long`."""


@functools.cache
def load(source: Path) -> Any:
    """Return a C file as a loaded library, or None where it cannot be compiled.

    The reason is logged as one warning per process. The library uses the OpenMP functions that
    torch has loaded: import torch first.

    Args:
        source: A `.c` file of this package.
    """
    if os.environ.get("EGEUNET_KERNELS") == "0" or os.name == "nt":
        return None
    try:
        return ctypes.CDLL(str(_compiled(source)))
    except (EgeunetError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        _warn(str(error))
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


def _compiled(source: Path) -> Path:
    """The library of a source, compiled if the cache has none whose content is that of its name."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise EgeunetError("no C compiler was found")
    machine = f"{platform.machine()} {platform.processor()} {_cpu_flags()} {compiler} {FLAGS}"
    key = hashlib.sha256(source.read_bytes() + machine.encode()).hexdigest()[:_HASH]
    folder = _private_folder(cache_folder() / "compiled")
    for path in folder.glob(f"{source.stem}-{key}-*.so"):
        if path.stem.endswith(_digest(path)):
            return path
        path.unlink(missing_ok=True)  # truncated or changed
    with tempfile.TemporaryDirectory(dir=folder) as name:
        code, whole = Path(name) / "code.o", Path(name) / "code.so"
        # Compiled with OpenMP but linked without: its functions are those that torch has loaded,
        # so that there is one pool of threads and not two that wait for each other.
        for command in (
            [compiler, *FLAGS, "-c", str(source), "-o", str(code)],
            [compiler, "-shared", str(code), "-o", str(whole), "-lm"],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=600)
        path = folder / f"{source.stem}-{key}-{_digest(whole)}.so"
        with atomic_write(path) as temporary:
            shutil.copyfile(whole, temporary)
    return path


def _private_folder(folder: Path) -> Path:
    """Make a folder that nobody else can write to or exchange, as ssh demands it of its files.

    Raises:
        EgeunetError: It belongs to somebody else, or others may write to it or above it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = folder.resolve()
    users = {0, os.geteuid()}
    for place in (folder, *folder.parents):
        found = place.stat()
        if place == folder:
            shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        else:  # in a sticky folder such as /tmp nobody can exchange what is another's
            shared = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if found.st_uid not in users or shared:
            raise EgeunetError(f"other users can write to {place}, where they would be kept")
    return folder


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:_HASH]


def _warn(reason: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        _log.warning(
            "Compiled CPU kernels are off, so training takes several times as long: %s. Install a "
            "C compiler such as gcc and keep $EGEUNET_CACHE where only you can write; "
            "EGEUNET_KERNELS=0 silences this message.",
            reason.rstrip("."),
        )


def _cpu_flags() -> str:
    """What `-march=native` depends on: different machines may share a cache folder."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
