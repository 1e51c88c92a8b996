"""Images from files, URLs, bytes, open files, Pillow images and arrays: upright RGB, 8 bits."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.errors import EgeunetError, ImageTooLargeError
from egeunet.files import is_url
from egeunet.inference.image_checks import check_jpeg, check_png, check_tiff, read_orientation
from egeunet.inference.pixels import DAMAGED, array_to_rgb, check_size, one_sentence, to_rgb

Source: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any]
)
Snapshot: TypeAlias = str | os.PathLike[str] | bytes | NDArray[np.uint8]
"""What `take_snapshot` returns."""

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WebP": (".webp",),
}
"""Supported formats and the suffixes of their files."""
FORMAT_NAMES = "JPEG, PNG, BMP, TIFF or WebP"

MAX_BYTES = 2_000_000_000
"""Memory for reading one image: the file, the decoder's buffers, and the pixels."""

_MAX_RLE_PIXELS = 10_000_000  # of BMP files with run lengths, which Pillow decodes in Python
_LARGE = 2_000_000  # pixels from which an image is kept as its file
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG", "JpegImagePlugin", "JpegImageFile"),
    (b"\x89PNG\r\n\x1a\n", "PNG", "PngImagePlugin", "PngImageFile"),
    (b"BM", "BMP", "BmpImagePlugin", "BmpImageFile"),
    (b"II*\0", "TIFF", "TiffImagePlugin", "TiffImageFile"),
    (b"MM\0*", "TIFF", "TiffImagePlugin", "TiffImageFile"),
    (b"II+\0", "TIFF", "TiffImagePlugin", "TiffImageFile"),
    (b"RIFF", "WebP", "WebPImagePlugin", "WebPImageFile"),
)
_CHECKS: dict[str, Callable[[bytes], int]] = {
    "JPEG": check_jpeg,
    "PNG": check_png,
    "TIFF": check_tiff,
}
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_WEBP = 16  # bytes per pixel that the decoder needs besides the image
_PART = 1 << 20  # bytes of a file that are read at a time


class ImageInfo(NamedTuple):
    """Size of an image file.

    Args:
        width: In pixels, as stored; the EXIF orientation may swap it with the height.
        height: In pixels, as stored.
        memory: Upper bound for the bytes that decoding takes, the file included.
    """

    width: int
    height: int
    memory: int


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A large image that is kept as its file, which takes less memory than its pixels.

    Args:
        shape: (H, W, 3), upright.
        data: The bytes of the image file.
        name: Name of the image in errors.
        max_bytes: As for `read_image`.
    """

    shape: tuple[int, int, int]
    data: bytes
    name: str
    max_bytes: int = MAX_BYTES

    def decode(self) -> NDArray[np.uint8]:
        """Decode the whole image: RGB, uint8 (H, W, 3)."""
        return _decode(self.data, self.name, self.max_bytes)


def read_image(source: Source, *, max_bytes: int = MAX_BYTES) -> NDArray[np.uint8]:
    """Read one image, upright.

    Args:
        source: A path, a URL, the bytes of an image file, an open binary file, a Pillow image, or
            an array, grey (H, W) or (H, W, 1), RGB (H, W, 3) or RGBA (H, W, 4): bool, uint8,
            uint16, or float in 0…1.
        max_bytes: Memory for reading a file, estimated from its header before it is decoded.

    Returns:
        RGB, uint8 (H, W, 3). The EXIF orientation is applied (to a Pillow image only as it was
        opened), transparency is composited on white, 16-bit values are divided by 257, and an
        animation gives its first frame.

    Raises:
        EgeunetError: The source is missing, empty, no image, damaged, larger than `MAX_PIXELS`,
            `MAX_SIDE` or `max_bytes` allow, or an array of another shape, type or range.
    """
    snapshot = take_snapshot(source, max_bytes=max_bytes)
    if isinstance(snapshot, np.ndarray):
        return snapshot
    name = source_name(source) or "The image"
    return _decode(read_bytes(snapshot, name, max_bytes), name, max_bytes)


def take_snapshot(source: Source, *, max_bytes: int = MAX_BYTES) -> Snapshot:
    """Copy what its owner may change or close before the image is decoded.

    Args:
        source: As for `read_image`.
        max_bytes: As for `read_image`.

    Returns:
        The pixels of an array or a Pillow image, as `read_image` returns them; the bytes of an
        open file or a buffer; and paths, URLs and bytes as they are.

    Raises:
        EgeunetError: As for `read_image`.
    """
    name = source_name(source) or "The image"
    if isinstance(source, (str, os.PathLike, bytes)):
        return source
    with one_sentence(name):
        if isinstance(source, np.ndarray):
            return array_to_rgb(source, name)
        if isinstance(source, Image.Image):
            check_size(source.width, source.height, name)
            # Pillow turns TIFF files itself; an image without a format was changed since.
            turned = source.format in (None, "TIFF")
            turn = 1 if turned else read_orientation(source.info.get("exif", b""))
            return to_rgb(source, turn, name)
        if isinstance(source, (bytearray, memoryview)):
            return bytes(source)
        if hasattr(source, "read"):
            return _read_file(source, name, max_bytes)
    raise EgeunetError(
        f"Cannot read an image from {type(source).__name__}: "
        "give a path, a URL, bytes, an open file, a Pillow image or a NumPy array."
    )


def read_bytes(source: str | os.PathLike[str] | bytes, name: str, max_bytes: int) -> bytes:
    """Read the bytes of an image file, at most `max_bytes`.

    Args:
        source: A path, a URL, or the bytes themselves.
        name: Name of the image in errors.
        max_bytes: Limit of the file's size.

    Raises:
        EgeunetError: The file is missing, empty, or larger.
    """
    if isinstance(source, bytes):
        data = source
    elif is_url(source):
        from egeunet.inference.fetch import fetch_bytes  # http and ssl take long to import

        data = fetch_bytes(str(source))
    elif os.path.isdir(source):  # noqa: PTH112
        raise EgeunetError(f"{name} is a folder, not an image: `Segmenter.stream` takes folders.")
    else:
        with one_sentence(name), Path(source).open("rb") as file:
            _check_length(os.fstat(file.fileno()).st_size, name, max_bytes)  # 0 of a pipe
            data = _read_file(file, name, max_bytes)
    if not data:
        raise EgeunetError(f"{name} is empty (0 bytes): expected an image.")
    return data


def read_reduced(
    snapshot: Snapshot, least: int, name: str | None = None, *, max_bytes: int = MAX_BYTES
) -> tuple[NDArray[np.uint8] | Image.Image, NDArray[np.uint8] | EncodedImage]:
    """Decode an image as `read_image` does, a large JPEG at reduced size.

    JPEG stores frequencies of 8×8 blocks; the lowest give the image at 1/2, 1/4 or 1/8 of its size
    in a fraction of the time and memory.

    Args:
        snapshot: From `take_snapshot`.
        least: Minimum length of both sides after the reduction.
        name: Name of the image in errors.
        max_bytes: As for `read_image`.

    Returns:
        The upright image, an RGB Pillow image or uint8 (H, W, 3), at full or reduced size; and what
        to keep of it: its pixels (H, W, 3), or its file if it is large.

    Raises:
        EgeunetError: As for `read_image`.
    """
    if isinstance(snapshot, np.ndarray):
        return snapshot, snapshot
    name = name or "The image"
    data = read_bytes(snapshot, name, max_bytes)
    image, info, turn = _open(data, name, max_bytes, least)
    width, height = info[:2]
    large = image.size != (width, height) or width * height > _LARGE
    upright: NDArray[np.uint8] | Image.Image = image
    if turn == 1 and image.mode == "RGB" and not image.has_transparency_data:
        with one_sentence(name, DAMAGED):
            image.load()
    else:
        upright = to_rgb(image, turn, name)
    if turn > 4 or (image.format == "TIFF" and image.size != (width, height)):
        width, height = height, width
    if large:
        return upright, EncodedImage((height, width, 3), data, name, max_bytes)
    pixels = np.asarray(upright)
    return pixels, pixels


def inspect_image(data: bytes, least: int | None = None) -> ImageInfo:
    """Read the size of an image and the memory it takes, without decoding it.

    Args:
        data: The bytes of the file.
        least: As for `read_reduced`, to get the memory of that; None: of decoding the full size.

    Raises:
        EgeunetError: The file is empty, no image of one of `FORMATS`, or larger than `MAX_PIXELS`
            or `MAX_SIDE` allow.
    """
    name = "The image"
    return _open(read_bytes(data, name, len(data)), name, None, least)[1]


@contextmanager
def open_image(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES
) -> Iterator[tuple[Image.Image, int]]:
    """Decode an image file in its own mode, with the limits of `read_image`.

    Yields:
        The decoded image as it is stored, and its EXIF orientation, 1 (upright) to 8.

    Raises:
        EgeunetError: As for `read_image`; also if the block runs out of memory.
    """
    name = os.fspath(path)
    image, _, turn = _open(read_bytes(path, name, max_bytes), name, max_bytes)
    with one_sentence(name, DAMAGED):
        image.load()
        yield image, turn


def source_name(source: Source) -> str | None:
    """Return the path of a source if it has one, else None."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return name if isinstance(name, str) else None


def list_sources(images: Source | Iterable[Source]) -> Iterable[Source]:
    """Return an iterable as it is, and one image, even if it is iterable, in a list."""
    if isinstance(images, np.ndarray):
        several = images.ndim not in (2, 3)
    else:
        one = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
        several = not (isinstance(images, one) or hasattr(images, "read"))
    return cast("Iterable[Source]", images) if several else [cast("Source", images)]


def _open(
    data: bytes, name: str, max_bytes: int | None, least: int | None = None
) -> tuple[Image.Image, ImageInfo, int]:
    """Read the header of an image file and check what decoding it takes.

    Returns:
        The image, not decoded, a large JPEG at reduced size if `least` is given; its full size and
        the memory it takes; and its EXIF orientation, 1 if Pillow applies it.
    """
    not_an_image = f"is not an image that can be read: expected {FORMAT_NAMES}."
    found = next((one for one in _SIGNATURES if data.startswith(one[0])), None)
    if found is None:
        raise EgeunetError(f"{name} {not_an_image}")
    _, kind, module, opener = found
    try:
        extra = _CHECKS[kind](data) if kind in _CHECKS else 0
    except ValueError as error:
        raise EgeunetError(
            f"{name} is no ordinary {kind} file, and is not read: {error}."
        ) from error
    with one_sentence(name, not_an_image):
        # Not by `Image.open`, which reads more of a JPEG file, and warns of large images.
        image: Image.Image = getattr(import_module(f"PIL.{module}"), opener)(io.BytesIO(data))
    width, height = image.size
    check_size(width, height, name)
    if kind == "BMP" and image.info.get("compression") in (1, 2):  # RLE8, RLE4
        if width * height > _MAX_RLE_PIXELS:
            raise EgeunetError(
                f"{name} is a compressed BMP file of {width}×{height} pixels, the limit is "
                f"{_MAX_RLE_PIXELS // 1_000_000} megapixels: save it as PNG."
            )
        extra += 3 * width * height
    if kind == "WebP":
        extra += _WEBP * width * height
    if kind == "JPEG" and least:
        image.draft(image.mode, (least, least))
    pixels = image.width * image.height
    memory = len(data) + extra + pixels * (_STORED.get(image.mode, 4) + 3)
    if max_bytes is not None and memory > max_bytes:
        raise ImageTooLargeError(
            f"{name} is too large: decoding its {width}×{height} pixels takes "
            f"{memory / 1e6:,.0f} MB, the limit is {max_bytes / 1e6:,.0f} MB. Scale it down."
        )
    turn = 1 if kind == "TIFF" else read_orientation(image.info.get("exif", b""))
    return image, ImageInfo(width, height, memory), turn


def _decode(data: bytes, name: str, max_bytes: int) -> NDArray[np.uint8]:
    image, _, turn = _open(data, name, max_bytes)
    return to_rgb(image, turn, name)


def _read_file(file: IO[bytes], name: str, max_bytes: int) -> bytes:
    """Read an open file of unknown length, no further than the limit."""
    parts = io.BytesIO()
    with one_sentence(name):
        while parts.tell() <= max_bytes and (part := file.read(_PART)):
            if isinstance(part, str):
                raise EgeunetError(f"{name} is open as text: open it as binary, with mode 'rb'.")
            parts.write(part)
    _check_length(parts.tell(), name, max_bytes)
    return parts.getvalue()


def _check_length(length: int, name: str, max_bytes: int) -> None:
    if length > max_bytes:
        raise ImageTooLargeError(f"{name} is too large: the limit is {max_bytes / 1e6:,.0f} MB.")
