"""Decode images and masks once into a file of pixels, keyed by the content of their files."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from egeunet.data.datasets import Sample
from egeunet.data.masks import read_mask, resize_mask
from egeunet.environment import count_cores
from egeunet.errors import EgeunetError
from egeunet.files import cache_folder, sha256_file
from egeunet.inference.image_io import MAX_BYTES, read_image
from egeunet.inference.prefetch import prefetch_map
from egeunet.inference.preprocess import resize
from egeunet.progress import track

FORMAT = 3  # changes whenever the same files would give other bytes
_CRC = 4  # bytes of the checksum at the end of a cache
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arrays:
    """Samples as read-only arrays, memory-mapped from disk.

    Attributes:
        ids: Ids of the samples, in order.
        images: uint8 (N, H, W, 3), RGB, not normalized.
        masks: uint8 (N, H, W), class indices (0 and 1 if binary).
        aspects: float32 (N,), width / height of each image before it was resized.
    """

    ids: tuple[str, ...]
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    aspects: NDArray[np.float32]


def load_arrays(
    samples: Sequence[Sample],
    size: tuple[int, int] = (256, 256),
    num_classes: int = 1,
    cache_dir: Path | None = None,
) -> Arrays:
    """Decode samples, or map what was decoded from the same file contents before.

    One process builds a cache while others that want it wait. It is renamed when it is whole, so a
    process that is killed leaves nothing that is read. A cache that does not match its checksum is
    built again, with a warning in the log.

    Args:
        samples: Samples with masks.
        size: Height and width of the arrays in pixels.
        num_classes: 1: masks become 0 and 1; more: they hold class indices.
        cache_dir: Folder of the caches; None: `egeunet.files.cache_folder()`.

    Raises:
        EgeunetError: If a file cannot be read, a mask is missing or holds other classes, or the
            cache cannot be written.
    """
    if not samples:
        raise EgeunetError("There are no samples to load.")
    for sample in samples:
        if sample.mask is None:
            raise EgeunetError(f"{sample.image} has no mask. `egeunet data check` lists all such.")
    root = cache_dir or cache_folder()
    file = root / f"{_key(samples, size, num_classes)}.cache"
    ids = tuple(sample.id for sample in samples)
    if (arrays := _open(file, ids, size)) is not None:
        return arrays
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if (arrays := _open(file, ids, size)) is not None:  # built by another process
                return arrays
            if file.exists():
                _log.warning("The cache %s is damaged; decoding its files again.", file)
            decode = partial(_decode, size=size, num_classes=num_classes)
            cores = count_cores()
            with closing(prefetch_map(decode, samples, threads=cores, limit=2 * cores)) as rows:
                _write(file, track(rows, "decoding images", len(samples)))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else str(error)
        raise EgeunetError(
            f"Cannot write the cache in {root}: {reason}. Set EGEUNET_CACHE to another folder."
        ) from error
    if (arrays := _open(file, ids, size)) is None:
        raise EgeunetError(f"The cache {file} cannot be read back after it was written.")
    return arrays


def _key(samples: Sequence[Sample], size: tuple[int, int], num_classes: int) -> str:
    files = [path for sample in samples for path in (sample.image, sample.mask) if path]
    digest = hashlib.sha256(json.dumps([FORMAT, size, num_classes]).encode())
    with ThreadPoolExecutor(count_cores()) as pool:
        for content in track(pool.map(_hash, files), "hashing files", len(files)):
            digest.update(content.encode())
    return digest.hexdigest()[:32]


def _hash(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise EgeunetError(f"{path} is too large: the limit is {MAX_BYTES / 1e6:,.0f} MB.")
        return sha256_file(path)
    except OSError as error:
        raise EgeunetError(f"Cannot read {path}: {error.strerror or error}.") from error


def _open(file: Path, ids: tuple[str, ...], size: tuple[int, int]) -> Arrays | None:
    """Map a cache; return None if it is missing or does not match its checksum."""
    row = np.dtype([("image", "u1", (*size, 3)), ("mask", "u1", size), ("aspect", "<f4")])
    if not file.is_file() or file.stat().st_size != len(ids) * row.itemsize + _CRC:
        return None
    content = np.memmap(file, np.uint8, "r")
    if zlib.crc32(content[:-_CRC].data) != int.from_bytes(content[-_CRC:].tobytes(), "little"):
        return None
    rows = content[:-_CRC].view(row)
    return Arrays(ids, rows["image"], rows["mask"], np.array(rows["aspect"]))


def _write(file: Path, rows: Iterable[bytes]) -> None:
    """Write rows and their checksum.

    Not through a memory map: a full disk is then an error to report and not a signal that ends the
    process.
    """
    part, checksum = file.with_suffix(".part"), 0
    try:
        with part.open("wb") as sink:
            for row in rows:
                sink.write(row)
                checksum = zlib.crc32(row, checksum)
            sink.write(checksum.to_bytes(_CRC, "little"))
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _decode(sample: Sample, size: tuple[int, int], num_classes: int) -> bytes:
    """Return the bytes of a row: image, mask and aspect."""
    assert sample.mask is not None
    try:
        image, mask = read_image(sample.image), read_mask(sample.mask, num_classes)
        height, width = image.shape[:2]
        if mask.shape != (height, width):
            raise EgeunetError(
                f"{sample.mask} has {mask.shape[1]}×{mask.shape[0]} pixels but its image "
                f"{width}×{height}. `egeunet data check` lists all such pairs."
            )
        parts = resize(image, size), resize_mask(mask, size, num_classes)
        return b"".join(part.tobytes() for part in (*parts, np.float32(width / height)))
    except MemoryError as error:
        raise EgeunetError(
            f"{sample.image} and its mask need more memory than there is. Scale them down."
        ) from error
