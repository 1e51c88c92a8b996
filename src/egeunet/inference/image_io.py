"""What a photo may be: a file, a URL, bytes, an open file, a Pillow image, an array."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.errors import EgeunetError
from egeunet.inference.decode import (
    check_size,
    decode_bytes,
    from_array,
    open_image,
    read_orientation,
    to_upright_rgb,
)
from egeunet.inference.fetch import fetch_bytes, is_url

Source: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any]
)
Taken: TypeAlias = str | os.PathLike[str] | bytes | NDArray[np.uint8]
"""What `take_photo` gives."""

_LARGE = 2_000_000  # pixels


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
        EgeunetError: The source is missing, empty, no image, damaged, too large (`MAX_PIXELS` of
            `egeunet.inference.decode`), or an array of another shape, type or range.
    """
    photo = take_photo(source)
    if isinstance(photo, np.ndarray):
        return photo
    name = _called(source_name(source))
    return decode_bytes(_read_bytes(photo, name), name)


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
        return from_array(source, name)
    if isinstance(source, Image.Image):
        return np.asarray(to_upright_rgb(source, name))
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
        return decode_bytes(self.data, self.name)


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
    with open_image(io.BytesIO(data), name) as image:
        width, height = image.size
        check_size(width, height, name)
        if image.format in ("JPEG", "MPO"):  # so Pillow calls a JPEG that holds further pictures
            image.draft(image.mode, (least, least))
        large = image.size != (width, height) or width * height > _LARGE
        upright = to_upright_rgb(image, name)
        if read_orientation(image) in (5, 6, 7, 8):
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
        EgeunetError: It is empty or no image of one of `egeunet.inference.decode.FORMATS`.
    """
    name = _called(None)
    with open_image(io.BytesIO(_read_bytes(data, name)), name) as image:
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
