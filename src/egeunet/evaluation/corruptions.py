"""Image corruptions at five severities, after Hendrycks & Dietterich (ICLR 2019).

Severities of blur, noise and JPEG are those of ImageNet-C. Images are corrupted at the input size
of the model, before they are normalised. The random draw depends on the seed, the kind and the id
of the image alone, so a higher severity is the same corruption, stronger.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from PIL import Image

from egeunet.data.augmentation.artifacts import (
    Pixels,
    gaussian_blur,
    gaussian_noise,
    jpeg_compression,
    ruler,
    synthetic_hair,
    to_bytes,
    to_floats,
    uneven_illumination,
)
from egeunet.data.cache import Arrays

Corruption: TypeAlias = Callable[[np.random.Generator, Pixels, int], Pixels]

SEVERITIES = (1, 2, 3, 4, 5)
_TUFTS = (1, 2, 4, 8, 16)
_HAIRS = 5  # per tuft, of about one colour and direction
_RADIUS = (1, 2, 3, 4, 6)  # of the blur, in pixels
_SIGMA = (0.08, 0.12, 0.18, 0.26, 0.38)  # of the noise, for intensities 0…1
_QUALITY = (25, 18, 15, 10, 7)
_SHADE = (0.2, 0.35, 0.5, 0.65, 0.8)  # loss of light on the darkest side
_GAIN = (0.05, 0.1, 0.2, 0.3, 0.4)  # of a colour channel, natural logarithm
_DEGREES = (9, 18, 27, 36, 45)
_MARGIN = 0.25  # least mirrored border of an image that is rotated, of its side


def corrupt(arrays: Arrays, kind: str, severity: int, seed: int = 0) -> Arrays:
    """Corrupt every image; "rotation" also rotates the masks.

    Args:
        arrays: The samples.
        kind: A name in `KINDS`.
        severity: 1…5.
        seed: Seed of the random draws.
    """
    images, masks = np.empty_like(arrays.images), arrays.masks
    if kind == ROTATION:
        masks = np.empty_like(arrays.masks)
    for index, name in enumerate(arrays.ids):
        rng = np.random.default_rng((seed, zlib.crc32(f"{kind} {name}".encode())))
        image = np.asarray(arrays.images[index])
        if kind == ROTATION:
            angle = _DEGREES[severity - 1] * (1 if rng.random() < 0.5 else -1)
            images[index] = rotate(image, angle, Image.Resampling.BILINEAR)
            masks[index] = rotate(arrays.masks[index], angle, Image.Resampling.NEAREST)
        else:
            images[index] = CORRUPTIONS[kind](rng, image, severity)
    return replace(arrays, images=images, masks=masks)


def rotate(pixels: Pixels, angle: float, resampling: Image.Resampling) -> Pixels:
    """Rotate (H, W) or (H, W, 3) by degrees; the border is mirrored."""
    sides = pixels.shape[:2]
    reach = math.hypot(*sides) / 2  # of a corner from the centre
    high, wide = (max(int(_MARGIN * side), math.ceil(reach - side / 2)) for side in sides)
    margins = [(high, high), (wide, wide), (0, 0)][: pixels.ndim]
    larger = Image.fromarray(np.pad(pixels, margins, "reflect"))
    return np.asarray(larger.rotate(angle, resampling))[high:-high, wide:-wide]


def _hair(rng: np.random.Generator, image: Pixels, severity: int) -> Pixels:
    drawn = to_floats(image)
    for _ in range(_TUFTS[severity - 1]):
        drawn = synthetic_hair(rng, drawn, _HAIRS)
    return to_bytes(drawn)


def _ruler(rng: np.random.Generator, image: Pixels, severity: int) -> Pixels:
    drawn = to_floats(image)
    for _ in range(severity):
        drawn = ruler(rng, drawn)
    return to_bytes(drawn)


def _colour(rng: np.random.Generator, image: Pixels, severity: int) -> Pixels:
    """Another white balance of the same brightness."""
    shift = rng.normal(size=3)
    shift -= shift.mean()
    gain = np.exp(_GAIN[severity - 1] * shift / np.abs(shift).max())
    return to_bytes(to_floats(image) * gain.astype(np.float32))


ROTATION = "rotation"
CORRUPTIONS: dict[str, Corruption] = {
    "hair": _hair,
    "rulers": _ruler,
    "blur": lambda _, image, severity: gaussian_blur(image, _RADIUS[severity - 1]),
    "noise": lambda rng, image, severity: gaussian_noise(rng, image, _SIGMA[severity - 1]),
    "JPEG": lambda _, image, severity: jpeg_compression(image, _QUALITY[severity - 1]),
    "light": lambda rng, image, severity: uneven_illumination(rng, image, _SHADE[severity - 1]),
    "colour": _colour,
}
KINDS = (*CORRUPTIONS, ROTATION)
LABELS = {"hair": "synthetic hair", "light": "uneven illumination", "colour": "white balance"}
"""Names of kinds in tables, where they differ."""
