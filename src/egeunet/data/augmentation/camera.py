"""Uneven illumination, blur, noise and compression: RGB uint8 (H, W, 3) to the same."""

from __future__ import annotations

import io
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from egeunet.data.synthetic.noise import Float, grid

Pixels: TypeAlias = NDArray[np.uint8]

# The strongest degradation in training, about the third of ImageNet-C's five severities.
MAX_BLUR_RADIUS, MAX_NOISE_SIGMA, MIN_JPEG_QUALITY = 3.0, 0.18, 15


def uneven_illumination(rng: np.random.Generator, image: Pixels, shade: float) -> Pixels:
    """Darken an image linearly in a random direction, by the fraction `shade` at the far side.

    A uniform change of brightness would be undone by the min–max normalization.
    """
    y, x = grid((image.shape[0], image.shape[1]))
    direction = rng.uniform(0, 2 * np.pi)
    along = y * np.float32(np.sin(direction)) + x * np.float32(np.cos(direction))
    fraction = (along - along.min()) / np.ptp(along)
    return to_bytes(to_floats(image) * (1 - np.float32(shade) * fraction)[..., None])


def gaussian_blur(image: Pixels, radius: float) -> Pixels:
    """Blur an image; `radius` is the standard deviation in pixels."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def gaussian_noise(rng: np.random.Generator, image: Pixels, sigma: float) -> Pixels:
    """Add noise of the standard deviation `sigma`, where white is 1."""
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return to_bytes(to_floats(image) + noise * np.float32(sigma))


def jpeg_compression(image: Pixels, quality: int) -> Pixels:
    """Encode and decode an image as JPEG of a quality from 1 to 95."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def degrade(rng: np.random.Generator, image: Pixels, light: float, camera: float) -> Pixels:
    """Return an image as poor illumination and a poor camera might have taken it.

    Args:
        rng: Source of randomness.
        image: RGB uint8 (H, W, 3).
        light: Largest fraction of light that the darkest side lacks.
        camera: Probability of one of blur, noise and compression.
    """
    if light:
        image = uneven_illumination(rng, image, rng.uniform(0, light))
    if rng.random() < camera:
        kind, strength = rng.integers(3), rng.random()
        if kind == 0:
            image = gaussian_blur(image, strength * MAX_BLUR_RADIUS)
        elif kind == 1:
            image = gaussian_noise(rng, image, strength * MAX_NOISE_SIGMA)
        else:
            quality = round(95 - strength * (95 - MIN_JPEG_QUALITY))
            image = jpeg_compression(image, quality)
    return image


def to_floats(image: Pixels) -> Float:
    """Scale bytes to 0…1."""
    return image.astype(np.float32) / np.float32(255)


def to_bytes(image: Float) -> Pixels:
    """Scale 0…1 to bytes, clipping what is outside."""
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)
