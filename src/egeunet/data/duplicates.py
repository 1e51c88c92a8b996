"""Find duplicate images: the same pixels, or the same picture saved in another way."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.data.splits import Split
from egeunet.environment import count_cores
from egeunet.inference.image_io import read_image
from egeunet.progress import track

# Between the copies and the merely similar pairs of ISIC 2018 and Kvasir-SEG lies a wide gap:
# copies differ by at most 3 bits and 3.4 gray levels, others by 5 levels at the least.
MAX_BITS = 3
MAX_LEVELS = 4.0
_BIT_COUNTS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What identifies an image.

    Attributes:
        pixels: SHA-256 of its size and pixels.
        bits: 64-bit difference hash: whether each of 8×8 cells is brighter than its left neighbor.
        thumbnail: int16 (768,), 16×16 RGB.
    """

    pixels: str
    bits: np.uint64
    thumbnail: NDArray[np.int16]


def fingerprint(image: NDArray[np.uint8]) -> Fingerprint:
    """Return the fingerprint of an image, RGB uint8 (H, W, 3)."""
    pillow = Image.fromarray(image)
    small = pillow.resize((16, 16), Image.Resampling.BOX)
    gray = np.asarray(pillow.convert("L").resize((9, 8), Image.Resampling.BOX))
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(image.data)
    return Fingerprint(
        pixels=digest.hexdigest(),
        bits=np.packbits(gray[:, 1:] > gray[:, :-1]).view(np.uint64)[0],
        thumbnail=np.asarray(small).astype(np.int16).reshape(-1),
    )


def find_same(prints: Sequence[Fingerprint]) -> list[tuple[int, ...]]:
    """Return the groups of images with exactly the same pixels, as indices."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(prints):
        groups[one.pixels].append(index)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def find_similar(prints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Return the pairs that show the same picture but differ in some pixels, as indices.

    Their difference hashes differ in at most `MAX_BITS` bits and their thumbnails on average by
    less than `MAX_LEVELS` of 255.
    """
    if not prints:
        return []
    bits = np.array([one.bits for one in prints])
    thumbnails = np.stack([one.thumbnail for one in prints])
    pairs = []
    for index in range(len(prints) - 1):
        differing = (bits[index] ^ bits[index + 1 :]).view(np.uint8)
        count = _BIT_COUNTS[differing].reshape(-1, 8).sum(axis=1)
        near = index + 1 + np.flatnonzero(count <= MAX_BITS)
        distance = np.abs(thumbnails[near] - thumbnails[index]).mean(axis=1)
        pairs += [
            (index, int(other))
            for other in near[distance < MAX_LEVELS]
            if prints[index].pixels != prints[other].pixels
        ]
    return pairs


def leaking_ids(split: Split, name: str = "test") -> tuple[str, ...]:
    """Return the ids of a split whose image, or a near copy of it, is also in an earlier split.

    A score over the other ids is free of this leak. With the protocol holdout these are `test_16`
    of Kvasir-SEG and `ISIC_0012673` of ISIC 2018.

    Args:
        split: The splits of a dataset.
        name: "test", compared with the training and validation splits, or "val", compared with
            the training split.

    Returns:
        Ids of `find_same` and `find_similar`, sorted.

    Raises:
        EgeunetError: If an image cannot be read.
    """
    order = ("train", "val", "test")
    earlier = order[: order.index(name) + 1]
    subsets = split.subsets()
    samples = [(sample, key) for key in earlier for sample in subsets.get(key, ())]
    with ThreadPoolExecutor(count_cores()) as pool:
        found = pool.map(lambda item: fingerprint(read_image(item[0].image)), samples)
        prints = list(track(found, "comparing images", len(samples)))
    same = [pair for group in find_same(prints) for pair in combinations(group, 2)]
    leaks: set[str] = set()
    for pair in [*same, *find_similar(prints)]:
        own = [samples[index][0].id for index in pair if samples[index][1] == name]
        leaks.update(own if len(own) == 1 else ())
    return tuple(sorted(leaks))
