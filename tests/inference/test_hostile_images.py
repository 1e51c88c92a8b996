"""What hostile image files may cost: memory and time have bounds, errors are one sentence."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import egeunet
from egeunet.errors import EgeunetError
from egeunet.inference.image_io import inspect_image, read_image
from egeunet.inference.pixels import MAX_SIDE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
HOSTILE = Path(__file__).with_name("hostile.py")

READ = """
import json, resource, sys, time
from egeunet.errors import EgeunetError
from egeunet.inference.image_io import read_image
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1e3
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before, start = peak(), time.process_time()
try:
    said = str(read_image(sys.argv[2]).shape)
except EgeunetError as error:
    said = str(error)
print(json.dumps([said, peak() - before, time.process_time() - start]))
"""


def read_in_process(path: Path, limit: int = 4_000_000_000) -> tuple[str, float, float]:
    """Read an image in another process.

    Returns:
        Its shape or the error, the peak of memory in MB, and the processor's seconds.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(egeunet.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, str(limit), str(path)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    said, memory, seconds = json.loads(done.stdout)
    return said, memory, seconds


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, color: int = 0, extra: bytes = b"") -> bytes:
    channels = {0: 1, 2: 3, 6: 4}[color]
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    data = zlib.compress(bytes((width * channels + 1) * height), 1)
    chunks = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _tags(count: int, size: int) -> bytes:
    """Return EXIF data with many tags that all point at the same bytes."""
    start = 8 + 2 + 12 * count + 4
    tags = (struct.pack("<HHII", 0x1000 + tag, 7, size, start) for tag in range(count))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + b"".join(tags) + bytes(4 + size)


def _tiff(data: bytes, *entries: tuple[int, int, int, int]) -> bytes:
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return head + struct.pack("<H", len(entries)) + packed + bytes(4)


def _grey(width: int, height: int, compression: int = 1) -> list[tuple[int, int, int, int]]:
    values = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 277: 1}
    return [(tag, 4 if tag < 258 else 3, 1, value) for tag, value in values.items()]


def _jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (100, 100)).save(file, "JPEG", **options)
    return file.getvalue()


def _with_exif(exif: bytes) -> bytes:
    """Return a JPEG file without JFIF, so that Pillow looks for its resolution in EXIF data."""
    data, parts = _jpeg(), [exif[at : at + 60_000] for at in range(0, len(exif), 60_000)]
    segments = (b"\xff\xe1" + struct.pack(">H", len(p) + 8) + b"Exif\0\0" + p for p in parts)
    return data[:2] + b"".join(segments) + data[20:]


def _scans(count: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (2000, 2000), 100).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    scan, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    return data[:end] + data[scan:end] * count + data[end:]


def _sequential_scans(count: int) -> bytes:
    """Return a JPEG file that is not progressive and has a scan of one component many times."""
    data = _jpeg()
    scan, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    one = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + data[scan + 14 : end]
    return data[:scan] + one * count + data[end:]


def _bmp(width: int, height: int, compression: int, bits: int, data: bytes) -> bytes:
    palette = bytes(4 << bits)
    header = struct.pack("<IiiHHI", 40, width, height, 1, bits, compression)
    header += struct.pack("<IiiII", len(data), 0, 0, 1 << bits, 0)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


def _bomb_webp() -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (12_000, 12_000)).save(file, "WEBP", lossless=True, quality=0, method=0)
    return file.getvalue()


def _tile_bomb() -> bytes:
    packer, block = zlib.compressobj(9), bytes(1 << 24)
    data = b"".join(packer.compress(block) for _ in range(20)) + packer.flush()
    sizes = [(322, 4, 1, 20_000), (323, 4, 1, 16_000), (324, 4, 1, 8), (325, 4, 1, len(data))]
    return _tiff(data, *_grey(16, 16, compression=8), *sizes)


def _shared_strips() -> bytes:
    count, start = 60_000, 8 + 1_000_000
    data = bytes(1_000_000) + struct.pack("<I", 8) * count
    strips = [(273, 4, count, start), (278, 3, 1, 999), (279, 4, count, start)]
    return _tiff(data, *_grey(1000, 1000), *strips)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "wide": (lambda: _png(5_000_000, 1), "65500 pixels a side"),
    "tall": (lambda: _png(1, 5_000_000), "65500 pixels a side"),
    "one-row": (lambda: _png(199_999_999, 1), "65500 pixels a side"),
    "webp": (_bomb_webp, "takes 3,312 MB, the limit is 2,000 MB"),
    "png-exif": (
        lambda: _png(100, 100, 2, _chunk(b"eXIf", _tags(10_000, 320_000))),
        "(100, 100, 3)",
    ),
    "jpeg-exif": (lambda: _with_exif(_tags(4000, 12_000)), "claim more data than it holds"),
    "jpeg-exif-joined": (
        lambda: _with_exif(_tags(20_000, 160_000)),
        "claim more data than it holds",
    ),
    "tiff-tags": (
        lambda: _tiff(
            bytes(320_000),
            *_grey(100, 100),
            (273, 4, 1, 8),
            *((0x8000 + tag, 7, 300_000, 8) for tag in range(10_000)),
        ),
        "claim more data than it holds",
    ),
    "tiff-nested-tags": (
        lambda: _tiff(
            b"".join(
                (
                    struct.pack("<H", 3000),
                    *(struct.pack("<HHII", 0x9000 + tag, 7, 36_000, 8) for tag in range(3000)),
                )
            )
            + bytes(4),
            *_grey(10, 10),
            (273, 4, 1, 8),
            (0x8769, 4, 1, 8),
        ),
        "claim more data than it holds",
    ),
    "tiff-strips": (_shared_strips, "more strips or tiles than fit"),
    "tiff-tile": (_tile_bomb, "20000×16000 pixels"),
    "tiff-twice": (
        lambda: _tiff(bytes(100), *_grey(10, 10), (256, 4, 1, 9), (273, 4, 1, 8)),
        "a tag twice",
    ),
    "jpeg-scans": (lambda: _scans(8000), "has 101 scans or more"),
    "jpeg-scans-sequential": (lambda: _sequential_scans(8000), "has 101 scans or more"),
    "png-chunks": (lambda: _png(9, 9, 0, _chunk(b"tIME", b"") * 200_000), "100,000 chunks"),
    "jpeg-segments": (
        lambda: _jpeg()[:2] + b"\xff\xfe\0\2" * 2_000_000 + _jpeg()[2:],
        "100,000 segments",
    ),
    "bmp-rle8": (
        lambda: _bmp(16_384, 12_200, 1, 8, b"\1\1\0\0" * 12_200 + b"\0\1"),
        "limit is 10 megapixels",
    ),
    "bmp-rle4": (
        lambda: _bmp(16_384, 12_200, 2, 4, (b"\xff\x12" * 65 + b"\0\0") * 12_200),
        "limit is 10 megapixels",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_little(name: str, tmp_path: Path) -> None:
    build, words = BOMBS[name]
    path = tmp_path / name
    path.write_bytes(build())
    said, memory, seconds = read_in_process(path, limit=1_500_000_000)
    assert words in said
    assert len(said) < 100 + len(str(path)) + 100
    assert memory < 80, "MB"
    assert seconds < 10


@pytest.mark.parametrize(("suffix", "size"), [("tif", 30 * 10**9), ("jpg", 300 * 10**9)])
def test_a_sparse_file_is_not_read(tmp_path: Path, suffix: str, size: int) -> None:
    path = tmp_path / f"sparse.{suffix}"
    with path.open("wb") as file:
        file.write({"tif": b"II*\0\x08\0\0\0", "jpg": b"\xff\xd8\xff\xe0"}[suffix])
        file.truncate(size)
    said, memory, _ = read_in_process(path)
    assert said.endswith("is too large: the limit is 2,000 MB.")
    assert memory < 20, "MB"


def test_a_pipe_is_read_no_further_than_the_limit() -> None:
    class Endless(io.RawIOBase):
        def __init__(self) -> None:
            self.given = 0

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            self.given += size
            return bytes(size)

    pipe = Endless()
    with pytest.raises(EgeunetError, match="limit is 5 MB"):
        read_image(pipe, max_bytes=5_000_000)
    assert pipe.given < 7_000_000


def test_what_does_not_fit_in_memory_is_an_error_of_its_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png(12_000, 12_000))
    said, _, _ = read_in_process(path, limit=400_000_000)
    assert said == f"{path} needs more memory than there is: scale it down."


def _save(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _turned(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


LARGE: dict[str, tuple[str, str, dict[str, object]]] = {
    "png-rgb": ("RGB", "PNG", {"compress_level": 1}),
    "png-rgb-turned": ("RGB", "PNG", {"compress_level": 1, "exif": _turned(6)}),
    "png-rgba": ("RGBA", "PNG", {"compress_level": 1}),
    "png-16": ("I;16", "PNG", {"compress_level": 1}),
    "png-palette": ("P", "PNG", {"compress_level": 1, "transparency": 3}),
    "jpeg": ("RGB", "JPEG", {}),
    "jpeg-cmyk": ("CMYK", "JPEG", {}),
    "jpeg-progressive": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    "webp": ("RGB", "WEBP", {"method": 0}),
    "webp-alpha": ("RGBA", "WEBP", {"lossless": True, "method": 0, "quality": 0}),
    "tiff": ("RGB", "TIFF", {}),
    "tiff-turned": ("RGB", "TIFF", {"exif": _turned(6)}),
    "tiff-deflate": ("RGBA", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff-float": ("F", "TIFF", {}),
    "bmp": ("RGB", "BMP", {}),
}


@pytest.mark.parametrize("name", LARGE)
def test_the_memory_that_is_estimated_is_not_exceeded(name: str, tmp_path: Path) -> None:
    mode, kind, options = LARGE[name]
    image = Image.linear_gradient("L").resize((2400, 2000))
    if mode in ("I;16", "F"):
        values = np.asarray(image).astype(np.uint16 if mode == "I;16" else np.float32)
        image = Image.fromarray(values * 257 if mode == "I;16" else values / 255)
    else:
        image = image.convert(mode)
    path = tmp_path / "a"
    path.write_bytes(_save(image, kind, **options))
    estimate = inspect_image(path.read_bytes()).memory / 1e6
    said, memory, _ = read_in_process(path)
    assert said in ("(2000, 2400, 3)", "(2400, 2000, 3)")
    assert memory < estimate + 40, "MB; bands and libraries take some"
    with pytest.raises(EgeunetError, match=r"is too large: decoding its 2.00×2.00 pixels takes"):
        read_image(path, max_bytes=int(estimate * 1e6) - 1)


def test_a_long_image_is_segmented_with_little_memory(write_graph) -> None:
    segmenter = egeunet.Segmenter(write_graph())
    for shape in ((MAX_SIDE, 3), (3, MAX_SIDE)):
        result = segmenter(np.zeros(shape, np.uint8))
        assert result.mask.shape == shape
        assert result.overlay().size == shape[::-1]
        with io.BytesIO() as file:
            result.overlay().save(file, "JPEG")


def run_hostile(first: int, count: int) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(Path(egeunet.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, str(HOSTILE), str(first), str(count)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("first", "count"), [(0, 300), pytest.param(1000, 10_000, marks=pytest.mark.slow)]
)
def test_generated_images_are_segmented_or_refused(first: int, count: int) -> None:
    found = run_hostile(first, count)
    assert found["failures"] == []
    assert found["done"] > count / 20
    assert found["peak_mb"] < 2300
    assert found["slowest"][0] < 60, "seconds of the processor, and the seed"
