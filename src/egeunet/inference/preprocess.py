"""Preprocessing of images and upsampling of probabilities, as every runtime does it.

The trainer, the exported graphs and the browser page are tested against these functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.engine.library import load_engine
from egeunet.engine.model import prepare, resize_mask
from egeunet.engine.model import resize as engine_resize

SIZE = 256
_VALUES = 16_000_000  # probabilities that are computed at a time
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
    """Compute `upsample(probability, size) >= threshold`, without that map at once.

    Args:
        probability: float32 (h, w) in 0…1.
        size: Height and width of the image.
        threshold: Pixels with this probability or more are in the mask.

    Returns:
        bool (H, W).
    """
    if load_engine() is not None:
        return resize_mask(np.asarray(probability, np.float32), size, threshold)
    mask = np.empty(size, np.bool_)
    for rows, (band,) in _bands(probability[None], size):
        np.greater_equal(band, np.float32(threshold), out=mask[rows])
    return mask


def upsample_classes(scores: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the most probable class of each pixel, without all probabilities at once.

    Args:
        scores: Probability of each class, float32 (K, h, w) in 0…1.
        size: Height and width of the image.

    Returns:
        uint8 (H, W).
    """
    classes = np.empty(size, np.uint8)
    for rows, band in _bands(scores, size):
        classes[rows] = np.argmax(band, axis=0)
    return classes


def _bands(
    scores: NDArray[np.float32], size: tuple[int, int]
) -> Iterator[tuple[slice, list[NDArray[np.float32]]]]:
    """Upsample maps (K, h, w) to (K, H, W), and yield some rows at a time of all of them."""
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in scores]
    height, width = size
    step = max(1, _VALUES // (width * len(planes)))
    scale = scores.shape[1] / height
    for top in range(0, height, step):
        bottom = min(top + step, height)
        box = (0, top * scale, scores.shape[2], bottom * scale)
        yield (
            slice(top, bottom),
            [
                np.asarray(plane.resize((width, bottom - top), Image.Resampling.BILINEAR, box))
                for plane in planes
            ],
        )
