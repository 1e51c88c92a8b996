"""Pixels of Pillow images and arrays as upright RGB of 8 bits, within limits of size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.errors import EgeunetError, ImageTooLargeError

MAX_PIXELS = 200_000_000
"""Pixels of an image; the largest phone cameras have as many."""
MAX_SIDE = 65_500
"""Pixels of a side, the maximum of JPEG."""
DAMAGED = "is damaged or cut short and cannot be decoded."
_BAND = 1_000_000  # pixels that are converted at a time


def check_size(width: int, height: int, name: str) -> None:
    """Refuse an image without pixels, or with more than `MAX_PIXELS` or `MAX_SIDE`."""
    if width * height == 0:
        raise EgeunetError(f"{name} has no pixels ({width}×{height}).")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageTooLargeError(
            f"{name} is too large ({width}×{height} pixels, the limit is "
            f"{MAX_PIXELS // 1_000_000} megapixels and {MAX_SIDE} pixels a side): scale it down."
        )


@contextmanager
def one_sentence(name: str, otherwise: str | None = None) -> Iterator[None]:
    """Turn any exception into an `EgeunetError`: the errors of decoders and stores are countless.

    Args:
        name: Name of the image.
        otherwise: What follows the name, unless memory ran out; None: the error's own reason.
    """
    try:
        yield
    except EgeunetError:
        raise
    except MemoryError as error:
        raise ImageTooLargeError(
            f"{name} needs more memory than there is: scale it down."
        ) from error
    except Exception as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise EgeunetError(f"{name} {otherwise or f'cannot be read: {reason}.'}") from error


def to_rgb(image: Image.Image, turn: int, name: str) -> NDArray[np.uint8]:
    """Decode an image, composite it on white and turn it upright: uint8 (H, W, 3)."""
    with one_sentence(name, DAMAGED):
        image.load()
        if image.mode.startswith(("I", "F")):
            arrays = (np.asarray(band) for band in _bands(image))
            extremes = [(values.min(), values.max()) for values in arrays]
            low, high = np.min(extremes), np.max(extremes)  # to which NaN spreads
            kind = np.asarray(image.crop((0, 0, 1, 1))).dtype
            if image.mode == "I" and low >= 0 and high <= 65535:
                kind = np.dtype(np.uint16)  # Pillow opens some 16-bit files in this mode
            _check_values(kind, low, high, name)
            parts = (_to_uint8(np.asarray(band).astype(kind)) for band in _bands(image))
        else:
            convert = _on_white if image.has_transparency_data else _convert
            parts = (np.asarray(convert(band)) for band in _bands(image))
        return _assemble(parts, image.height, image.width, turn)


def _bands(image: Image.Image) -> Iterator[Image.Image]:
    """Yield an image a few rows at a time, to convert it in little memory."""
    rows = max(1, _BAND // image.width)
    if rows >= image.height:
        yield image
        return
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _assemble(
    bands: Iterable[NDArray[np.uint8]], height: int, width: int, turn: int
) -> NDArray[np.uint8]:
    """Assemble bands, (h, W) or (h, W, C), to an RGB image, turned upright by its orientation."""
    upright = np.empty((width, height, 3) if turn > 4 else (height, width, 3), np.uint8)
    stored = upright.swapaxes(0, 1) if turn > 4 else upright
    if turn in (3, 4, 6, 7):
        stored = stored[::-1]
    if turn in (2, 3, 7, 8):
        stored = stored[:, ::-1]
    top = 0
    for band in bands:
        stored[top : top + len(band)] = band if band.ndim == 3 else band[..., None]
        top += len(band)
    return upright


def _convert(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def array_to_rgb(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Return a copy of an array as RGB, uint8 (H, W, 3): the caller's own may change."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise EgeunetError(
            f"{name} is an array of shape {array.shape}: expected (height, width), or "
            "(height, width, channels) with 1, 3 or 4 channels."
        )
    height, width = array.shape[:2]
    check_size(width, height, name)
    low, high = (array.min(), array.max()) if array.dtype.kind in "uf" else (0, 0)
    _check_values(array.dtype, low, high, name)
    rows = max(1, _BAND // width)
    bands = (_to_uint8(array[top : top + rows]) for top in range(0, height, rows))
    if array.ndim == 3 and array.shape[2] == 4:
        images = (Image.fromarray(np.ascontiguousarray(band)) for band in bands)
        bands = (np.asarray(_on_white(image)) for image in images)
    return _assemble(bands, height, width, 1)


def _check_values(dtype: np.dtype[Any], low: Any, high: Any, name: str) -> None:
    """Refuse values of a type or range that stands for no brightness."""
    if dtype == np.uint8 or dtype.kind == "b":
        return
    if dtype.itemsize == 2 and dtype.kind == "u":
        if 0 < high <= 255:
            raise EgeunetError(
                f"{name} has values up to {high} in 16 bits, which hold 65535: make them "
                "8 bits (uint8)."
            )
    elif dtype.kind == "f":
        if not (low >= 0 and high <= 1):
            raise EgeunetError(
                f"{name} has floating-point values from {low:g} to {high:g}: "
                "expected finite values in 0…1, or uint8 in 0…255."
            )
    else:
        raise EgeunetError(
            f"{name} has values of type {dtype}: expected uint8, uint16, or float in 0…1."
        )


def _to_uint8(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "f":
        return np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    if values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values.astype(np.uint8, copy=False)
