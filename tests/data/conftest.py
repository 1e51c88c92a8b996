"""Small datasets on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WritePair = Callable[..., None]


@pytest.fixture
def write_pair() -> WritePair:
    """Write a photo of noise and a mask with a square in it, at any two paths."""

    def write(
        image: Path, mask: Path | None, seed: int = 0, size: tuple[int, int] = (24, 32)
    ) -> None:
        rng = np.random.default_rng(seed)
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(image)
        if mask is not None:
            mask.parent.mkdir(parents=True, exist_ok=True)
            values = np.zeros(size, np.uint8)
            values[4:12, 6 : 12 + seed % 8] = 255
            Image.fromarray(values).save(mask)

    return write


@pytest.fixture
def folder(tmp_path: Path, write_pair: WritePair) -> Path:
    """A folder of twenty good pairs: images/a00.png + masks/a00.png …"""
    root = tmp_path / "photos"
    for index in range(20):
        name = f"a{index:02d}.png"
        write_pair(root / "images" / name, root / "masks" / name, index)
    return root
