"""Pixels of image files, Pillow images and arrays: upright RGB, 8 bits."""

from __future__ import annotations

import io
import threading
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.errors import EgeunetError

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WebP": (".webp",),
}
"""The formats that are read, and their files' suffixes; some of Pillow's others start programs."""

*_most, _last = FORMATS
FORMAT_NAMES = f"{', '.join(_most)} or {_last}"
"""The formats, as messages name them."""

MAX_PIXELS = 200_000_000
"""The largest photo that is decoded: what the largest phone cameras give, 0.6 GB as RGB."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_opening = threading.Lock()


def open_image(file: IO[bytes], name: str) -> Image.Image:
    """Read an image's header; its size is checked by `check_size`, not by Pillow's own limit."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=tuple(FORMATS))
        except Exception as error:
            # The headers of damaged files make the decoders raise errors of a dozen kinds.
            raise EgeunetError(
                f"{name} is not an image that can be read: expected {FORMAT_NAMES}."
            ) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def decode_bytes(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode an image file: RGB, uint8 (H, W, 3), upright."""
    with open_image(io.BytesIO(data), name) as image:
        return np.asarray(to_upright_rgb(image, name))


def to_upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """Decode an image, turn it by its EXIF tag and lay what is transparent on white.

    Raises:
        EgeunetError: It is too large, or damaged.
    """
    check_size(image.width, image.height, name)
    try:
        image.load()
        # What is not as it was opened, somebody may have turned; Pillow keeps the tag all the same.
        turn = _UPRIGHT.get(read_orientation(image)) if image.format else None
        if image.mode.startswith(("I", "F")):
            values = np.asarray(image)
            if image.mode == "I" and values.min() >= 0 and values.max() <= 65535:
                values = values.astype(np.uint16)  # so Pillow gives some files of 16 bits
            image = Image.fromarray(from_array(values, name))
        elif image.has_transparency_data:
            image = _on_white(image)
        elif image.mode != "RGB":
            image = image.convert("RGB")
        return image if turn is None else image.transpose(turn)
    except EgeunetError:
        raise
    except Exception as error:
        # As in `open_image`: what a damaged file raises depends on its format and on the damage.
        raise EgeunetError(f"{name} is damaged or cut short and cannot be decoded.") from error


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; over 4 the sides are swapped."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1  # Broken EXIF data does not spoil the pixels.


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def from_array(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Return a copy of an array as RGB, uint8 (H, W, 3).

    Raises:
        EgeunetError: Its shape, type or range is another than `read_photo` takes.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise EgeunetError(
            f"{name} is an array of shape {array.shape}: expected (height, width), or "
            "(height, width, channels) with 1, 3 or 4 channels."
        )
    check_size(array.shape[1], array.shape[0], name)
    pixels = _to_uint8(array, name)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if pixels.shape[2] == 4:
        return np.asarray(_on_white(Image.fromarray(np.ascontiguousarray(pixels))))
    return np.array(pixels)  # A copy: the caller's array may change while a result keeps this.


def _to_uint8(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.itemsize == 2 and kind == "u":
        if 0 < array.max() <= 255:
            raise EgeunetError(
                f"{name} has values up to {array.max()} in 16 bits, which hold 65535: make them "
                "8 bits (uint8)."
            )
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind == "f":
        low, high = float(array.min()), float(array.max())  # NaN spreads to both
        if not (low >= 0 and high <= 1):
            raise EgeunetError(
                f"{name} has floating-point values from {low:g} to {high:g}: "
                "expected finite values in 0…1, or uint8 in 0…255."
            )
        return np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    raise EgeunetError(
        f"{name} has values of type {array.dtype}: expected uint8, uint16, or float in 0…1."
    )


def check_size(width: int, height: int, name: str) -> None:
    """Refuse a photo without pixels, or with more than `MAX_PIXELS`."""
    if width * height == 0:
        raise EgeunetError(f"{name} has no pixels ({width}×{height}).")
    if width * height > MAX_PIXELS:
        raise EgeunetError(
            f"{name} is too large ({width}×{height} pixels, the limit is "
            f"{MAX_PIXELS // 1_000_000} megapixels): scale it down first."
        )
