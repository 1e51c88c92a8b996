import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from egeunet.metrics.surface import surface_distances

masks = arrays(np.bool_, (12, 17))


def monai_distances(prediction, target):
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    a, b = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, target))
    hd95 = compute_hausdorff_distance(a, b, include_background=True, percentile=95)
    assd = compute_average_surface_distance(a, b, include_background=True, symmetric=True)
    return float(hd95), float(assd)


def disk(row, column, radius, size=64):
    rows, columns = np.ogrid[:size, :size]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def dot(row, column):
    mask = np.zeros((64, 64), bool)
    mask[row, column] = True
    return mask


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize(
    ("prediction", "target"),
    [
        (disk(30, 30, 12), disk(33, 28, 15)),
        (disk(5, 5, 12), disk(60, 60, 20)),
        (disk(30, 30, 20) & ~disk(30, 30, 8), disk(30, 30, 20)),
        (np.ones((64, 64), bool), disk(30, 30, 12)),
        (np.ones((64, 64), bool), np.ones((64, 64), bool)),
        (dot(0, 0), np.ones((64, 64), bool)),
        (dot(0, 0), dot(63, 63)),
        (dot(7, 7), dot(7, 7)),
        *((np.random.default_rng(seed).random((2, 64, 64)) > 0.5) for seed in range(3)),
    ],
)
def test_distances_are_those_of_monai(prediction, target):
    found = surface_distances(prediction, target)
    assert found == pytest.approx(monai_distances(prediction, target), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("prediction", "target"),
    [(False, False), (False, True), (True, False)],
    ids=["both empty", "empty prediction", "empty truth"],
)
def test_distances_to_an_empty_mask_are_undefined(prediction, target):
    found = surface_distances(np.full((8, 8), prediction), np.full((8, 8), target))
    assert math.isnan(found.hd95)
    assert math.isnan(found.assd)


def test_two_dots_are_as_far_apart_as_they_are():
    assert surface_distances(dot(10, 10), dot(13, 14)) == (5.0, 5.0)


@settings(deadline=None, max_examples=60)
@given(masks, masks)
def test_what_holds_for_all_masks(a, b):
    found = surface_distances(a, b)
    if not (a.any() and b.any()):
        assert math.isnan(found.hd95)
        return
    assert 0 <= found.hd95 <= math.hypot(12, 17)
    assert 0 <= found.assd <= math.hypot(12, 17)
    assert surface_distances(b, a) == pytest.approx(found)
    assert surface_distances(a, a) == (0, 0)
    assert surface_distances(a[::-1, ::-1], b[::-1, ::-1]) == pytest.approx(found)


@settings(deadline=None, max_examples=30)
@given(arrays(np.bool_, (6, 7)).filter(np.any), st.integers(0, 5), st.integers(0, 5))
def test_a_shift_moves_no_outline_pixel_further_than_itself(mask, down, right):
    here, there = np.zeros((2, 20, 20), bool)
    here[3:9, 3:10] = mask
    there[3 + down : 9 + down, 3 + right : 10 + right] = mask
    assert surface_distances(here, there).hd95 <= math.hypot(down, right) + 1e-9
