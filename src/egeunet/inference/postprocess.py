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
    return mask & (labels == np.bincount(labels[mask], minlength=1).argmax())


def fill_mask_holes(mask: Mask) -> Mask:
    """Return a mask (h, w) with the background that is not connected to its border."""
    outside = label_components(~np.pad(mask, 1))
    return (outside != outside[0, 0])[1:-1, 1:-1]


def label_components(mask: Mask) -> NDArray[np.intp]:
    """Label the connected components of a mask (4-connectivity).

    Args:
        mask: bool (h, w).

    Returns:
        (h, w): 0 outside the mask, else the component's number from 1 on, in reading order.
    """
    padded = np.pad(mask, 1)
    labels = np.where(padded, np.arange(padded.size).reshape(padded.shape), 0)
    changed = True
    while changed:
        before = labels
        for _ in range(2):  # along rows, then along columns: the minimum of each run of pixels
            runs = np.flatnonzero(np.diff(labels.ravel() != 0, prepend=True))
            lowest = np.minimum.reduceat(labels.ravel(), runs)
            lengths = np.diff(runs, append=labels.size)
            labels = np.repeat(lowest, lengths).reshape(labels.shape).T
        changed = not np.array_equal(labels, before)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)[1:-1, 1:-1]
