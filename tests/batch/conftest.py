"""A small archive of drawn images, and the program in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from egeunet.inference.segmenter import Segmenter

IMAGES = 9


def draw_images(folder: Path, count: int) -> list[Path]:
    """Write small images with a dark spot each, in two folders."""
    chance = np.random.default_rng(0)
    paths = []
    for index in range(count):
        image = Image.fromarray(chance.integers(190, 220, (48, 64, 3), np.uint8))
        x, y = chance.integers(5, 35, 2)
        ImageDraw.Draw(image).ellipse((x, y, x + 20, y + 10), fill=(60, 40, 30))
        path = folder / "ab"[index % 2] / f"{index:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        paths.append(path)
    return sorted(paths)


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> list[Path]:
    return draw_images(tmp_path_factory.mktemp("archive") / "images", IMAGES)


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    return Segmenter(threads=1)


class Program:
    """`egeunet batch` in a process of its own."""

    def start(self, *words: object, **variables: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "egeunet", "batch", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
        )

    def run(self, *words: object, expected: int = 0, **variables: str) -> tuple[str, str]:
        """Hold it to its exit code and return what it printed to stdout and stderr."""
        with self.start(*words, **variables) as process:
            try:
                out, err = process.communicate(timeout=600)
            finally:
                process.kill()  # which a process that has ended does not mind
        assert process.returncode == expected, out + err
        return out, err


@pytest.fixture(scope="session")
def program() -> Program:
    return Program()


@pytest.fixture(scope="session")
def many(tmp_path_factory) -> Path:
    """A folder of 120 images, of which one is damaged."""
    folder = tmp_path_factory.mktemp("many")
    draw_images(folder, 120)[5].write_bytes(b"no image")
    return folder
