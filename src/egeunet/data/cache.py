"""Decode images and masks once into uint8 arrays on disk, keyed by the content of their files."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from egeunet.data.datasets import Sample
from egeunet.data.masks import read_mask, resize_mask
from egeunet.environment import count_cores
from egeunet.errors import EgeunetError
from egeunet.files import cache_folder, sha256_file
from egeunet.inference.image_io import MAX_BYTES, read_image
from egeunet.inference.preprocess import resize
from egeunet.progress import track

FORMAT = 2  # changes whenever the same files would give other arrays
_CHUNK = 64  # samples decoded at a time, so that memory does not grow with the dataset
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
    """Decode samples, or map the arrays that were decoded from the same file contents before.

    One process builds a cache while others that want it wait. It is renamed when it is whole, so a
    process that is killed leaves nothing that is read. A cache whose checksums do not match its
    arrays is built again, with a warning in the log.

    Args:
        samples: Samples with masks.
        size: Height and width of the arrays in pixels.
        num_classes: 1: masks become 0 and 1; more: they hold class indices.
        cache_dir: Parent folder of the caches; None: `egeunet.files.cache_folder()`.

    Raises:
        EgeunetError: If a file cannot be read, a mask is missing or holds other classes, or the
            cache cannot be written.
    """
    for sample in samples:
        if sample.mask is None:
            raise EgeunetError(f"{sample.image} has no mask. `egeunet data check` lists all such.")
    if not samples:
        raise EgeunetError("There are no samples to load.")
    root = cache_dir or cache_folder()
    folder = root / _key(samples, size, num_classes)
    ids = tuple(sample.id for sample in samples)
    if (arrays := _open(folder, ids, size)) is not None:
        return arrays
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if (arrays := _open(folder, ids, size)) is not None:  # built by another process
                return arrays
            if folder.exists():
                _log.warning("The cache %s is damaged; decoding its files again.", folder)
            _build(folder, samples, size, num_classes)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else str(error)
        raise EgeunetError(
            f"Cannot write the cache in {root}: {reason}. Set EGEUNET_CACHE to another folder."
        ) from error
    if (arrays := _open(folder, ids, size)) is None:
        raise EgeunetError(f"The cache {folder} cannot be read back after it was written.")
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


def _open(folder: Path, ids: tuple[str, ...], size: tuple[int, int]) -> Arrays | None:
    """Map a cache; return None if it is missing or does not match its checksums."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        aspects = np.array(meta["aspects"], np.float32)
        images = np.lib.format.open_memmap(folder / "images.npy", mode="r")
        masks = np.lib.format.open_memmap(folder / "masks.npy", mode="r")
        checksums = [zlib.crc32(array.data) for array in (images, masks, aspects)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    shapes = [array.shape for array in (images, masks, aspects)]
    expected = [(len(ids), *size, 3), (len(ids), *size), (len(ids),)]
    if checksums != meta.get("crc32") or shapes != expected:
        return None
    return Arrays(ids, images, masks, aspects)


def _build(
    folder: Path, samples: Sequence[Sample], size: tuple[int, int], num_classes: int
) -> None:
    building = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)  # left by a process that was killed
    building.mkdir()
    try:
        aspects, crc_images, crc_masks = [], 0, 0
        # Rows are written one after the other, not through a memory map: a full disk is then an
        # error to report and not a signal that ends the process.
        with (
            (building / "images.npy").open("wb") as images,
            (building / "masks.npy").open("wb") as masks,
        ):
            _write_header(images, (len(samples), *size, 3))
            _write_header(masks, (len(samples), *size))
            rows = _decode(samples, size, num_classes)
            for image, mask, aspect in track(rows, "decoding images", len(samples)):
                images.write(image.data)
                crc_images = zlib.crc32(image.data, crc_images)
                masks.write(mask.data)
                crc_masks = zlib.crc32(mask.data, crc_masks)
                aspects.append(aspect)
            for file in (images, masks):
                file.flush()
                os.fsync(file.fileno())
        checksums = [crc_images, crc_masks, zlib.crc32(np.array(aspects, np.float32).data)]
        (building / "meta.json").write_text(json.dumps({"aspects": aspects, "crc32": checksums}))
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _decode(
    samples: Sequence[Sample], size: tuple[int, int], num_classes: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], float]]:
    def decode(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8], float]:
        try:
            return decode_pair(sample)
        except MemoryError as error:
            raise EgeunetError(
                f"{sample.image} and its mask need more memory than there is. Scale them down."
            ) from error

    def decode_pair(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8], float]:
        assert sample.mask is not None
        image = read_image(sample.image)
        mask = read_mask(sample.mask, num_classes)
        height, width = image.shape[:2]
        if mask.shape != (height, width):
            raise EgeunetError(
                f"{sample.mask} has {mask.shape[1]}×{mask.shape[0]} pixels but its image "
                f"{width}×{height}. `egeunet data check` lists all such pairs."
            )
        resized = resize(image, size), resize_mask(mask, size, num_classes)
        return (*map(np.ascontiguousarray, resized), width / height)  # type: ignore[return-value]

    with ThreadPoolExecutor(count_cores()) as pool:
        for start in range(0, len(samples), _CHUNK):
            yield from pool.map(decode, samples[start : start + _CHUNK])
