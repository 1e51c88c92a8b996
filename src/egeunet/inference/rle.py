"""Uncompressed run-length encoding of masks, in COCO's form (`pycocotools`).

`size` is [H, W]; `counts` are lengths of runs outside and inside the mask in turn, in column-major
order from the top left. The first count may be 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def encode(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Encode a mask, bool (H, W)."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts: list[int] = np.diff(edges, prepend=0, append=flat.size).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def decode(runs: dict[str, list[int]]) -> NDArray[np.bool_]:
    """Decode run lengths to a mask, bool (H, W).

    Raises:
        ValueError: The counts do not add up to the size.
    """
    height, width = runs["size"]
    inside = np.arange(len(runs["counts"])) % 2 == 1
    return np.repeat(inside, runs["counts"]).reshape(width, height).T
