"""Distances between the outlines of two masks, in pixels.

The definitions are MONAI's (`compute_hausdorff_distance(percentile=95)` and
`compute_average_surface_distance(symmetric=True)`, the oracles of the tests). Here both come from
one pair of distance maps, in half the time and without importing MONAI.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class SurfaceDistances(NamedTuple):
    """Distances between two outlines, in pixels.

    Attributes:
        hd95: The larger of the two directed 95th percentiles of the distance from an outline pixel
            to the nearest one of the other outline.
        assd: Average symmetric surface distance: the mean of those distances in both directions.
    """

    hd95: float
    assd: float


def surface_distances(prediction: Mask, target: Mask) -> SurfaceDistances:
    """Measure the distance between the outlines of two masks.

    The outline is every mask pixel that shares an edge with the outside; outside the image is
    outside the mask. Distances are Euclidean, between pixel centres.

    Args:
        prediction: (H, W), true on foreground.
        target: (H, W), true on foreground.

    Returns:
        Distances in pixels; both nan if either mask is empty.
    """
    if not (prediction.any() and target.any()):
        return SurfaceDistances(float("nan"), float("nan"))
    either = prediction | target
    rows, columns = (np.flatnonzero(either.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    first, second = _outline(prediction[box]), _outline(target[box])
    forth, back = _distances(first, second), _distances(second, first)
    return SurfaceDistances(
        hd95=float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        assd=float(np.concatenate((forth, back)).mean()),
    )


def _outline(mask: Mask) -> Mask:
    around = np.pad(mask, 1)
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return mask & ~inside


def _distances(start: Mask, end: Mask) -> NDArray[np.float64]:
    from scipy.ndimage import distance_transform_edt

    distance: NDArray[np.float64] = distance_transform_edt(~end)[start]
    return distance
