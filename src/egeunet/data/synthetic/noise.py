"""Procedural patterns of synthetic skin: smooth noise, cells, and their coordinate grid."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Float: TypeAlias = NDArray[np.float32]


def grid(size: tuple[int, int]) -> tuple[Float, Float]:
    """Return y (H, 1) and x (1, W) of the pixel centers; the short side spans -½ to ½."""
    height, width = size
    short = min(size)
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) / short
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / short
    return y[:, None].astype(np.float32), x[None, :].astype(np.float32)


def smoothstep(low: float | Float, high: float | Float, value: Float) -> Float:
    """Rise smoothly from 0 at `low` to 1 at `high` (or fall, if `high` is the smaller)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def smooth(rng: np.random.Generator, size: tuple[int, int], waves: float) -> Float:
    """Return noise (H, W) of about unit variance with `waves` bumps along the short side."""
    height, width = size
    step = min(size) / max(waves, 1)
    shape = (max(int(height / step), 1) + 2, max(int(width / step), 1) + 2)
    knots = Image.fromarray(rng.standard_normal(shape, dtype=np.float32))
    wide = knots.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(wide) * np.float32(1.35)


def fractal(
    rng: np.random.Generator, size: tuple[int, int], waves: float, octaves: int = 3
) -> Float:
    """Sum smooth noise of `waves`, 2·`waves`, 4·`waves`, …, each half as strong."""
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        total += smooth(rng, size, waves * 2**octave) * np.float32(0.5**octave)
    return total / np.float32(np.sqrt((1 - 0.25**octaves) / 0.75))


def cells(rng: np.random.Generator, y: Float, x: Float, count: float) -> tuple[Float, Float]:
    """Divide the plane into irregular cells (Worley 1996).

    Args:
        rng: Source of randomness.
        y: Coordinates, (H, W), in the units of `grid`.
        x: Coordinates, (H, W).
        count: Cells per unit of length.

    Returns:
        The distance to the nearest cell center and to the border between the two nearest cells
        (second nearest minus nearest), both (H, W), where a cell is about 1 wide.
    """
    y, x = y * np.float32(count), x * np.float32(count)
    row, column = np.floor(y).astype(np.int32), np.floor(x).astype(np.int32)
    row, column = row - row.min() + 1, column - column.min() + 1
    y, x = y - np.floor(y), x - np.floor(x)
    shape = (2, row.max() + 2, column.max() + 2)
    center_y, center_x = (0.15 + 0.7 * rng.random(shape, dtype=np.float32)).reshape(2, -1)
    index = row * shape[2] + column
    nearest = np.full(y.shape, 9, np.float32)
    second = nearest.copy()
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            near = index + (down * shape[2] + right)
            distance = (center_y[near] + (down - y)) ** 2 + (center_x[near] + (right - x)) ** 2
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    return np.sqrt(nearest), np.sqrt(second) - np.sqrt(nearest)
