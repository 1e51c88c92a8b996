"""The example in C, compiled for this and other machines, beside `Segmenter`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egeunet import Segmenter
from egeunet.data.synthetic import draw
from egeunet.inference.weights import SHIPPED

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "src" / "egeunet" / "engine"
EXAMPLE = ROOT / "examples" / "c"
SOURCES = [
    EXAMPLE / "segment.c",
    *(ENGINE / f"{name}.c" for name in ("engine", "image")),
    *(ENGINE / f"network_{name}.c" for name in ("baseline", "avx2", "avx512")),
]
DATA = Path(os.environ.get("EGEUNET_DATA", ROOT.parent / "shared" / "data")) / "isic2018"
WEIGHTS = SHIPPED / "isic2018.egeu"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled as its README says."""
    if not shutil.which("cc") or not shutil.which("make"):
        pytest.skip("there is no C compiler or no make")
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    command = ["make", f"ENGINE={ENGINE}", "CFLAGS=-O2 -Werror"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "segment"


def zig(*words: object) -> None:
    pytest.importorskip("ziglang", reason="needs ziglang, of the extra web")
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *map(str, words)], check=True)


def images() -> list[Image.Image]:
    drawn = [draw(seed, size)[0] for seed, size in ((8, (480, 640)), (2, (301, 403)))]
    # Smaller than the network, and as large as it.
    drawn += [draw(seed, size)[0] for seed, size in ((3, (90, 1200)), (5, (256, 256)))]
    photos = sorted(DATA.rglob("ISIC_*.jpg"))[::300]
    return [*map(Image.fromarray, drawn), *(Image.open(path).convert("RGB") for path in photos)]


def compare_with_python(command: list[str], folder: Path, images: list[Image.Image]) -> None:
    segmenter = Segmenter("isic2018", backend="onnxruntime")  # another implementation
    for image in images:
        image.save(folder / "image.ppm")
        words = [*command, WEIGHTS, folder / "image.ppm", folder / "mask.pgm"]
        subprocess.run(list(map(str, words)), check=True)
        mask = np.asarray(Image.open(folder / "mask.pgm"))
        assert set(np.unique(mask)) <= {0, 255}
        assert np.mean((mask > 0) != segmenter(image).mask) <= 1e-4


def test_masks_are_those_of_python(program: Path, tmp_path: Path) -> None:
    compare_with_python([str(program)], tmp_path, images())


def test_bad_files_get_one_sentence(program: Path, tmp_path: Path) -> None:
    image, text = tmp_path / "image.ppm", tmp_path / "notes.txt"
    Image.new("RGB", (40, 30)).save(image)
    text.write_text("no image")
    short = tmp_path / "short.ppm"
    short.write_bytes(image.read_bytes()[:-1])
    for words, message in (
        ([text, image], "not a weights file"),
        ([tmp_path / "none", image], "cannot read"),
        ([WEIGHTS, text], "not a PPM image"),
        ([WEIGHTS, tmp_path / "none"], "not a PPM image"),
        ([WEIGHTS, short], "truncated"),
    ):
        command = list(map(str, [program, *words, tmp_path / "mask.pgm"]))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "mask.pgm").exists()


@pytest.mark.slow  # compiles a C library first
def test_masks_on_64_bit_arm_are_those_of_python(tmp_path: Path) -> None:
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if not emulator:
        pytest.skip("needs qemu-aarch64: `apt-get install qemu-user-static`")
    program = tmp_path / "segment"
    target = ("-target", "aarch64-linux-musl", "-static", "-O3")
    zig(*target, f"-I{ENGINE}", *SOURCES, "-o", program)
    compare_with_python([emulator, str(program)], tmp_path, images())


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    [
        "x86_64-windows-gnu",
        "aarch64-windows-gnu",
        "x86_64-macos",
        "aarch64-macos",
        "arm-linux-musleabihf",
        "riscv64-linux-musl",
    ],
)
def test_it_compiles_for(target: str, tmp_path: Path) -> None:
    for source in SOURCES:
        zig("-target", target, "-O2", f"-I{ENGINE}", "-c", source, "-o", tmp_path / "object.o")
