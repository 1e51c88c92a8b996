"""Files and requests made to exhaust a service: each is small and asks for much."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def png(width, height, color_type=0, depth=8, fill=b"\0"):
    """Return a PNG file of one color; it compresses about a thousandfold."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]
    row = b"\0" + fill * ((width * channels * depth + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return _png_file(_chunk(b"IHDR", head), _chunk(b"IDAT", data))


def png_that_claims(width, height):
    """Return a PNG file of a few kilobytes whose header promises more than it holds."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return _png_file(_chunk(b"IHDR", head), _chunk(b"IDAT", zlib.compress(b"\xff" * 1_000_000)))


def png_with_shared_exif_values(entries=36_000):
    """Return a PNG file of 100×100 pixels whose EXIF entries all point at the same bytes."""
    size = 14 + 12 * entries
    directory = b"".join(
        struct.pack("<HHII", 0x9000 + index % 0x6000, 2, size - 8, 8) for index in range(entries)
    )
    exif = b"II*\0" + struct.pack("<IH", 8, entries) + directory + b"\0\0\0\0"
    head = struct.pack(">IIBBBBB", 100, 100, 8, 0, 0, 0, 0)
    data = zlib.compress((b"\0" + b"\x80" * 100) * 100)
    return _png_file(_chunk(b"IHDR", head), _chunk(b"eXIf", exif), _chunk(b"IDAT", data))


def jpeg_with_scans(scans=8000, side=2000):
    """Return a progressive JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.new("L", (side, side), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    tables = data.rindex(b"\xff\xc4", 0, last)
    return data[:-2] + data[tables:-2] * scans + data[-2:]


def encoded(mode, size, kind, **options):
    """Return an image of one color as a file."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


def form_with_charset(charset, size=400_000):
    """Return a form with a long text field, and a content type that names its encoding."""
    start = {"idna": b"xn--"}.get(charset, b"")
    head = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + start + b"a" * size
    return head + b"\r\n--b--\r\n", f"multipart/form-data; boundary=b; charset={charset}"


def _chunk(kind, data):
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


def _png_file(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, _chunk(b"IEND", b"")])


METHODS = (
    b"POST",
    b"POST",
    b"POST",
    b"GET",
    b"HEAD",
    b"PUT",
    b"OPTIONS",
    b"post",
    b"P\0ST",
    b"A" * 5000,
)
PATHS = (
    *(b"/v1/segment",) * 6,
    *(b"/v1/segment/batch",) * 3,
    b"/v1/models",
    b"/metrics",
    b"/../../etc/passwd",
    b"/%2e%2e/%00/%ff",
    b"//v1//segment",
    b"*",
    b"http://elsewhere.example/v1/segment",
    b"/" + b"a" * 70_000,
    b"/v1/segment?" + b"&".join(b"format=mask" for _ in range(3000)),
    b"/v1/segment?format=%ff%fe",
    b"/v1/segment?format[]=json&%=%&&==",
    b"/caf\xc3\xa9",
)
HEADERS = (
    b"Accept: " + b"image/png;q=0.1," * 2000,
    b"Accept: image/png;q=nan, */*;q=1e999, a;q=-1",
    b"Accept: \xff\xfe",
    b"Authorization: Bearer \xf0\x9f\x94\x91",
    b"Authorization: " + b"Bearer " * 1000,
    b"Origin: null",
    b"Origin: https://elsewhere.example",
    b"Origin: http://[",
    b"Sec-Fetch-Site: cross-site",
    b"Expect: 100-continue",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
    b"Connection: close, keep-alive, x",
    b"Content-Encoding: gzip",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Content-Length: -1",
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Content-Length: " + b"9" * 30,
    b"Content-Length: 0x10",
    b"Host: a\r\nHost: b",
    b"X: a\r\n folded",
    b"X" * 3000 + b": y",
    b": no name",
    b"no colon",
    b"X: \0\x1b[31m",
    b"Cookie: " + b"a=b; " * 5000,
    b"\r\n".join(b"X-%d: y" % index for index in range(4000)),
)
CHARSETS = (
    b"punycode",
    b"idna",
    b"utf-7",
    b"utf-16",
    b"zlib",
    b"rot13",
    b"unicode_escape",
    b"\xff",
)
DISPOSITIONS = (
    b'form-data; name="file"; filename="a.jpg"',
    b'form-data; name="file"; filename="' + b"../" * 500 + b'"',
    b'form-data; name="file"; filename="\x1b[31m\xff\0"',
    b"form-data; name=file; filename*=punycode''" + b"a" * 5000,
    b"form-data; name=file; filename*=utf-8''%ff%00%0d%0a",
    b'form-data; name="file"; filename="' + b"\\" * 4001,
    b'form-data; name="file"' + b'; filename="' * 600,
    b"form-data" + b";" * 8000,
    b"form-data; filename=x",
    b"attachment",
    b"",
)
BOUNDARIES = (b"b", b"b" * 70, b"b" * 2000, b"", b'"b c"', b"'()+_,-./:=?", b"\r", b"--", b"\xff")


def damaged(chance, image):
    """Return an image with a random defect."""
    data = bytearray(image)
    for _ in range(chance.randrange(1, 40)):
        place = chance.randrange(len(data))
        kind = chance.randrange(4)
        if kind == 0:
            data[place] = chance.randrange(256)
        elif kind == 1:
            data[place:place] = chance.randbytes(chance.randrange(1, 30))
        elif kind == 2:
            del data[place : place + chance.randrange(1, 30)]
        else:  # lengths and counts are often big-endian words
            data[place : place + 4] = chance.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4))
        if not data:
            return b""
    return bytes(data[: chance.randrange(1, len(data) + 1)] if chance.random() < 0.2 else data)


def form(chance, image):
    """Return a multipart form with random defects, and its content type."""
    boundary = chance.choice(BOUNDARIES)
    end = chance.choice((b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"))
    parts = []
    for _ in range(chance.choice((0, 1, 1, 1, 2, 33, 2000))):
        head = b"Content-Disposition: " + chance.choice(DISPOSITIONS)
        head += chance.choice((b"", end + b"Content-Type: " + b"x" * 20_000, end + b"X: y" * 3))
        data = chance.choice((b"", b"x", b"\r\n--" + boundary[:-1], damaged(chance, image)))
        parts.append(end + b"--" + boundary + end + head + chance.choice((end * 2, end)) + data)
        if sum(map(len, parts)) > 1_000_000:
            break
    tail = chance.choice((end + b"--" + boundary + b"--" + end, b"", b"\r\n--" + boundary))
    kind = b"multipart/" + chance.choice((b"form-data", b"form-data", b"mixed")) + b"; boundary="
    kind += boundary
    if chance.random() < 0.4:
        kind += b"; charset=" + chance.choice(CHARSETS)
    return b"".join(parts)[chance.choice((0, 2)) :] + tail, kind


def chunked(chance, body):
    """Return a body in chunks, some of them wrong."""
    size = chance.choice((1 + len(body) // 3, 1 + len(body) // 300))
    chunks = []
    for start in range(0, len(body), size):
        piece = body[start : start + size]
        line = b"%x" % len(piece)
        if chance.random() < 0.1:
            wrong = (b"-1", b"f" * 17, b"0x5", b"", line + b";" + b"x" * 9000, b"\xff")
            line = chance.choice(wrong)
        chunks.append(line + b"\r\n" + piece + chance.choice((b"\r\n",) * 9 + (b"",)))
    trailer = chance.choice(
        (b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\n", b"", b"00000000000\r\n\r\n")
    )
    return b"".join(chunks) + trailer


def request(chance, image):
    """Return the bytes of a random hostile request."""
    if chance.random() < 0.03:
        return chance.randbytes(chance.randrange(1, 5000))
    if chance.random() < 0.5:
        body, kind = form(chance, image)
    else:
        bombs = (png_that_claims(60_000, 60_000), png_that_claims(8000, 8000), b"", b"II*\0" * 99)
        body = chance.choice((image, *[damaged(chance, image)] * 4, chance.choice(bombs)))
        kind = chance.choice(
            (b"image/jpeg", b"application/octet-stream", b"text/plain", b"", b"\xff")
        )
    common = chance.random() < 0.6
    line = [
        b"POST" if common else chance.choice(METHODS),
        chance.choice(PATHS[:9] if common else PATHS),
        b"HTTP/1.1" if common else chance.choice((b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"X")),
    ]
    head = [b" ".join(line), b"Host: x", b"Content-Type: " + kind]
    head += chance.sample(HEADERS, chance.choice((0, 0, 1, 1, 2)))
    if chance.random() < 0.3:
        head.append(b"Transfer-Encoding: chunked")
        body = chunked(chance, body)
    if chance.random() < 0.8:
        wrong = chance.random() < 0.05
        head.append(b"Content-Length: %d" % (len(body) + wrong * chance.choice((-1, 1, 9999))))
    chance.shuffle(head[1:])
    sent = b"\r\n".join(head) + b"\r\n\r\n" + body
    if chance.random() < 0.1:
        sent += sent[: chance.randrange(len(sent))]  # pipelined, and cut short
    return sent
