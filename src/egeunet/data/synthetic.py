"""Synthetic dermoscopy images with exact masks, to try things out.

A lesion with an irregular outline absorbs light on skin of any tone; hair, rulers, uneven light and
noise go over it. No real image is used, and scores on these images say nothing about real ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.data.augmentation.artifacts import (
    Float,
    degrade,
    gaussian_noise,
    ruler,
    synthetic_hair,
    to_bytes,
)
from egeunet.data.masks import write_mask
from egeunet.errors import UsageError
from egeunet.progress import track

CLASSES = ("background", "lesion", "dark structure")
_LIGHTEST, _DARKEST = np.array([[252, 220, 202], [72, 46, 36]], np.float32) / 255  # skin
# Absorption of red, green and blue.
_MELANIN, _BLOOD = np.array([[0.45, 0.95, 1.5], [0.1, 1.0, 0.85]], np.float32)


def draw(
    seed: int | Sequence[int], size: tuple[int, int] = (256, 256), num_classes: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one image and its mask.

    Args:
        seed: The same seed and size give the same image.
        size: Height and width in pixels, at least 16.
        num_classes: 1: the lesion; 3: background, lesion, dark structure within it.

    Returns:
        The image, RGB uint8 (H, W, 3), and its mask, uint8 (H, W): 0 and 1, or class indices. The
        mask is the shape of the lesion, also below artifacts; it is never empty and never full.

    Raises:
        UsageError: If the size is too small or the number of classes is not 1 or 3.
    """
    if num_classes not in (1, len(CLASSES)):
        raise UsageError(f"Synthetic images have 1 or {len(CLASSES)} classes, not {num_classes}.")
    if min(size) < 16:
        raise UsageError(
            f"{size[1]}×{size[0]} is too small for a synthetic image: expected 16×16 or more."
        )
    rng = np.random.default_rng(seed)
    depth = _depth(rng, size)
    inside = depth > 0
    center = depth + 0.25 * _noise(rng, size, 5)
    border = np.quantile(center[inside], rng.uniform(0.6, 0.85))
    dark = inside & (center > border)

    skin = _LIGHTEST + (_DARKEST - _LIGHTEST) * np.float32(rng.uniform(0, 1) ** 1.5)
    melanin = 0.06 * _noise(rng, size, 7) + 0.03 * _noise(rng, size, 40)
    edge = rng.uniform(0.03, 0.15)
    lesion = _sigmoid(depth / edge) * (
        1 + 0.25 * _noise(rng, size, 8) + 0.1 * _noise(rng, size, 25)
    )
    red = rng.uniform(0, 1) ** 2
    melanin += (1.2 - red) * rng.uniform(0.4, 1) * lesion
    melanin += rng.uniform(0.3, 0.9) * _sigmoid((center - border) / 0.05) * inside
    blood = 0.7 * red * lesion + 0.02 * _noise(rng, size, 6)
    density = melanin[..., None] * _MELANIN + blood[..., None] * _BLOOD
    image = skin * np.exp(-np.clip(density, 0, 4))
    if rng.random() < 0.6:
        image = synthetic_hair(rng, image)
    if rng.random() < 0.25:
        image = ruler(rng, image)
    pixels = degrade(rng, to_bytes(image), light=0.3, camera=0)
    pixels = gaussian_noise(rng, pixels, rng.uniform(0.004, 0.014))
    return pixels, inside.astype(np.uint8) + (dark & (num_classes > 1))


def write_dataset(
    folder: str | Path,
    count: int,
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
    num_classes: int = 1,
) -> Path:
    """Write a dataset of `images/*.jpg` and `masks/*.png`, all of it or nothing.

    Args:
        folder: A new or empty folder.
        count: Number of image–mask pairs.
        size: Height and width in pixels.
        seed: Seed; image i is the same for any count.
        num_classes: 1 or 3, see `draw`; masks of 3 classes have a palette.

    Returns:
        The folder.

    Raises:
        UsageError: If the folder is not empty, or an argument is out of range.
    """
    folder = Path(folder)
    if count < 1:
        raise UsageError(f"Expected at least 1 image, not {count}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty. Name a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as building:
        whole = Path(building) / "whole"  # with the usual permissions, unlike a temporary folder
        for name in ("images", "masks"):
            (whole / name).mkdir(parents=True)
        for index in track(range(count), "drawing images"):
            image, mask = draw((seed, index), size, num_classes)
            name = f"synthetic_{index:05d}"
            Image.fromarray(image).save(whole / "images" / f"{name}.jpg", quality=92)
            write_mask(whole / "masks" / f"{name}.png", mask, num_classes)
        if folder.is_dir():
            folder.rmdir()
        whole.rename(folder)
    return folder


def _depth(rng: np.random.Generator, size: tuple[int, int]) -> Float:
    """Return how deep inside an irregular outline each pixel is, (H, W): 1 at the center."""
    (y, x), (up, left) = (
        (np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in size),
        rng.normal(0, 0.06, 2),
    )
    y, x = y[:, None] - np.float32(up), x - np.float32(left)
    angle, radius = np.arctan2(y, x), rng.uniform(0.14, 0.38)
    waves = [
        rng.normal(0, 0.12) / order * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
        for order in (1, 2, 3, 4, 7)
    ]
    return (1 - np.hypot(y, x) / (radius * np.exp(sum(waves)))).astype(np.float32)


def _noise(rng: np.random.Generator, size: tuple[int, int], waves: int) -> Float:
    """Return smooth noise (H, W) of about unit variance with `waves` bumps along each side."""
    knots = Image.fromarray(rng.standard_normal((waves, waves), dtype=np.float32))
    return np.asarray(knots.resize(size[::-1], Image.Resampling.BICUBIC)) * np.float32(1.35)


def _sigmoid(value: Float) -> Float:
    return (1 / (1 + np.exp(-np.clip(value, -30, 30)))).astype(np.float32)
