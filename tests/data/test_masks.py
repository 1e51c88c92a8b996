import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from egeunet.data.masks import read_mask, resize_mask, write_mask
from egeunet.errors import EgeunetError
from egeunet.inference.image_io import read_image

SHAPE = np.zeros((20, 30), bool)
SHAPE[3:11, 5:17] = True


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("gray.png", Image.fromarray(SHAPE.astype(np.uint8) * 255)),
        ("ones.png", Image.fromarray(SHAPE.astype(np.uint8))),
        ("gray.jpg", Image.fromarray(SHAPE.astype(np.uint8) * 255)),
        ("bits.png", Image.fromarray(SHAPE)),
        ("bits.bmp", Image.fromarray(SHAPE)),
        ("color.png", Image.fromarray(SHAPE.astype(np.uint8) * 255).convert("RGB")),
        ("alpha.png", Image.fromarray(SHAPE.astype(np.uint8) * 255).convert("RGBA")),
        ("deep.png", Image.fromarray(SHAPE.astype(np.uint16) * 65535)),
        ("deep.tif", Image.fromarray(SHAPE.astype(np.uint16) * 65535)),
        ("palette.png", Image.fromarray(SHAPE.astype(np.uint8) * 255).convert("P")),
    ],
)
def test_a_binary_mask_reads_the_same_from_every_kind_of_file(name, image, tmp_path):
    image.save(tmp_path / name)
    mask = read_mask(tmp_path / name)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, SHAPE)


def test_the_threshold_is_127(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "soft.png")
    assert read_mask(tmp_path / "soft.png").tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("mode", ["gray", "palette", "palette with colors"])
def test_classes_are_indices(mode, tmp_path):
    classes = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    path = tmp_path / "classes.png"
    if mode == "palette with colors":
        write_mask(path, classes, 3)
    else:
        image = Image.fromarray(classes)
        if mode == "palette":
            image.putpalette([i for value in range(3) for i in (value * 100,) * 3])
        image.save(path)
    np.testing.assert_array_equal(read_mask(path, 3), classes)
    with pytest.raises(EgeunetError, match=r"classes\.png holds the class 2: expected 0 to 1"):
        read_mask(path, 2)


def test_written_classes_read_as_one_foreground_where_binary_is_asked_for(tmp_path):
    classes = np.array([[0, 1, 2]], np.uint8)
    write_mask(tmp_path / "m.png", classes, 3)
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1, 1]]


@given(arrays(np.uint8, (9, 13), elements=st.integers(0, 3)), st.sampled_from([1, 4]))
def test_resizing_keeps_the_classes_and_the_same_size_keeps_everything(mask, num_classes):
    mask = np.minimum(mask, 1) if num_classes == 1 else mask
    np.testing.assert_array_equal(resize_mask(mask, (9, 13), num_classes), mask)
    other = resize_mask(mask, (16, 6), num_classes)
    assert other.shape == (16, 6)
    assert set(np.unique(other)) <= set(np.unique(mask))


def test_resizing_keeps_the_area():
    y, x = np.mgrid[:300, :400]
    disc = (((y - 150) ** 2 + (x - 200) ** 2) < 100**2).astype(np.uint8)
    small = resize_mask(disc, (64, 64))
    assert abs(small.mean() - disc.mean()) < 0.003


def test_other_formats_are_no_masks_as_they_are_no_photos(tmp_path):
    path = tmp_path / "m.png"
    Image.fromarray(SHAPE.astype(np.uint8)).save(path, "EPS")
    with pytest.raises(EgeunetError, match=r"m\.png is not an image"):
        read_mask(path)


@pytest.mark.parametrize("content", [b"", b"hello", "cut"])
def test_a_broken_file_is_one_sentence(content, tmp_path):
    path = tmp_path / "m.png"
    if content == "cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8)).save(path)
        content = path.read_bytes()[:900]
    path.write_bytes(content)
    with pytest.raises(EgeunetError, match=r"m\.png") as caught:
        read_mask(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(EgeunetError, match=r"none\.png"):
        read_mask(tmp_path / "none.png")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes) -> bytes:
    """A gray PNG file that claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize(
    ("size", "message"), [((64_000_000, 1), "too large"), ((60_000, 60_000), "too large")]
)
def test_a_mask_beyond_the_limits_of_images_is_refused_by_its_header(size, message, tmp_path):
    (tmp_path / "m.png").write_bytes(png(*size, b"\0"))
    with pytest.raises(EgeunetError, match=rf"m\.png is {message}"):
        read_mask(tmp_path / "m.png")


def test_a_sparse_file_is_refused_by_its_length(tmp_path):
    with (tmp_path / "m.png").open("wb") as file:
        file.truncate(300 * 10**9)
    with pytest.raises(EgeunetError, match=r"m\.png is too large: the limit is"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_mask_is_turned_as_its_image_is(turn, tmp_path):
    pixels = np.zeros((20, 30), np.uint8)
    pixels[2:8, 3:16] = 255
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).save(tmp_path / "m.png", exif=exif)
    image = read_image(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), image[..., 0] > 127)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_no_damage_of_a_mask_gives_another_error(suffix, tmp_path):
    path = tmp_path / f"m.{suffix}"
    Image.fromarray(SHAPE.astype(np.uint8) * 255).save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for index in range(200):
        content = bytearray(whole)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            content[place] = rng.integers(256)
        path.write_bytes(content[: rng.integers(len(content)) if index % 4 == 0 else None])
        with suppress(EgeunetError):
            assert read_mask(path).ndim == 2
