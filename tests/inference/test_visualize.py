import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from egeunet.inference.visualize import bounding_box, class_color, draw_overlay, trace_contours

masks = hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def fill(contours: list[NDArray[np.int32]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill polygons by the even-odd rule with Pillow, at 4 times the size.

    Pillow colours the edge of a polygon too; the middles of the pixels are away from it there.
    """
    height, width = shape
    filled = np.zeros(shape, dtype=bool)
    for polygon in contours:
        image = Image.new("1", (width * 4 + 1, height * 4 + 1))
        ImageDraw.Draw(image).polygon([(int(x) * 4, int(y) * 4) for x, y in polygon], fill=1)
        filled ^= np.asarray(image)[2::4, 2::4]
    return filled


def signed_area(polygon: NDArray[np.int32]) -> float:
    """Shoelace formula; positive when it runs clockwise on a screen."""
    x, y = polygon.astype(np.int64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


@given(masks)
def test_filling_the_contours_gives_the_mask_back(mask: NDArray[np.bool_]) -> None:
    contours = trace_contours(mask)
    np.testing.assert_array_equal(fill(contours, mask.shape), mask)
    assert sum(map(signed_area, contours)) == mask.sum()


@given(masks)
def test_there_is_one_outer_border_per_region_and_one_more_per_hole(
    mask: NDArray[np.bool_],
) -> None:
    areas = [signed_area(polygon) for polygon in trace_contours(mask)]
    _, regions = ndimage.label(mask, structure=np.ones((3, 3)))
    _, outsides = ndimage.label(np.pad(~mask, 1, constant_values=True))
    assert sum(area > 0 for area in areas) == regions
    assert sum(area < 0 for area in areas) == outsides - 1


@given(masks)
def test_contours_turn_at_every_corner(mask: NDArray[np.bool_]) -> None:
    for polygon in trace_contours(mask):
        assert polygon.dtype == np.int32
        steps = np.roll(polygon, -1, axis=0) - polygon
        assert ((steps == 0).sum(axis=1) == 1).all(), "edges run along the grid"
        assert ((steps[:, 0] == 0) != (np.roll(steps[:, 0], -1) == 0)).all()


def test_one_pixel_and_a_ring() -> None:
    mask = np.zeros((5, 6), dtype=bool)
    mask[2, 3] = True
    assert [c.tolist() for c in trace_contours(mask)] == [[[3, 2], [4, 2], [4, 3], [3, 3]]]
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    outer, hole = trace_contours(ring)
    assert outer.tolist() == [[0, 0], [3, 0], [3, 3], [0, 3]]
    assert hole.tolist() == [[1, 1], [1, 2], [2, 2], [2, 1]]
    assert trace_contours(np.zeros((4, 4), dtype=bool)) == []


def test_twelve_megapixels_are_traced_quickly() -> None:
    coarse = np.random.default_rng(0).random((8, 8), dtype=np.float32)
    smooth = Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC)
    mask = np.asarray(smooth) > 0.5
    start = time.perf_counter()
    contours = trace_contours(mask)
    assert time.perf_counter() - start < 2
    assert sum(map(signed_area, contours)) == mask.sum()


@given(masks)
def test_bounding_box(mask: NDArray[np.bool_]) -> None:
    box = bounding_box(mask)
    if box is None:
        assert not mask.any()
        return
    x0, y0, x1, y1 = box
    inside = mask[y0:y1, x0:x1]
    assert inside.sum() == mask.sum()
    assert inside[0].any()
    assert inside[-1].any()
    assert inside[:, 0].any()
    assert inside[:, -1].any()


def test_class_colors_differ() -> None:
    assert class_color(0) == (0, 0, 0)
    assert len({class_color(k) for k in range(256)}) == 256


def test_overlay_tints_the_inside_outlines_the_border_and_leaves_the_rest() -> None:
    photo = np.full((600, 600, 3), 200, dtype=np.uint8)
    classes = np.zeros((600, 600), dtype=np.uint8)
    classes[100:300, 100:300] = 1
    classes[400:500, 400:500] = 2
    before = photo.copy()
    image = np.asarray(draw_overlay(photo, classes, opacity=0.5))
    np.testing.assert_array_equal(photo, before)
    assert image[50, 50].tolist() == [200, 200, 200]
    for index, (y, x) in ((1, (200, 200)), (2, (450, 450))):
        expected = (200 + np.array(class_color(index))) / 2
        assert np.abs(image[y, x] - expected).max() <= 1
    assert tuple(image[100, 200]) == class_color(1)
    assert tuple(image[450, 400]) == class_color(2)
    outline = np.asarray(draw_overlay(photo, classes, opacity=0))
    assert outline[200, 200].tolist() == [200, 200, 200]
    assert tuple(outline[100, 200]) == class_color(1)


@pytest.mark.parametrize("value", [0, 1])
def test_overlay_of_empty_and_full_masks(value: int) -> None:
    photo = np.full((3, 4, 3), 200, dtype=np.uint8)
    image = draw_overlay(photo, np.full((3, 4), value, dtype=np.uint8), 0.5)
    assert image.size == (4, 3)
    assert (np.asarray(image) == photo).all() == (value == 0)
