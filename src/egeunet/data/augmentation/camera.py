"""What light and camera do to a photo: RGB bytes (H, W, 3) in, the same out."""

from __future__ import annotations

import io
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from egeunet.data.synthetic.noise import Float, grid

Pixels: TypeAlias = NDArray[np.uint8]

# The worst that is drawn for training, about the third of ImageNet-C's five strengths.
_RADIUS, _SIGMA, _QUALITY = 3.0, 0.18, 15


def side_light(rng: np.random.Generator, photo: Pixels, shade: float) -> Pixels:
    """Light a photo from one side, so that the other lacks the share `shade` of its light.

    Were the light weaker everywhere, the scaling before the network would take that away.
    """
    y, x = grid((photo.shape[0], photo.shape[1]))
    direction = rng.uniform(0, 2 * np.pi)
    along = y * np.float32(np.sin(direction)) + x * np.float32(np.cos(direction))
    share = (along - along.min()) / np.ptp(along)
    return to_bytes(to_floats(photo) * (1 - np.float32(shade) * share)[..., None])


def blur(photo: Pixels, radius: float) -> Pixels:
    """Put a photo out of focus: a Gaussian of so many pixels."""
    return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(radius)))


def grain(rng: np.random.Generator, photo: Pixels, sigma: float) -> Pixels:
    """Add noise of the deviation `sigma`, where white is 1."""
    noise = rng.standard_normal(photo.shape, dtype=np.float32)
    return to_bytes(to_floats(photo) + noise * np.float32(sigma))


def compress(photo: Pixels, quality: int) -> Pixels:
    """Write and read a photo as JPEG of a quality from 1 to 95."""
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def disturb(rng: np.random.Generator, photo: Pixels, light: float, camera: float) -> Pixels:
    """Return a photo as worse light and a worse camera might have taken it.

    Args:
        rng: Decides what happens.
        photo: RGB (H, W, 3).
        light: The largest share of light that one side lacks.
        camera: Probability of one of blur, grain and compression.
    """
    if light:
        photo = side_light(rng, photo, rng.uniform(0, light))
    if rng.random() < camera:
        kind, strength = rng.integers(3), rng.random()
        if kind == 0:
            photo = blur(photo, strength * _RADIUS)
        elif kind == 1:
            photo = grain(rng, photo, strength * _SIGMA)
        else:
            photo = compress(photo, round(95 - strength * (95 - _QUALITY)))
    return photo


def to_floats(photo: Pixels) -> Float:
    """Bring bytes to 0…1."""
    return photo.astype(np.float32) / np.float32(255)


def to_bytes(image: Float) -> Pixels:
    """Bring 0…1 to bytes; what lies beyond is clipped."""
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)
