"""Distances between the outlines of two masks, in pixels.

The definitions are MONAI's (`compute_hausdorff_distance(percentile=95)` and
`compute_average_surface_distance(symmetric=True)`), against which the tests hold these; here
both come from one pair of distance maps, in half the time and without MONAI's import.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class SurfaceDistances(NamedTuple):
    """How far two outlines lie apart.

    Args:
        hd95: The larger of the two directed 95th percentiles of the distance from an outline
            pixel to the nearest one of the other outline.
        assd: Average symmetric surface distance: the mean of those distances, both ways together.
    """

    hd95: float
    assd: float


UNDEFINED = SurfaceDistances(float("nan"), float("nan"))


def surface_distances(prediction: NDArray[np.bool_], target: NDArray[np.bool_]) -> SurfaceDistances:
    """Measure how far the outlines of two masks lie apart.

    The outline is every mask pixel that touches the outside by an edge; outside the image is
    outside the mask. Distances are Euclidean, between pixel centres.

    Args:
        prediction: (H, W), true on foreground.
        target: (H, W), true on foreground.

    Returns:
        Distances in pixels, 0 or more. Where either mask is empty there is no outline to measure
        from, and both are nan: count such images, and leave them out of means.
    """
    if not (prediction.any() and target.any()):
        return UNDEFINED
    box = _bounding_box(prediction | target)
    said, true = _outline(prediction[box]), _outline(target[box])
    forth, back = _distances(said, true), _distances(true, said)
    return SurfaceDistances(
        hd95=float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        assd=float(np.concatenate((forth, back)).mean()),
    )


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    around = np.pad(mask, 1)
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return mask & ~inside


def _distances(start: NDArray[np.bool_], end: NDArray[np.bool_]) -> NDArray[np.float64]:
    from scipy.ndimage import distance_transform_edt

    distance: NDArray[np.float64] = distance_transform_edt(~end)[start]
    return distance
