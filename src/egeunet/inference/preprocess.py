"""What happens to a photo before the network and to its probability afterwards, defined once.

The trainer, the exported graphs and the browser page are tested against these functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 256
_ROWS = 4096  # of a mask that are computed at a time
_VALUES = 16_000_000  # probabilities of several classes that are computed at a time
NAME = "rgb-bilinear-minmax255"
"""What exported weights call this preprocessing in their metadata."""


def resize(photo: NDArray[np.uint8], size: tuple[int, int] = (SIZE, SIZE)) -> NDArray[np.uint8]:
    """Resize a photo, averaging over the pixels that fall together when it shrinks.

    Args:
        photo: RGB, uint8 (H, W, 3).
        size: Height and width wanted.

    Returns:
        RGB, uint8 (h, w, 3).
    """
    return np.asarray(_resize(photo, size))


def _resize(photo: NDArray[np.uint8] | Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    image = photo if isinstance(photo, Image.Image) else Image.fromarray(photo)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def scale(image: NDArray[Any]) -> NDArray[np.float32]:
    """Stretch each image so that its darkest value is 0 and its brightest 255.

    Args:
        image: One image (h, w, 3) or several (..., h, w, 3), uint8 or float; the order of the
            three axes does not matter.

    Returns:
        float32 of the same shape in 0…255: (x - min) / (max - min) · 255 with one minimum and one
        maximum over all pixels and channels of an image. A constant image gives zeros.
    """
    low = image.min(axis=(-3, -2, -1), keepdims=True).astype(np.float32)
    high = image.max(axis=(-3, -2, -1), keepdims=True).astype(np.float32)
    span = np.where(high > low, high - low, np.float32(1))
    scaled = image.astype(np.float32)
    scaled -= low  # in place: a new array for each step takes eight times as long
    scaled /= span
    scaled *= np.float32(255)
    return scaled


def to_input(
    photo: NDArray[np.uint8] | Image.Image, size: tuple[int, int] = (SIZE, SIZE)
) -> NDArray[np.float32]:
    """Make of a photo what the network takes: resized, scaled, channels first.

    Args:
        photo: RGB, uint8 (H, W, 3), or an RGB image.
        size: Height and width of the network's input.

    Returns:
        float32 (3, h, w) in 0…255.
    """
    # Pillow takes the channels apart in less than half of numpy's time.
    planes = np.stack([np.asarray(plane) for plane in _resize(photo, size).split()])
    return scale(planes)  # which takes its three last axes in any order


def restore(probability: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bring a probability map back to the photo's size, bilinearly.

    Args:
        probability: float32 (h, w) in 0…1.
        size: Height and width of the photo.

    Returns:
        float32 (H, W) in 0…1.
    """
    height, width = size
    if probability.shape == (height, width):
        return probability
    image = Image.fromarray(np.ascontiguousarray(probability, dtype=np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def restore_mask(
    probability: NDArray[np.float32], size: tuple[int, int], threshold: float
) -> NDArray[np.bool_]:
    """Give `restore(probability, size) >= threshold` without the probabilities of each pixel.

    Along a row of the photo, the probability is linear between the centres of two columns of the
    map: the mask is what lies between the places where it crosses the threshold. They agree but for
    pixels whose probability is the threshold up to rounding.

    Args:
        probability: float32 (h, w) in 0…1.
        size: Height and width of the photo.
        threshold: Of the mask.

    Returns:
        bool (H, W).
    """
    height, width = size
    rows, columns = probability.shape
    if height <= rows or width <= columns:  # shrinking averages, and small images need no haste
        return restore(probability, size) >= np.float32(threshold)
    # The outermost values reach to the rim.
    padded = np.pad(probability.astype(np.float64), ((0, 0), (1, 1)), "edge")
    flips = np.zeros((height, width), np.uint8)
    for top in range(0, height, _ROWS):
        knots = _stretch(padded, height, top, min(top + _ROWS, height)) - threshold
        _mark_crossings(knots, flips[top:])
    return np.bitwise_xor.accumulate(flips, axis=1, out=flips).view(np.bool_)


def restore_classes(scores: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
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
