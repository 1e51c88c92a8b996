"""What a photo may be: a file, a URL, bytes, an open file, a Pillow image, an array."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.errors import EgeunetError
from egeunet.inference.fetch import fetch_bytes, is_url

Source: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any]
)
Taken: TypeAlias = str | os.PathLike[str] | bytes | NDArray[np.uint8]
"""What `take_photo` gives."""

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

_LARGE = 2_000_000  # pixels
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


def read_photo(source: Source) -> NDArray[np.uint8]:
    """Decode one photo, upright.

    Args:
        source: A path, a URL, the bytes of an image file, an open binary file, a Pillow image, or
            an array, grey (H, W) or (H, W, 1), RGB (H, W, 3) or RGBA (H, W, 4): bool, uint8,
            uint16, or float in 0…1.

    Returns:
        RGB, uint8 (H, W, 3). The EXIF orientation is applied, to a Pillow image only as it was
        opened; transparent pixels are laid on white; 16-bit values are divided by 257; of an
        animation it is the first frame.

    Raises:
        EgeunetError: The source is missing, empty, no image, damaged, larger than `MAX_PIXELS`, or
            an array of another shape, type or range.
    """
    photo = take_photo(source)
    if isinstance(photo, np.ndarray):
        return photo
    name = _called(source_name(source))
    return _decode_bytes(_read_bytes(photo, name), name)


def take_photo(source: Source) -> Taken:
    """Read what its owner may change, move on or close before the photo is decoded.

    Args:
        source: As for `read_photo`.

    Returns:
        What `read_photo` gives of an array or a Pillow image, the bytes of an open file or a
        buffer, and paths, URLs and bytes as they are.

    Raises:
        EgeunetError: As for `read_photo`.
    """
    name = _called(source_name(source))
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, Image.Image):
        return _decode(source, name)
    if isinstance(source, (str, os.PathLike, bytes)):
        return source
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if hasattr(source, "read"):
        return _read_file(source, name)
    raise EgeunetError(
        f"A photo cannot be read from {type(source).__name__}: "
        "give a path, bytes, an open file, a Pillow image or a numpy array."
    )


def list_photos(photos: Source | Iterable[Source]) -> Iterable[Source]:
    """Return an iterable as it is, and one photo in a list, though it may be iterable as well."""
    if isinstance(photos, np.ndarray):
        several = photos.ndim not in (2, 3)
    else:
        one = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
        several = not (isinstance(photos, one) or hasattr(photos, "read"))
    return cast("Iterable[Source]", photos) if several else [cast("Source", photos)]


@dataclass(frozen=True, eq=False)
class EncodedPhoto:
    """A large photo that is kept as its file, which takes less memory than its pixels.

    Args:
        shape: (H, W, 3), upright.
        data: The bytes of the image file.
        name: What the photo is called in errors.
    """

    shape: tuple[int, int, int]
    data: bytes
    name: str

    def decode(self) -> NDArray[np.uint8]:
        """Decode the whole photo: RGB, uint8 (H, W, 3)."""
        return _decode_bytes(self.data, self.name)


def read_reduced(
    photo: Taken, least: int, name: str | None = None
) -> tuple[NDArray[np.uint8] | Image.Image, NDArray[np.uint8] | EncodedPhoto]:
    """Decode a photo as `read_photo` does; of a large JPEG only the coarse part.

    JPEG keeps blocks of 8×8 pixels as frequencies, the lowest of which give the photo at 1/2, 1/4
    or 1/8 of its size in a fraction of the time.

    Args:
        photo: What `take_photo` gave.
        least: What both sides have at least, if the photo has it.
        name: What it is called in errors.

    Returns:
        The upright RGB photo, uint8 (H, W, 3) if it was an array and else an image; and what to
        keep of it: its pixels (H, W, 3) if it is small.

    Raises:
        EgeunetError: As for `read_photo`.
    """
    if isinstance(photo, np.ndarray):
        return photo, photo
    name = _called(name)
    data = _read_bytes(photo, name)
    with _open(io.BytesIO(data), name) as image:
        width, height = image.size
        _check_size(width, height, name)
        if image.format in ("JPEG", "MPO"):  # so Pillow calls a JPEG that holds further pictures
            image.draft(image.mode, (least, least))
        large = image.size != (width, height) or width * height > _LARGE
        upright = _to_upright_rgb(image, name)
        if _orientation(image) in (5, 6, 7, 8):
            width, height = height, width
    kept = EncodedPhoto((height, width, 3), data, name) if large else np.asarray(upright)
    return upright, kept


def photo_size(data: bytes) -> tuple[int, int]:
    """Read how large an image file says to be, and decode nothing.

    Args:
        data: The bytes of the file.

    Returns:
        The width and the height in pixels.

    Raises:
        EgeunetError: It is empty or no image of one of the `FORMATS`.
    """
    name = _called(None)
    with _open(io.BytesIO(_read_bytes(data, name)), name) as image:
        return image.size


def source_name(source: Source) -> str | None:
    """Return what a source is called: its path where it has one, else None."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return name if isinstance(name, str) else None


def _called(name: str | None) -> str:
    return name or "The photo"


def _read_bytes(source: str | os.PathLike[str] | bytes, name: str) -> bytes:
    if isinstance(source, bytes):
        data = source
    elif is_url(source):
        data = fetch_bytes(str(source))
    else:
        try:
            data = Path(source).read_bytes()
        except IsADirectoryError as error:
            raise EgeunetError(
                f"{name} is a folder and no photo: `Segmenter.stream` takes it by itself."
            ) from error
        except (OSError, ValueError) as error:
            raise _unreadable(name, error) from error
    if not data:
        raise EgeunetError(f"{name} is empty (0 bytes): expected an image.")
    return data


def _read_file(file: IO[bytes], name: str) -> bytes:
    try:
        data = file.read()
    except Exception as error:
        # What an archive or a store has opened raises errors of its own kinds.
        raise _unreadable(name, error) from error
    if not isinstance(data, bytes):
        raise EgeunetError(f"{name} is open as text: open it as binary, with mode 'rb'.")
    return data


def _unreadable(name: str, error: Exception) -> EgeunetError:
    reason = str(getattr(error, "strerror", None) or error).rstrip(".")
    return EgeunetError(f"{name} cannot be read: {reason}.")


def _open(file: IO[bytes], name: str) -> Image.Image:
    """Read an image's header; its size is checked by `_check_size`, not by Pillow's own limit."""
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


def _decode_bytes(data: bytes, name: str) -> NDArray[np.uint8]:
    with _open(io.BytesIO(data), name) as image:
        return _decode(image, name)


def _decode(image: Image.Image, name: str) -> NDArray[np.uint8]:
    return np.asarray(_to_upright_rgb(image, name))


def _to_upright_rgb(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.width, image.height, name)
    try:
        image.load()
        # What is not as it was opened, somebody may have turned; Pillow keeps the tag all the same.
        turn = _UPRIGHT.get(_orientation(image)) if image.format else None
        if image.mode.startswith(("I", "F")):
            values = np.asarray(image)
            if image.mode == "I" and values.min() >= 0 and values.max() <= 65535:
                values = values.astype(np.uint16)  # so Pillow gives some files of 16 bits
            image = Image.fromarray(_from_array(values, name))
        elif image.has_transparency_data:
            image = _on_white(image)
        elif image.mode != "RGB":
            image = image.convert("RGB")
        return image if turn is None else image.transpose(turn)
    except EgeunetError:
        raise
    except Exception as error:
        # As in `_open`: what a damaged file raises depends on its format and on the damage.
        raise EgeunetError(f"{name} is damaged or cut short and cannot be decoded.") from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1  # Broken EXIF data does not spoil the pixels.


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _from_array(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise EgeunetError(
            f"{name} is an array of shape {array.shape}: expected (height, width), or "
            "(height, width, channels) with 1, 3 or 4 channels."
        )
    _check_size(array.shape[1], array.shape[0], name)
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


def _check_size(width: int, height: int, name: str) -> None:
    if width * height == 0:
        raise EgeunetError(f"{name} has no pixels ({width}×{height}).")
    if width * height > MAX_PIXELS:
        raise EgeunetError(
            f"{name} is too large ({width}×{height} pixels, the limit is "
            f"{MAX_PIXELS // 1_000_000} megapixels): scale it down first."
        )
