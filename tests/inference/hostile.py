"""Images whose structure is hostile: each decoder gets sizes, counts and offsets that lie.

`python tests/inference/hostile.py FIRST COUNT` segments `COUNT` of them with limited memory, and
prints the largest memory and time, and what was raised besides `EgeunetError`.
"""

import io
import random
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

Part = tuple[bytes, bytes]
SIDES = (
    0,
    1,
    2,
    7,
    16,
    100,
    255,
    4096,
    16_383,
    65_500,
    65_535,
    65_536,
    10**6,
    2**31 - 1,
    2**32 - 1,
)
COUNTS = (0, 1, 2, 3, 1000, 65_535, 500_001, 2**31, 2**32 - 1)


def make(seed: int) -> bytes:
    """Return the hostile file of a seed."""
    pick = random.Random(seed)
    data = pick.choice((_png, _jpeg, _tiff, _webp, _bmp, _mutated, _mutated))(pick)
    if pick.random() < 0.15:  # cut short
        data = data[: pick.randrange(len(data) + 1)]
    if pick.random() < 0.1:  # followed by another file
        data += _encode(pick, pick.choice(("JPEG", "PNG", "TIFF")))
    return data


def _side(pick: random.Random) -> int:
    return pick.choice(SIDES) if pick.random() < 0.5 else pick.randrange(1, 300)


def _noise(pick: random.Random, most: int = 400) -> bytes:
    return pick.randbytes(pick.randrange(most))


def _zeros(pick: random.Random, need: int) -> bytes:
    """Return compressed zeros: what the size needs, less, or more, up to 300 MB."""
    count = min(pick.choice((need, need, need // 2, need * 3, 10**7)), 3 * 10**8)
    packer, whole = zlib.compressobj(1), bytes(1 << 20)
    parts = [packer.compress(whole) for _ in range(count >> 20)]
    return b"".join(parts) + packer.compress(bytes(count & 0xFFFFF)) + packer.flush()


def _encode(pick: random.Random, kind: str, **options: object) -> bytes:
    mode = pick.choice(
        {"JPEG": ("RGB", "L", "CMYK"), "BMP": ("RGB", "L", "P", "1")}.get(kind, ())
        or ("RGB", "RGBA", "L", "P", "1")
    )
    size = (pick.randrange(1, 200), pick.randrange(1, 200))
    image = Image.effect_noise(size, pick.randrange(1, 90)).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _mutated(pick: random.Random) -> bytes:
    """Return an ordinary file with bytes or whole stretches changed, doubled or moved."""
    kind = pick.choice(("JPEG", "PNG", "TIFF", "WEBP", "BMP"))
    options: dict[str, object] = {}
    if kind == "JPEG":
        options = {"progressive": pick.random() < 0.5}
    if kind == "TIFF":
        options = {"compression": pick.choice((None, "tiff_lzw", "tiff_adobe_deflate", "jpeg"))}
        if options["compression"] == "jpeg":
            options = {"compression": "packbits"}
    data = bytearray(_encode(pick, kind, **options))
    for _ in range(pick.randrange(1, 12)):
        at = pick.randrange(min(len(data), pick.choice((64, 1000, 10**9))) or 1)
        action = pick.random()
        if action < 0.6:
            data[at : at + 1] = bytes([pick.choice((0, 1, 127, 128, 255, pick.randrange(256)))])
        elif action < 0.7:
            data[at : at + 4] = pick.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
        elif action < 0.8:
            data[at:at] = data[at : at + pick.randrange(200)]
        elif action < 0.9:
            del data[at : at + pick.randrange(50)]
        else:
            data[at:at] = _noise(pick, 60)
    return bytes(data)


def _chunk(pick: random.Random, name: bytes, data: bytes) -> bytes:
    length = len(data) if pick.random() < 0.95 else pick.choice(COUNTS)
    crc = zlib.crc32(name + data) if pick.random() < 0.97 else 7
    return struct.pack(">I", length & 0xFFFFFFFF) + name + data + struct.pack(">I", crc)


def _png(pick: random.Random) -> bytes:
    width, height = _side(pick), _side(pick)
    depth, color = pick.choice((1, 2, 4, 8, 16)), pick.choice((0, 2, 3, 4, 6))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    need = min(((width * channels * depth + 7) // 8 + 1) * height, 10**12)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, pick.choice((0, 0, 1, 9)))
    body = _zeros(pick, need)
    extras: list[Part] = [
        (b"PLTE", pick.randbytes(3 * pick.choice((1, 16, 256, 300)))),
        (b"tRNS", _noise(pick, 300)),
        (b"eXIf", _directory(pick)),
        (b"iCCP", b"x\0\0" + _zeros(pick, 10**6)),
        (b"zTXt", b"x\0\0" + _zeros(pick, 10**7)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _zeros(pick, 10**6)),
        (b"tEXt", b"Raw profile type exif\0\nexif\n9\n" + _noise(pick)),
        (b"acTL", struct.pack(">II", pick.choice(COUNTS), 0)),
        (b"fcTL", struct.pack(">IIIII", 0, _side(pick), _side(pick), 0, 0) + bytes(6)),
        (pick.choice((b"abCd", b"IDAT", b"IHDR", b"IEND")), _noise(pick)),
    ]
    chunks = [(b"IHDR", header), *pick.sample(extras, pick.randrange(len(extras)))]
    if pick.random() < 0.05:
        chunks += [(b"IDAT", b"")] * pick.choice((1000, 150_000))
    step = pick.choice((len(body), 100_000))
    chunks += [(b"IDAT", body[at : at + step]) for at in range(0, len(body), max(1, step))]
    chunks.append((b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(pick, *chunk) for chunk in chunks)


def _directory(pick: random.Random, fields: list[tuple[int, int, int, int]] | None = None) -> bytes:
    """Return a TIFF file, or EXIF data: directories whose values overlap, repeat and lie."""
    order, big = pick.choice("<>"), fields is not None and pick.random() < 0.1
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42)
    content = pick.randbytes(pick.choice((0, 10, 1000, 100_000)))
    start = 16 if big else 8
    place = start + len(content)
    head += struct.pack(order + ("HHQ" if big else "I"), *((8, 0, place) if big else (place,)))
    entries = list(fields or [])
    for _ in range(pick.choice((0, 3, 30, 3000 if pick.random() < 0.1 else 5))):
        tag = pick.choice((0x0112, 0x8769, 0x8825, 0xA005, 0x014A, 0x010F, 700, 33723, 34665, 259))
        kind = pick.choice((1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13, 16, 99))
        value = pick.choice((start, place, 1, 6, len(content), 2**32 - 1))
        count = pick.choice((1, len(content), len(content) // 8, *COUNTS))
        entries.append((tag, kind, count, value))
    if pick.random() < 0.8:
        entries.sort()
    count = len(entries) if pick.random() < 0.95 else pick.choice((0, 65_535))
    data = head + content + struct.pack(order + ("Q" if big else "H"), count)
    for entry in entries:
        data += struct.pack(order + ("HHQQ" if big else "HHII"), *entry)
    following = pick.choice((0, 0, place, 2**32 - 1))
    return data + struct.pack(order + ("Q" if big else "I"), following)


def _tiff(pick: random.Random) -> bytes:
    width, height = (min(_side(pick), 2**32 - 1) for _ in range(2))
    samples = pick.choice((1, 1, 3, 4, 5, 65_535))
    fields = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, pick.choice((1, 8, 8, 8, 16, 32, 64, 65_535))),
        (259, 3, 1, pick.choice((1, 1, 2, 5, 7, 8, 32773, 32946, 34925, 50000, 50001, 6, 99))),
        (262, 3, 1, pick.choice((0, 1, 2, 3, 5, 6, 8))),
        (277, 3, 1, samples),
    ]
    if pick.random() < 0.5:
        fields += [
            (273, 4, pick.choice((1, 1, 2, 1000)), 8),
            (278, 4, 1, pick.choice((1, height, 2**32 - 1))),
            (279, 4, 1, pick.choice((width * height & 0xFFFFFFFF, 100, 2**32 - 1))),
        ]
    else:
        fields += [
            (322, 4, 1, _side(pick)),
            (323, 4, 1, _side(pick)),
            (324, 4, pick.choice((1, 1, 4, 1000)), 8),
            (325, 4, 1, pick.choice((100, 65_536, 2**32 - 1))),
        ]
    fields += [
        (284, 3, 1, pick.choice((1, 1, 2, 9))),
        (317, 3, 1, pick.choice((1, 2, 3))),
        (338, 3, 1, pick.choice((0, 1, 2))),
        (320, 3, pick.choice((768, 3, 2**20)), 8),
    ][: pick.randrange(5)]
    return _directory(pick, fields)


def _segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", (len(data) + 2) & 0xFFFF) + data


def _jpeg(pick: random.Random) -> bytes:
    """Return a JPEG file with repeated scans, segments and metadata, or another size."""
    data = _encode(pick, "JPEG", progressive=pick.random() < 0.6)
    frame = next(at for at in range(len(data)) if data[at : at + 2] in (b"\xff\xc0", b"\xff\xc2"))
    if pick.random() < 0.4:
        width, height = (min(_side(pick), 65_535) for _ in range(2))
        data = data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]
    if pick.random() < 0.1:  # another process, number of components or sampling
        at = pick.choice((frame + 1, frame + 9, frame + 11))
        data = data[:at] + bytes([pick.randrange(256)]) + data[at + 1 :]
    scan, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    if pick.random() < 0.5:
        data = data[:end] + data[scan:end] * pick.choice((1, 30, 90, 3000)) + data[end:]
    extra = b""
    for _ in range(pick.randrange(6)):
        exif = b"Exif\0\0" + _directory(pick)[:60_000]
        extra += _segment(
            pick.choice((0xE0, 0xE1, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xC4, 0xDB, 0xDD, 0xDC)),
            pick.choice(
                (
                    exif,
                    b"MPF\0" + exif[6:],
                    b"JFIF\0\1\1\1\0\0\0\0\0\0",
                    b"ICC_PROFILE\0\1\1",
                    b"Photoshop 3.0\0" + _noise(pick),
                    _noise(pick),
                )
            ),
        )
    if pick.random() < 0.03:
        extra += b"\xff\xfe\0\2" * pick.choice((1000, 200_000))
    return data[:2] + extra + data[2:]


def _webp(pick: random.Random) -> bytes:
    """Return a WebP file with wrong sizes, or chunks and frames that do not fit."""
    whole = _encode(pick, "WEBP", lossless=pick.random() < 0.5)
    picture = whole[12:]
    if pick.random() < 0.5:
        at = pick.randrange(4, min(len(picture), 30))
        picture = picture[:at] + pick.randbytes(4) + picture[at + 4 :]
    width, height = (min(max(_side(pick), 1), 2**24) - 1 for _ in range(2))
    flags = pick.randrange(256)
    canvas = bytes((flags, 0, 0, 0)) + width.to_bytes(3, "little") + height.to_bytes(3, "little")
    frame = bytes(6) + canvas[4:10] + bytes(4) + picture
    parts: list[Part] = [
        (b"ANIM", bytes(6)),
        (b"ANMF", frame),
        (b"EXIF", _directory(pick)),
        (b"XMP ", _noise(pick)),
        (b"ICCP", _noise(pick)),
        (b"ALPH", _noise(pick)),
    ]
    chunks = b""
    for name, content in [(b"VP8X", canvas), *pick.sample(parts, pick.randrange(len(parts)))]:
        length = len(content) if pick.random() < 0.95 else pick.choice(COUNTS)
        chunks += name + struct.pack("<I", length & 0xFFFFFFFF) + content + bytes(len(content) % 2)
    body = b"WEBP" + (chunks if pick.random() < 0.7 else b"") + picture
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _bmp(pick: random.Random) -> bytes:
    width, height = (min(_side(pick), 2**31 - 1) for _ in range(2))
    height = pick.choice((height, height, -height))
    bits, compression = pick.choice((1, 4, 8, 16, 24, 32, 7)), pick.choice((0, 0, 1, 2, 3, 4, 9))
    size = pick.choice((40, 40, 12, 52, 108, 124, 64, 99, 2**32 - 1))
    runs = pick.choice((b"\1\1\0\0", b"\xff\1", b"\0\2\xff\xff", b"\0\xff" + bytes(255), b"\0\1"))
    colors = pick.choice((0, 2, 256, 2**32 - 1))
    header = struct.pack("<IiiHHI", size, width, height, 1, bits, compression)
    header += struct.pack("<IiiII", pick.choice(COUNTS), 0, 0, colors, 0)
    body = _noise(pick, 2000) + runs * pick.choice((0, 100, 10_000))
    start = pick.choice((54, 54 + 1024, 14, 2**32 - 1))
    return b"BM" + struct.pack("<IHHI", len(body), 0, 0, start) + header + body


def main(first: int, count: int) -> None:
    """Segment hostile images with limited memory and time, and print what came of it."""
    import json
    import resource
    import time
    import warnings

    warnings.simplefilter("ignore")
    from egeunet import EgeunetError, Segmenter

    segment: Callable[[bytes], object] = Segmenter(threads=1)
    segment(_encode(random.Random(0), "PNG"))  # what the runtime itself takes is there now
    resource.setrlimit(resource.RLIMIT_AS, (4_000_000_000,) * 2)
    slowest = (0.0, -1)
    done, failures = 0, []
    for seed in range(first, first + count):
        data = make(seed)
        start = time.process_time()
        try:
            result = segment(data)
            result.mask, result.box, result.image  # type: ignore[attr-defined]  # noqa: B018
            done += 1
        except EgeunetError as error:
            if len(str(error)) > 300 or "\n" in str(error):
                failures.append((seed, str(error)))
        except BaseException as error:
            failures.append((seed, repr(error)))
        slowest = max(slowest, (time.process_time() - start, seed))
    # Not ru_maxrss, which a child process inherits from the process that started it.
    with Path("/proc/self/status").open() as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1000
    print(json.dumps({"done": done, "failures": failures, "peak_mb": peak, "slowest": slowest}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
