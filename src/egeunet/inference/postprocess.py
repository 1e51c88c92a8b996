"""Largest component and hole filling of masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def postprocess(
    scores: NDArray[np.float32], threshold: float, largest_component: bool, fill_holes: bool
) -> NDArray[np.float32]:
    """Change as few probabilities as possible so that their mask has one component or no holes.

    Args:
        scores: float32 (h, w) in 0…1.
        threshold: Pixels with this probability or more are in the mask.
        largest_component: Lower all components but the largest to just below the threshold.
        fill_holes: Then raise the holes of the mask to just above the threshold.

    Returns:
        float32 (h, w).
    """
    limit = np.float32(threshold)
    mask = scores >= limit
    if largest_component:
        other = mask & ~keep_largest_component(mask)
        scores = np.where(other, np.nextafter(limit, np.float32(0)), scores)
        mask &= ~other
    if fill_holes:
        # Above it: the nearest float32 may be less than the threshold itself.
        holes = fill_mask_holes(mask) & ~mask
        scores = np.where(holes, np.nextafter(limit, np.float32(1)), scores)
    return scores


def keep_largest_component(mask: Mask) -> Mask:
    """Return the largest component of a mask (h, w), the upper one of equals.

    Pixels are connected along edges: at a corner, they would come apart when the mask is enlarged.
    """
    labels = label_components(mask)
    if not labels.any():
        return mask
    return labels == np.bincount(labels[mask]).argmax()


def fill_mask_holes(mask: Mask) -> Mask:
    """Return a mask (h, w) with the background that is not connected to its border."""
    outside = label_components(~np.pad(mask, 1))
    return (outside != outside[0, 0])[1:-1, 1:-1]


def label_components(mask: Mask) -> NDArray[np.intp]:
    """Label the connected components of a mask (4-connectivity), as `scipy.ndimage.label` does.

    Args:
        mask: bool (h, w).

    Returns:
        (h, w): 0 outside the mask, else the component's number from 1 on, in reading order.
    """
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)  # runs of pixels
    _, ends = np.nonzero(steps == -1)  # exclusive
    parent = list(range(len(rows)))

    def find(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    first = np.searchsorted(rows, np.arange(mask.shape[0] + 1))
    for row in range(1, mask.shape[0]):
        above, here = first[row - 1], first[row]
        while above < first[row] and here < first[row + 1]:
            if starts[above] < ends[here] and starts[here] < ends[above]:
                low, high = sorted((find(int(above)), find(int(here))))
                parent[high] = low
            if ends[above] < ends[here]:
                above += 1
            else:
                here += 1
    roots = np.array([find(run) for run in range(len(rows))], np.intp)
    _, numbers = np.unique(roots, return_inverse=True)
    change = np.zeros((mask.shape[0], mask.shape[1] + 1), np.intp)
    change[rows, starts] += numbers + 1
    change[rows, ends] -= numbers + 1
    return change.cumsum(axis=1)[:, :-1]
