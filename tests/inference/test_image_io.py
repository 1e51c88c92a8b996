import gzip
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from egeunet.errors import EgeunetError
from egeunet.inference.image_io import EncodedImage, read_image, read_reduced
from egeunet.inference.pixels import MAX_PIXELS


def encode(image: Image.Image, suffix: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    """A smooth picture, 20 high and 30 wide, different in every corner and channel."""
    y, x = np.mgrid[0:20, 0:30]
    return np.stack((x * 8, y * 12, 255 - x * 4 - y * 4), axis=-1).astype(np.uint8)


# Formats


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("JPEG", {"quality": 98, "subsampling": 0}, 12),
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 30),
    ],
)
def test_formats(
    pixels: NDArray[np.uint8], suffix: str, options: dict[str, object], tolerance: int
) -> None:
    found = read_image(encode(Image.fromarray(pixels), suffix, **options))
    assert found.dtype == np.uint8
    assert found.shape == (20, 30, 3)
    assert np.abs(found.astype(int) - pixels).max() <= tolerance


def test_a_path_bytes_an_open_file_an_image_and_an_array_are_the_same_photo(
    pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    with path.open("rb") as file, Image.open(path) as image:
        data = path.read_bytes()
        for source in (
            path,
            str(path),
            data,
            bytearray(data),
            memoryview(data),
            file,
            image,
            pixels,
        ):
            np.testing.assert_array_equal(read_image(source), pixels)


# EXIF's orientation says at which sides row 0 and column 0 of the file are to be seen: 1 top left,
# 2 top right, 3 bottom right, 4 bottom left, 5 left top, 6 right top, 7 right bottom and 8 left
# bottom.
# Each function makes of an upright photo what such a file stores.
STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("suffix", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(
    pixels: NDArray[np.uint8], suffix: str, orientation: int
) -> None:
    stored = np.ascontiguousarray(STORED[orientation](pixels))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 98}}[suffix]
    found = read_image(encode(Image.fromarray(stored), suffix, exif=exif, **options))
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).max() <= (40 if suffix == "JPEG" else 0)


def test_an_image_keeps_its_orientation_when_it_is_given_opened(
    pixels: NDArray[np.uint8],
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(io.BytesIO(encode(Image.fromarray(pixels), "PNG", exif=exif))) as image:
        np.testing.assert_array_equal(read_image(image), pixels[::-1, ::-1])
        assert image.getexif()[0x0112] == 3, "the caller's image was changed"


def test_an_image_that_was_turned_since_it_was_opened_is_not_turned_again(
    pixels: NDArray[np.uint8],
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](pixels)))
    with Image.open(io.BytesIO(encode(stored, "PNG", exif=exif))) as image:
        np.testing.assert_array_equal(read_image(image), pixels)
        np.testing.assert_array_equal(read_image(image.rotate(-90, expand=True)), pixels)
        upright = ImageOps.exif_transpose(image)
        np.testing.assert_array_equal(read_image(upright), pixels)


def test_broken_exif_does_not_spoil_the_pixels(pixels: NDArray[np.uint8]) -> None:
    data = encode(Image.fromarray(pixels), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\0\1\2")
    np.testing.assert_array_equal(read_image(data), pixels)


# Modes


def test_transparent_pixels_are_laid_on_white(pixels: NDArray[np.uint8]) -> None:
    alpha = np.full((20, 30, 1), 255, dtype=np.uint8)
    alpha[:5] = 0
    found = read_image(encode(Image.fromarray(np.dstack((pixels, alpha))), "PNG"))
    assert (found[:5] == 255).all()
    np.testing.assert_array_equal(found[5:], pixels[5:])
    np.testing.assert_array_equal(read_image(np.dstack((pixels, alpha))), found)


def test_half_transparent_grey(pixels: NDArray[np.uint8]) -> None:
    image = Image.merge("LA", (Image.new("L", (4, 3), 100), Image.new("L", (4, 3), 128)))
    found = read_image(encode(image, "PNG"))
    assert found.shape == (3, 4, 3)
    assert np.abs(found.astype(float) - (100 * 128 + 255 * 127) / 255).max() <= 1


def test_palette() -> None:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((0, 0), 0)
    for suffix in ("PNG", "BMP", "TIFF"):
        found = read_image(encode(image, suffix))
        assert found[0, 0].tolist() == [0, 0, 0]
        assert found[2, 3].tolist() == [10, 20, 30]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((0, 0), 0)
    found = read_image(encode(image, "PNG", transparency=transparency))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[2, 3].tolist() == [10, 20, 30]


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
def test_16_bit_grey(suffix: str) -> None:
    values = np.array([[0, 257, 32768], [65535, 128, 129]], dtype=np.uint16)
    expected = [[0, 1, 128], [255, 0, 1]]
    found = read_image(encode(Image.fromarray(values), suffix))
    for channel in range(3):
        assert found[..., channel].tolist() == expected
    np.testing.assert_array_equal(read_image(values), found)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.uint32, np.uint16])
def test_eight_bits_in_a_wider_type_are_not_taken_for_more(kind: type) -> None:
    values = np.array([[0, 100], [200, 255]], dtype=kind)
    with pytest.raises(EgeunetError, match="uint8"):
        read_image(values)


def test_big_endian_16_bit_tiff() -> None:
    values = np.array([[0, 257], [65535, 2570]], dtype=">u2")
    image = Image.frombytes("I;16B", (2, 2), values.tobytes())
    assert read_image(encode(image, "TIFF"))[..., 0].tolist() == [[0, 1], [255, 10]]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def test_16_bit_colour_png() -> None:
    row = struct.pack(">6H", 65535, 0, 0x8080, 0x1010, 0x2020, 0x3030)
    found = read_image(_png(2, 1, 16, 2, b"\0" + row))
    assert found.tolist() == [[[255, 0, 128], [16, 32, 48]]]


def test_one_bit_and_grey(pixels: NDArray[np.uint8]) -> None:
    grey = Image.fromarray(pixels).convert("L")
    np.testing.assert_array_equal(read_image(encode(grey, "PNG"))[..., 2], np.asarray(grey))
    bit = Image.fromarray(np.eye(9, dtype=bool))
    np.testing.assert_array_equal(read_image(encode(bit, "PNG"))[..., 0], np.eye(9) * 255)
    np.testing.assert_array_equal(read_image(np.eye(9, dtype=bool))[..., 1], np.eye(9) * 255)


def test_cmyk_jpeg(pixels: NDArray[np.uint8]) -> None:
    data = encode(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=98)
    found = read_image(data)
    assert np.abs(found.astype(int) - pixels).mean() < 8


@pytest.mark.parametrize("suffix", ["WEBP", "PNG"])
def test_of_an_animation_it_is_the_first_frame(suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == "WEBP" else {}
    data = encode(frames[0], suffix, save_all=True, append_images=frames[1:], **options)
    assert (read_image(data) == (255, 0, 0)).all()


# Arrays


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_run_from_0_to_1(shape: tuple[int, ...], dtype: type) -> None:
    array = np.linspace(0, 1, int(np.prod(shape))).reshape(shape).astype(dtype)
    found = read_image(array)
    assert found.shape == (5, 6, 3)
    expected = np.broadcast_to(array.astype(float).reshape(5, 6, -1) * 255, (5, 6, 3))
    assert np.abs(found - expected).max() <= 0.51


def test_a_photo_does_not_follow_the_callers_array(pixels: NDArray[np.uint8]) -> None:
    found = read_image(pixels)
    before = found.copy()
    pixels[:] = 0
    np.testing.assert_array_equal(found, before)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((4, 4, 3), np.nan), "from nan"),
        (np.array([[0.5, np.nan], [0, 1]], dtype=np.float32), "nan"),
        (np.full((4, 4), np.inf), "inf"),
        (np.full((4, 4, 3), 200.0), "0…1"),
        (np.full((4, 4), -0.1), "0…1"),
        (np.zeros((4, 4, 3), dtype=np.int64), "int64"),
        (np.zeros((4, 4, 3), dtype=np.int8), "int8"),
        (np.zeros((4, 4), dtype=np.complex64), "complex64"),
        (np.array([["a"]]), "expected uint8"),
        (np.array([[None]], dtype=object), "object"),
        (np.zeros((3, 40, 40), dtype=np.uint8), "channels"),
        (np.zeros((4, 4, 2), dtype=np.uint8), "(4, 4, 2)"),
        (np.zeros(4, dtype=np.uint8), "(4,)"),
        (np.zeros((1, 4, 4, 3), dtype=np.uint8), "(1, 4, 4, 3)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "no pixels"),
        (np.zeros((4, 0), dtype=np.float32), "no pixels"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000, 3)), "too large"),
    ],
)
def test_arrays_of_another_form_are_refused(array: NDArray[np.uint8], words: str) -> None:
    with pytest.raises(EgeunetError) as caught:
        read_image(array)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_types_are_refused() -> None:
    for source in (3, None, [1, 2], io.StringIO("text")):
        with pytest.raises(EgeunetError):
            read_image(source)  # type: ignore[arg-type]


# Hostile files


def test_a_photo_of_one_pixel_is_a_photo() -> None:
    assert read_image(encode(Image.new("RGB", (1, 1), "red"), "PNG")).tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"this is a text that calls itself a photo" * 9, "not an image"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 9, "not an image"),
        (_png(60_000, 60_000, 8, 2, b"\0"), "too large"),
        (_png(20_000, 20_000, 1, 0, b"\0"), "too large"),
        (_png(5, 5, 8, 2, b"\0"), "damaged"),
    ],
    ids=["empty", "text", "header", "bomb", "20000", "short"],
)
def test_hostile_files_give_one_sentence_that_names_them(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(EgeunetError) as caught:
        read_image(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_a_truncated_photo_is_refused(suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), suffix)
    with pytest.raises(EgeunetError):
        read_image(data[: len(data) // 2])


@pytest.mark.parametrize("suffix", ["EPS", "GIF", "PPM", "PDF"])
def test_other_formats_are_refused_before_a_program_is_started_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    ghostscript = tmp_path / "gs"  # which Pillow starts to read EPS
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(EgeunetError, match="expected JPEG, PNG, BMP, TIFF or WebP"):
        read_image(encode(Image.linear_gradient("L"), suffix))
    assert not (tmp_path / "started").exists()


def test_photos_of_a_hundred_megapixels_are_read_without_a_warning() -> None:
    photo = encode(Image.new("1", (10_000, 10_000)), "PNG")
    assert read_image(photo).shape == (10_000, 10_000, 3)


def test_pillows_own_limit_is_left_as_it_was() -> None:
    before = Image.MAX_IMAGE_PIXELS
    read_image(encode(Image.new("L", (2, 2)), "PNG"))
    assert before == Image.MAX_IMAGE_PIXELS
    assert MAX_PIXELS == 200_000_000


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some of the damage
@settings(max_examples=150, deadline=None)
@given(
    suffix=st.sampled_from(["JPEG", "PNG", "BMP", "TIFF", "WEBP"]),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damage_gives_a_photo_or_our_error(suffix: str, damage: list[tuple[float, int]]) -> None:
    data = bytearray(encode(Image.linear_gradient("L").resize((24, 16)).convert("RGB"), suffix))
    for place, value in damage:
        data[int(place * (len(data) - 1))] = value
    try:
        found = read_image(bytes(data))
    except EgeunetError:
        return
    assert found.dtype == np.uint8
    assert found.ndim == 3


def test_an_open_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png.gz"
    path.write_bytes(gzip.compress(encode(Image.linear_gradient("L"), "PNG"))[:-20])
    with (
        gzip.open(path) as file,
        pytest.raises(EgeunetError, match=r"a\.png.* cannot be read: Comp"),
    ):
        read_image(file)
    with path.open("rb") as file:
        pass
    with pytest.raises(EgeunetError, match=r"a\.png\.gz cannot be read: .*closed file"):
        read_image(file)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(EgeunetError, match="No such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(EgeunetError, match=r"is a folder, not an image: .*stream"):
        read_image(tmp_path)


# Large JPEGs


@pytest.fixture
def large() -> Image.Image:
    """A smooth picture, 960 high and 1280 wide."""
    y, x = np.mgrid[0:960, 0:1280]
    return Image.fromarray(np.stack((x // 6, y // 4, (x + y) // 9), axis=-1).astype(np.uint8))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 9])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_decoded_in_part(large: Image.Image, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(large.convert(mode), "JPEG", quality=95, exif=exif)
    reduced, photo = read_reduced(data, least=200)
    assert isinstance(photo, EncodedImage)
    whole = read_image(data)
    assert photo.shape == whole.shape
    pixels = np.asarray(reduced)
    assert pixels.shape == (whole.shape[0] // 4, whole.shape[1] // 4, 3)
    np.testing.assert_array_equal(photo.decode(), whole)
    shrunk = Image.fromarray(whole).resize(pixels.shape[1::-1], Image.Resampling.BOX)
    difference = np.asarray(shrunk).astype(int) - pixels
    assert np.abs(difference).max() <= 6


@pytest.mark.parametrize(("suffix", "least"), [("JPEG", 500), ("JPEG", 2000), ("PNG", 100)])
def test_other_photos_are_decoded_whole(large: Image.Image, suffix: str, least: int) -> None:
    data = encode(large, suffix)
    image, kept = read_reduced(data, least)
    np.testing.assert_array_equal(image, read_image(data))
    np.testing.assert_array_equal(kept, read_image(data))


def test_a_jpeg_with_further_pictures_is_decoded_in_part_too(large: Image.Image) -> None:
    data = encode(large, "MPO", save_all=True, append_images=[large])
    reduced, photo = read_reduced(data, least=200)
    assert reduced.size == (320, 240)
    assert photo.shape == (960, 1280, 3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_photo_is_kept_as_its_file(large: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(large.resize((2560, 1920)), "PNG", exif=exif)
    image, photo = read_reduced(data, least=200)
    assert isinstance(photo, EncodedImage)
    assert photo.shape == np.asarray(image).shape
    np.testing.assert_array_equal(photo.decode(), image)


def test_a_large_jpeg_that_is_cut_short_is_an_error(large: Image.Image) -> None:
    data = encode(large, "JPEG")
    with pytest.raises(EgeunetError, match="cut short"):
        read_reduced(data[: len(data) // 2], least=200)


def test_the_limit_is_on_the_whole_photo(
    large: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egeunet.inference.pixels.MAX_PIXELS", 1_000_000)
    with pytest.raises(EgeunetError, match="1280×960"):
        read_reduced(encode(large, "JPEG"), least=200)
