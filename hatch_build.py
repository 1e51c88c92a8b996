"""Compile the C libraries of the package: the build hook of wheels and of editable installs.

`python hatch_build.py` compiles them in place, as after a change of a C file.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # when run as a program
    BuildHookInterface = object

SOURCE = Path(__file__).parent / "src/egeunet/engine"
ENGINE = ("engine.c", "image.c", "network_avx512.c", "network_avx2.c", "network_baseline.c")
ENGINE_FLAGS = ("-std=c11", "-ffp-contract=fast", "-fvisibility=hidden", "-Wno-psabi")
KERNELS = ("kernels.c", "augmentation.c")
# -ffast-math would switch denormals off in the whole process; these are the parts of it that let
# loops with sums become vector code.
KERNEL_FLAGS = ("-fassociative-math", "-fno-signed-zeros", "-fno-tree-pre")
COMMON_FLAGS = ("-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


class CustomBuildHook(BuildHookInterface):
    """Put the libraries into the wheel, or into the source tree of an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tag the wheel: the libraries are the platform's, but of any Python."""
        try:
            libraries = compile_all()
        except (OSError, subprocess.CalledProcessError) as error:
            reason = str(getattr(error, "stderr", None) or error).strip()
            self.app.display_warning(f"egeunet is built without its C libraries: {reason}")
            return
        build_data["artifacts"] += [f"src/egeunet/engine/{path.name}" for path in libraries]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform_tag(libraries)}"


def compile_all() -> list[Path]:
    """Compile both libraries into the folder of their sources.

    Two, because the kernels use the threads of torch, and users of the engine may have no OpenMP.

    Raises:
        OSError: There is no compiler, or it is Windows.
        CalledProcessError: The compiler fails.
    """
    if os.name == "nt":
        raise OSError("they cannot be compiled on Windows yet.")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(f"there is no C compiler {compiler[0]!r}.")
    is_clang = "clang" in _run([*compiler, "--version"])
    flags, link = list(KERNEL_FLAGS), []
    if IS_X86:
        flags += ["-mavx2", "-mfma", "-mtune=znver2"]  # loaded only where the processor has them
    # Compiled with OpenMP but linked without: its functions are those that torch has loaded, so
    # that there is one pool of threads and not two that wait for each other.
    if not is_clang:
        flags.append("-fopenmp")
    elif sys.platform == "darwin":  # elsewhere torch has not the OpenMP of clang
        flags += ["-Xclang", "-fopenmp"]
        link.append("-Wl,-undefined,dynamic_lookup")
    return [
        _compile(compiler, "libegeunet.so", ENGINE, ENGINE_FLAGS, ()),
        _compile(compiler, "libkernels.so", KERNELS, flags, link),
    ]


def _platform_tag(libraries: list[Path]) -> str:
    """Return the tag of this platform; on Linux with the oldest glibc that has what is called."""
    from packaging.tags import platform_tags

    tag = next(tag for tag in platform_tags() if not tag.startswith("linux"))
    found = [re.findall(rb"GLIBC_2\.(\d+)", path.read_bytes()) for path in libraries]
    oldest = max([17, *(int(minor) for minors in found for minor in minors)])
    return re.sub(r"^manylinux_2_\d+", f"manylinux_2_{oldest}", tag)


def _compile(
    compiler: list[str], name: str, sources: tuple[str, ...], flags: Any, link: Any
) -> Path:
    """Compile sources at the same time, and link them."""
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder) / f"{source}.o" for source in sources]
        running = [
            subprocess.Popen(
                [*compiler, *COMMON_FLAGS, *flags, "-c", str(SOURCE / source), "-o", str(to)],
                stderr=subprocess.PIPE,
                text=True,
            )
            for source, to in zip(sources, objects, strict=True)
        ]
        errors = [process.communicate()[1] for process in running]
        for process, error in zip(running, errors, strict=True):
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args, stderr=error)
        whole = Path(folder) / name
        _run([*compiler, "-shared", *link, *map(str, objects), "-o", str(whole), "-lm"])
        # Moved, not written over: a process may have the old one loaded.
        shutil.copyfile(whole, SOURCE / f"{name}.tmp")
        return (SOURCE / f"{name}.tmp").replace(SOURCE / name)


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    print(*compile_all(), sep="\n")
