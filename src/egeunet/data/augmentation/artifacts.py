"""Artifacts of dermoscopy images: hair, rulers, uneven light, blur, noise and compression."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Float: TypeAlias = NDArray[np.float32]
Pixels: TypeAlias = NDArray[np.uint8]

# The strongest degradation in training, about the third of ImageNet-C's five severities.
MAX_BLUR_RADIUS, MAX_NOISE_SIGMA, MIN_JPEG_QUALITY = 3.0, 0.18, 15
_OVERSAMPLING = 2  # of lines
_HAIR_COLORS = ((28, 20, 18), (52, 34, 24), (84, 56, 36), (190, 160, 115), (225, 220, 210))


def uneven_illumination(rng: np.random.Generator, image: Pixels, shade: float) -> Pixels:
    """Darken an image linearly in a random direction, by the fraction `shade` at the far side.

    A uniform change of brightness would be undone by the min–max normalization.
    """
    short = min(image.shape[:2])
    y, x = (
        ((np.arange(side, dtype=np.float32) - (side - 1) / 2) / short).astype(np.float32)
        for side in image.shape[:2]
    )
    direction = rng.uniform(0, 2 * np.pi)
    along = y[:, None] * np.float32(np.sin(direction)) + x * np.float32(np.cos(direction))
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


def synthetic_hair(rng: np.random.Generator, image: Float, count: int | None = None) -> Float:
    """Draw hairs over an image (H, W, 3) in 0…1, about a dozen by default."""
    extent = np.array(image.shape[1::-1]) / min(image.shape[:2])
    grain = rng.uniform(0, 2 * np.pi)  # hair grows in one direction, more or less
    spread = rng.uniform(0.2, 1.2)
    thickness = rng.uniform(0.003, 0.0085)
    lines = []
    for _ in range(rng.geometric(0.08) if count is None else count):
        angle = grain + rng.normal(0, spread)
        length = rng.uniform(0.25, 1.3)
        bend = rng.normal(0, 0.9, 2)
        t = np.linspace(0, 1, 15)
        heading = angle + bend[0] * t + bend[1] * t**3
        steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * (length / len(t))
        points = rng.uniform(-0.1, 1.1, 2) * extent + np.cumsum(steps, axis=0) - steps.sum(0) / 2
        width = thickness * rng.uniform(0.6, 1.3)
        strength = int(rng.uniform(150, 255))
        for start in range(0, 14, 2):  # thinner towards the tip
            lines.append((points[start : start + 3], width * (1 - 0.65 * t[start]), strength))
    dark = rng.random() < 0.8
    color = _HAIR_COLORS[rng.integers(0, 3) if dark else rng.integers(3, 5)]
    alpha = _draw_lines(image.shape, lines)
    shadow = np.roll(alpha, (1, 1), (0, 1)) * np.float32(0.18)
    image = image * (1 - shadow[..., None])
    paint = np.array(color, np.float32) / np.float32(255)
    return _blend(image, paint, alpha * np.float32(rng.uniform(0.7, 0.95)))


def ruler(rng: np.random.Generator, image: Float) -> Float:
    """Draw a ruler along one side of an image (H, W, 3) in 0…1, each 5th or 10th tick longer."""
    width, height = np.array(image.shape[1::-1]) / min(image.shape[:2])
    side = rng.integers(4)
    along, across = (width, height) if side < 2 else (height, width)
    spacing, long = rng.uniform(0.018, 0.045), rng.choice((5, 10))
    reach, thickness = rng.uniform(0.02, 0.04), rng.uniform(0.003, 0.006)
    depth, tilt = rng.uniform(0.01, 0.1), rng.normal(0, 0.03)
    places = np.arange(int(along / spacing) + 1) * spacing
    starts = np.stack([places, depth + tilt * places], axis=1)
    lengths = np.where(np.arange(len(places)) % long, reach, 1.9 * reach)
    lines = [
        np.array([start, start + np.array([0, length])])
        for start, length in zip(starts, lengths, strict=True)
    ]
    if rng.random() < 0.5:
        lines.append(starts[[0, -1]])
    if side % 2:
        for line in lines:
            line[:, 1] = across - line[:, 1]
    # From (along, across) to (x, y) of the chosen side.
    turned = [(line if side < 2 else line[:, ::-1], thickness, 255) for line in lines]
    alpha = _draw_lines(image.shape, turned) * np.float32(rng.uniform(0.6, 0.9))
    return _blend(image, np.float32(0.08), alpha)


def to_floats(image: Pixels) -> Float:
    """Scale bytes to 0…1."""
    return image.astype(np.float32) / np.float32(255)


def to_bytes(image: Float) -> Pixels:
    """Scale 0…1 to bytes, clipping what is outside."""
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _draw_lines(
    size: tuple[int, ...], lines: Iterable[tuple[NDArray[np.floating], float, int]]
) -> Float:
    """Draw lines of (points, width, strength up to 255); return their opacity (H, W) in 0…1.

    Points (x, y) and widths are in units of the short side.
    """
    height, width = (side * _OVERSAMPLING for side in size[:2])
    unit = min(height, width)
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    for points, thickness, strength in lines:
        flat = [tuple(point) for point in points * unit]
        pen.line(flat, strength, max(round(thickness * unit), 1), joint="curve")
    return np.asarray(image.reduce(_OVERSAMPLING), dtype=np.float32) / np.float32(255)


def _blend(image: Float, color: Float | np.float32, alpha: Float) -> Float:
    return image + (color - image) * alpha[..., None]
