"""Tidying masks: the largest piece alone, and no holes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def tidy(
    scores: NDArray[np.float32], threshold: float, largest_component: bool, fill_holes: bool
) -> NDArray[np.float32]:
    """Change probabilities as little as possible so that their mask is tidy.

    Args:
        scores: float32 (h, w) in 0…1.
        threshold: From which on a pixel is in the mask.
        largest_component: Take all pieces but the largest to just below the threshold.
        fill_holes: Then raise what the mask surrounds to just above the threshold.

    Returns:
        float32 (h, w).
    """
    limit = np.float32(threshold)
    mask = scores >= limit
    if largest_component:
        other = mask & ~keep_largest(mask)
        scores = np.where(other, np.nextafter(limit, np.float32(0)), scores)
        mask &= ~other
    if fill_holes:
        # Above it: the nearest float32 may be less than the threshold itself.
        scores = np.where(fill(mask) & ~mask, np.nextafter(limit, np.float32(1)), scores)
    return scores


def keep_largest(mask: Mask) -> Mask:
    """Return the largest piece of a mask (h, w), the upper one of equals.

    Pixels that touch at an edge belong together: at a corner alone, they come apart when the mask
    is enlarged to the photo's size.
    """
    pieces = label(mask)
    if not pieces.any():
        return mask
    return pieces == np.bincount(pieces[mask]).argmax()


def fill(mask: Mask) -> Mask:
    """Return a mask (h, w) with what it surrounds: the background that no edge leads out of."""
    outside = label(~np.pad(mask, 1))
    return (outside != outside[0, 0])[1:-1, 1:-1]


def label(mask: Mask) -> NDArray[np.intp]:
    """Number the pieces of a mask, whose pixels touch at edges.

    Args:
        mask: bool (h, w).

    Returns:
        (h, w): 0 outside the mask, else the piece's number from 1 on, in reading order.
    """
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)  # of the same runs, exclusive
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
