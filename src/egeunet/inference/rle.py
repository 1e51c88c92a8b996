"""Masks as run lengths, in the form of COCO (Lin et al., ECCV 2014; `pycocotools`).

`size` is [H, W]; `counts` are how many pixels lie outside the mask, then inside, then outside and
so on, column after column from the top left. The first may be 0. They are not compressed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def encode(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Return the run lengths of a mask, bool (H, W)."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts: list[int] = np.diff(edges, prepend=0, append=flat.size).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def decode(runs: dict[str, list[int]]) -> NDArray[np.bool_]:
    """Return the mask, bool (H, W), that run lengths stand for.

    Raises:
        ValueError: The counts do not add up to the size.
    """
    height, width = runs["size"]
    inside = np.arange(len(runs["counts"])) % 2 == 1
    return np.repeat(inside, runs["counts"]).reshape(width, height).T
