"""Preprocessing of images and upsampling of probabilities, as every runtime does it.

The trainer, the exported graphs and the browser page are tested against these functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.engine.library import load_engine
from egeunet.engine.model import prepare
from egeunet.engine.model import resize as engine_resize

SIZE = 256
_ROWS = 4096  # of a mask that are computed at a time
_VALUES = 16_000_000  # probabilities of several classes that are computed at a time
NAME = "rgb-bilinear-minmax255"
"""Name of this preprocessing in the metadata of exported weights."""


def resize(image: NDArray[np.uint8], size: tuple[int, int] = (SIZE, SIZE)) -> NDArray[np.uint8]:
    """Resize an image bilinearly, with antialiasing when it shrinks.

    Args:
        image: RGB, uint8 (H, W, 3).
        size: Target height and width.

    Returns:
        RGB, uint8 (h, w, 3).
    """
    return np.asarray(_resize(image, size))


def _resize(image: NDArray[np.uint8] | Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def min_max_normalize(images: NDArray[Any]) -> NDArray[np.float32]:
    """Scale each image so that its darkest value is 0 and its brightest 255.

    Args:
        images: One image (h, w, 3) or several (..., h, w, 3), uint8 or float; the order of the
            last three axes does not matter.

    Returns:
        float32 of the same shape in 0…255: (x - min) / (max - min) · 255 with one minimum and one
        maximum over all pixels and channels of an image. A constant image gives zeros.
    """
    low = images.min(axis=(-3, -2, -1), keepdims=True).astype(np.float32)
    high = images.max(axis=(-3, -2, -1), keepdims=True).astype(np.float32)
    span = np.where(high > low, high - low, np.float32(1))
    scaled = images.astype(np.float32)
    scaled -= low  # in place: a new array for each step takes eight times as long
    scaled /= span
    scaled *= np.float32(255)
    return scaled


def to_input(
    image: NDArray[np.uint8] | Image.Image, size: tuple[int, int] = (SIZE, SIZE)
) -> NDArray[np.float32]:
    """Preprocess an image for the network: resized, normalized, channels first.

    Args:
        image: RGB, uint8 (H, W, 3), or an RGB Pillow image.
        size: Height and width of the network's input.

    Returns:
        float32 (3, h, w) in 0…255.
    """
    if isinstance(image, np.ndarray) and load_engine() is not None:
        return prepare(image, size)
    # Pillow takes the channels apart in less than half of numpy's time.
    planes = np.stack([np.asarray(plane) for plane in _resize(image, size).split()])
    return min_max_normalize(planes)


def upsample(probability: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a probability map to the image's size, bilinearly.

    Args:
        probability: float32 (h, w) in 0…1.
        size: Height and width of the image.

    Returns:
        float32 (H, W) in 0…1.
    """
    height, width = size
    if probability.shape == (height, width):
        return probability
    if load_engine() is not None:  # the same numbers in a quarter of the time
        return engine_resize(np.asarray(probability, np.float32), size)
    image = Image.fromarray(np.ascontiguousarray(probability, dtype=np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def upsample_mask(
    probability: NDArray[np.float32], size: tuple[int, int], threshold: float
) -> NDArray[np.bool_]:
    """Compute `upsample(probability, size) >= threshold` without the probability of each pixel.

    Along a row of the image, the probability is linear between the centres of two columns of the
    map, so the mask changes where it crosses the threshold. Both agree except for pixels whose
    probability equals the threshold up to rounding.

    Args:
        probability: float32 (h, w) in 0…1.
        size: Height and width of the image.
        threshold: Pixels with this probability or more are in the mask.

    Returns:
        bool (H, W).
    """
    height, width = size
    rows, columns = probability.shape
    if height <= rows or width <= columns:  # shrinking averages, and small images need no haste
        return upsample(probability, size) >= np.float32(threshold)
    # The outermost values reach to the rim.
    padded = np.pad(probability.astype(np.float64), ((0, 0), (1, 1)), "edge")
    flips = np.zeros((height, width), np.uint8)
    for top in range(0, height, _ROWS):
        knots = _stretch(padded, height, top, min(top + _ROWS, height)) - threshold
        _mark_crossings(knots, flips[top:])
    return np.bitwise_xor.accumulate(flips, axis=1, out=flips).view(np.bool_)


def upsample_classes(scores: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the most probable class of each pixel, without all probabilities at once.

    Args:
        scores: Probability of each class, float32 (K, h, w) in 0…1.
        size: Height and width of the image.

    Returns:
        uint8 (H, W).
    """
    (height, width), planes = size, [Image.fromarray(np.ascontiguousarray(one)) for one in scores]
    found = np.empty(size, np.uint8)
    rows = max(1, _VALUES // (width * len(planes)))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        box = (
            0,
            top * scores.shape[1] / height,
            scores.shape[2],
            bottom * scores.shape[1] / height,
        )
        shape = (width, bottom - top)
        band = [np.asarray(one.resize(shape, Image.Resampling.BILINEAR, box)) for one in planes]
        found[top:bottom] = np.argmax(band, axis=0)
    return found


def _mark_crossings(knots: NDArray[np.float64], flips: NDArray[np.uint8]) -> None:
    """Mark in each row of `flips` (h, W) where a row of `knots` (h, w + 2) changes its sign."""
    width, columns = flips.shape[1], knots.shape[1] - 2
    inside = knots >= 0
    at, left = np.nonzero(inside[:, 1:] != inside[:, :-1])
    before, after = knots[at, left], knots[at, left + 1]
    crossing = (left - 0.5 + before / (before - after)) * width / columns - 0.5
    # A pixel whose centre is the crossing itself has the threshold's probability: it is inside.
    first = np.where(after >= 0, np.ceil(crossing), np.floor(crossing) + 1)
    kept = first < width
    np.bitwise_xor.at(flips, (at[kept], first[kept].clip(0).astype(np.intp)), 1)
    flips[: len(knots), 0] ^= inside[:, 0]


def _stretch(
    values: NDArray[np.float64], length: int, first: int, last: int
) -> NDArray[np.float64]:
    """Return rows `first` to `last` of (h, w) interpolated to (length, w), pixel centres kept."""
    position = (np.arange(first, last) + 0.5) * len(values) / length - 0.5
    position = position.clip(0, len(values) - 1)
    low = np.minimum(position.astype(np.intp), len(values) - 2) if len(values) > 1 else 0
    weight = (position - low)[:, None]
    return values[low] * (1 - weight) + values[np.minimum(low + 1, len(values) - 1)] * weight
