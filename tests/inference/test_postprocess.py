import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from egeunet.inference.postprocess import (
    fill_mask_holes,
    keep_largest_component,
    label_components,
    postprocess,
)
from egeunet.inference.preprocess import upsample_mask

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(MASKS)
def test_pieces_are_those_of_scipy(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(label_components(mask), ndimage.label(mask)[0])


@given(MASKS)
def test_filling_is_that_of_scipy(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(fill_mask_holes(mask), ndimage.binary_fill_holes(mask))


@given(MASKS)
def test_the_largest_piece_is_one_of_the_pieces_and_none_is_larger(mask: np.ndarray) -> None:
    kept = keep_largest_component(mask)
    pieces, count = ndimage.label(mask)
    sizes = [(pieces == index).sum() for index in range(1, count + 1)]
    assert kept.sum() == max(sizes, default=0)
    assert len(np.unique(pieces[kept])) == min(count, 1)


@given(
    arrays(np.float32, (9, 11), elements=st.floats(0, 1, width=32)),
    st.floats(0.1, 0.9),
)
def test_tidying_changes_no_more_than_the_mask_needs(scores: np.ndarray, threshold: float) -> None:
    limit = np.float32(threshold)
    mask = scores >= limit
    expected = fill_mask_holes(keep_largest_component(mask))
    found = postprocess(scores, threshold, largest_component=True, fill_holes=True)
    np.testing.assert_array_equal(found >= limit, expected)
    np.testing.assert_array_equal(found[mask == expected], scores[mask == expected])
    assert found.dtype == np.float32


@pytest.mark.parametrize("threshold", [0.35, 0.5, 0.7, 0.9])
def test_a_filled_hole_is_filled_at_the_photos_size_too(threshold: float) -> None:
    scores = np.zeros((64, 64), np.float32)
    scores[8:56, 8:56] = 0.99
    scores[24:40, 24:40] = 0.01
    filled = postprocess(scores, threshold, largest_component=False, fill_holes=True)
    mask = upsample_mask(filled, (301, 407), threshold)
    np.testing.assert_array_equal(mask, fill_mask_holes(mask))
    assert mask[150, 200]


def test_the_largest_piece_is_one_piece_at_the_photos_size_too() -> None:
    scores = np.full((64, 64), 0.02, np.float32)
    scores[8:24, 8:24] = scores[24:44, 24:44] = 0.8  # they touch at a corner
    kept = postprocess(scores, 0.5, largest_component=True, fill_holes=False)
    mask = upsample_mask(kept, (301, 407), 0.5)
    assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
    assert mask[160, 215]
    assert not mask[75, 100]


def test_a_large_mask_of_noise_is_done_in_time() -> None:
    mask = np.random.default_rng(0).random((256, 256)) < 0.5
    pieces, _ = ndimage.label(mask)
    assert keep_largest_component(mask).sum() == np.bincount(pieces[mask]).max()


@pytest.mark.parametrize("value", [True, False])
def test_full_and_empty_masks(value: bool) -> None:
    mask = np.full((5, 4), value)
    np.testing.assert_array_equal(keep_largest_component(mask), mask)
    np.testing.assert_array_equal(fill_mask_holes(mask), mask)
