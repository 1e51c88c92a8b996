"""Checks of the structure of image files, done before a decoder sees them.

Small files can keep a decoder busy for minutes or make it allocate gigabytes. What decides both
stands in headers, which are read here in time proportional to the file. Files of cameras and image
editors stay far below each limit.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

MAX_SEGMENTS = 100_000
"""Chunks of a PNG file or segments of a JPEG file."""
MAX_SCANS = 100
"""Scans of a JPEG file; libtiff has the same limit, encoders write 1 to 20."""
MAX_SCANNED = 4_000_000_000
"""Pixels times scans of a JPEG file: 200 megapixels with 20 scans."""
MAX_VALUES = 500_000
"""Numbers in the directories of a TIFF file or of EXIF data."""

MAX_TILE = 4096 * 4096
"""Pixels of a tile of a TIFF file, unless the image has more."""
MAX_SHARED = 16_000_000
"""Bytes by which the values of a directory may exceed the file, because some share their bytes."""

_EXIF = b"Exif\0\0"
_ORIENTATION, _NESTED = 0x0112, (0x8769, 0x8825, 0xA005)  # EXIF, GPS, interoperability
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q"}
_BYTES = (1, 2, 6, 7)  # types that are kept as they are
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither a stuffed byte nor a restart


class _Field(NamedTuple):
    """An entry of a TIFF directory.

    Args:
        kind: The number of its type.
        length: How many values it has.
        size: Their bytes; 0 if they lie outside the file.
        value: The first of them, if they are whole numbers.
    """

    kind: int
    length: int
    size: int
    value: int


def check_jpeg(data: bytes) -> int:
    """Check the number of segments and scans of a JPEG file, and its EXIF data.

    Returns:
        Bytes of coefficients that the decoder keeps: of all pixels if there are several scans.

    Raises:
        ValueError: Why the file is refused.
    """
    place, segments, scans, pixels, components = 2, 0, 0, 0, 0
    several = False
    exif: list[bytes] = []
    while match := _MARKER.search(data, place):
        place, marker = match.end(), data[match.end() - 1]
        if marker == 0xD9:  # the end; what follows belongs to other pictures
            break
        if marker in (0x01, 0xD8):
            continue
        segments += 1
        if segments > MAX_SEGMENTS:
            raise ValueError(f"it has more than {MAX_SEGMENTS:,} segments")
        if place + 2 > len(data):
            break
        end = place + max(2, int.from_bytes(data[place : place + 2], "big"))
        content = data[place + 2 : end]
        if marker == 0xE1 and content.startswith(_EXIF):
            exif.append(content[len(_EXIF) :])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(content) >= 6:
            height, width, components = struct.unpack_from(">HHB", content, 1)
            pixels = height * width
            several = marker in (0xC2, 0xC6, 0xCA, 0xCE)
        if marker == 0xDA:
            scans += 1
            several = several or content[:1] != bytes([components])
            if not several:  # the decoder stops after the only scan as well
                break
            if scans > MAX_SCANS or scans * pixels > MAX_SCANNED:
                raise ValueError(f"it has {scans} scans or more of {pixels:,} pixels")
        place = end
    if exif:
        _check_directories(b"".join(exif))
    return 2 * pixels * components if several else 0


def check_png(data: bytes) -> int:
    """Check the number of chunks of a PNG file.

    Returns:
        0: the decoder keeps nothing but the pixels.

    Raises:
        ValueError: Why the file is refused.
    """
    place = 8
    for _ in range(MAX_SEGMENTS):
        if place + 8 > len(data):
            return 0
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    raise ValueError(f"it has more than {MAX_SEGMENTS:,} chunks")


def check_tiff(data: bytes) -> int:
    """Check the directories of a TIFF file, and its strips or tiles.

    Returns:
        Bytes that the decoder takes for a strip or tile, and for turning the image upright.

    Raises:
        ValueError: Why the file is refused.
    """
    entries = _check_directories(data)
    fields = dict(entries)
    if len(fields) < len(entries):  # of which Pillow and libtiff take different ones
        raise ValueError("it has a tag twice")

    def get(tag: int, default: int) -> int:
        return fields[tag].value if tag in fields else default

    width, height = get(256, 1), get(257, 1)
    tiled = 322 in fields
    across = get(322, width) if tiled else width
    down = get(323, height) if tiled else min(get(278, height), height)
    if min(width, height, across, down) < 1 or across * down > max(width * height, MAX_TILE):
        raise ValueError(f"its strips or tiles have {across}×{down} pixels")
    samples = max(1, min(get(277, 1), 8))
    planes = samples if get(284, 1) == 2 else 1
    expected = ceil(width / across) * ceil(height / down) * planes
    for tag in (273, 324):
        if tag in fields and fields[tag].length > expected:
            raise ValueError("it has more strips or tiles than fit in the image")
    block = 0 if get(259, 1) == 1 else across * down * samples * _bits(fields) // 8
    return block + len(data) + (4 * width * height if get(_ORIENTATION, 1) != 1 else 0)


def read_orientation(exif: bytes) -> int:
    """Read the orientation from EXIF data: 1 (upright) to 8; 1 if it is missing or damaged."""
    try:
        while exif.startswith(_EXIF):
            exif = exif[len(_EXIF) :]
        fields = dict(_fields(exif, None))
    except (struct.error, OverflowError):
        return 1
    value = fields[_ORIENTATION].value if _ORIENTATION in fields else 1
    return value if 1 <= value <= 8 else 1


def _bits(fields: dict[int, _Field]) -> int:
    """Return an upper bound for the bits of a sample."""
    return 64 if 258 not in fields else max(8, min(fields[258].value, 64))


def _check_directories(data: bytes) -> list[tuple[int, _Field]]:
    """Check the first directory and those below it, and return the fields of the first.

    A reader copies each value, and many may point at the same bytes. What lies outside the data
    is not counted: readers skip it, and damaged metadata shall not spoil the pixels.
    """
    places: list[int | None] = [None]
    first: list[tuple[int, _Field]] = []
    size = count = 0
    for number, place in enumerate(places):
        if number == 16:
            raise ValueError("its tags name too many directories")
        try:
            for tag, field in _fields(data, place):
                size += field.size
                count += 0 if field.kind in _BYTES or not field.size else field.length
                if size > len(data) + MAX_SHARED or count > MAX_VALUES:
                    raise ValueError("its tags claim more data than it holds")
                if number == 0:
                    first.append((tag, field))
                if tag in _NESTED:
                    places.append(field.value)
        except (struct.error, OverflowError):  # cut short
            continue
    return first


def _fields(data: bytes, place: int | None) -> Iterator[tuple[int, _Field]]:
    """Yield the tags and fields of a directory; at None, of the first one."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise struct.error("unknown byte order")
    big = b"\x2b" in data[2:4]  # BigTIFF
    word = order + ("Q" if big else "I")
    if place is None:
        (place,) = struct.unpack_from(word, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
    place += 8 if big else 2
    for _ in range(min(entries, len(data) // 12)):
        tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, place)
        at = place + (12 if big else 8)
        size = _SIZES.get(kind, 0) * count
        if size > (8 if big else 4):
            (at,) = struct.unpack_from(word, data, at)
            size = size if at + size <= len(data) else 0
        code, value = _CODES.get(kind), 0
        if code and at + _SIZES[kind] <= len(data):
            (value,) = struct.unpack_from(order + code, data, at)
        yield tag, _Field(kind, count, size, value)
        place += 20 if big else 12
