"""Photos and masks decoded once into uint8 arrays on disk, found again by their content."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from egeunet.data.datasets import Sample
from egeunet.data.masks import read_mask, resize_mask
from egeunet.environment import count_cores
from egeunet.errors import EgeunetError
from egeunet.files import cache_folder, sha256_file
from egeunet.inference.image_io import read_image
from egeunet.inference.preprocess import resize
from egeunet.reporting import Reporter

__all__ = ["Arrays", "load_arrays"]

FORMAT = 2  # changes whenever the same files would give other arrays
_CHUNK = 64  # samples decoded at a time, so that memory does not grow with the dataset
_STALE = 24 * 3600  # seconds after which a half-built cache is known to be abandoned
_BUILDING = "building-"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arrays:
    """Samples as arrays, mapped from disk and read-only.

    Attributes:
        ids: Which samples, in order.
        images: uint8 (N, H, W, 3), RGB, not yet scaled.
        masks: uint8 (N, H, W), class indices (0 and 1 if binary).
        aspects: float32 (N,), width / height of each photo before it was resized.
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
    reporter: Reporter | None = None,
) -> Arrays:
    """Decode samples, or map what was decoded before from the same file contents.

    The cache is built aside and renamed when it is whole: two processes may build it at once, and
    one that is killed leaves nothing that is ever read. A cache whose checksums do not match its
    arrays is built again, with a warning in the log.

    Args:
        samples: What to load; each needs a mask.
        size: Height and width of the arrays.
        num_classes: 1: masks become 0 and 1; more: they hold class indices.
        cache_dir: Where caches lie; None is `cache_folder()`.
        reporter: Hears of the progress.

    Raises:
        EgeunetError: If a file cannot be read, a mask is missing or holds other classes, or there
            is no room for the cache.
    """
    reporter = reporter or Reporter()
    for sample in samples:
        if sample.mask is None:
            raise EgeunetError(f"{sample.image} has no mask; `egeunet data check` lists all such.")
    if not samples:
        raise EgeunetError("There is nothing to load: no samples were given.")
    root = cache_dir or cache_folder()
    folder = root / _key(samples, size, num_classes, reporter)
    ids = tuple(sample.id for sample in samples)
    try:
        # Another process that replaces the same damaged cache may take it away in between.
        for _ in range(3):
            if (arrays := _open(folder, ids, size)) is not None:
                return arrays
            if folder.exists():
                _log.warning("The cache %s is damaged; decoding its files again.", folder)
            _remove_stale(root)
            _build(folder, samples, size, num_classes, reporter)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room, or set EGEUNET_CACHE to a folder on a larger disk"
            raise EgeunetError(
                f"The disk is full: no room for the cache in {root}; {remedy}."
            ) from error
        raise EgeunetError(
            f"Cannot write the cache in {root} ({error}); set EGEUNET_CACHE to another folder."
        ) from error
    raise EgeunetError(f"The cache {folder} cannot be read back after it was written.")


def _key(
    samples: Sequence[Sample], size: tuple[int, int], num_classes: int, reporter: Reporter
) -> str:
    files = [path for sample in samples for path in (sample.image, sample.mask) if path]
    digest = hashlib.sha256(json.dumps([FORMAT, size, num_classes]).encode())
    with ThreadPoolExecutor(count_cores()) as pool:
        for content in reporter.track(pool.map(_content, files), "hashing", len(files)):
            digest.update(content.encode())
    return digest.hexdigest()[:32]


def _content(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise EgeunetError(f"Cannot read {path}: {error.strerror or error}.") from error


def _open(folder: Path, ids: tuple[str, ...], size: tuple[int, int]) -> Arrays | None:
    """Map a cache; None if it is missing or does not match its checksums."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        aspects = np.array(meta["aspects"], np.float32)
        images = np.lib.format.open_memmap(folder / "images.npy", mode="r")
        masks = np.lib.format.open_memmap(folder / "masks.npy", mode="r")
        checksums = [zlib.crc32(array.data) for array in (images, masks, aspects)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if checksums != meta.get("crc32"):
        return None
    shape = (len(ids), *size)
    if images.shape != (*shape, 3) or masks.shape != shape or aspects.shape != shape[:1]:
        return None
    if images.dtype != np.uint8 or masks.dtype != np.uint8:
        return None
    return Arrays(ids, images, masks, aspects)


def _build(
    folder: Path,
    samples: Sequence[Sample],
    size: tuple[int, int],
    num_classes: int,
    reporter: Reporter,
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=folder.parent))
    try:
        # Rows are written one after the other, not through a memory map: a full disk is then an
        # error to report and not a signal that ends the process.
        aspects, crc_images, crc_masks = [], 0, 0
        with (
            (building / "images.npy").open("wb") as images,
            (building / "masks.npy").open("wb") as masks,
        ):
            _write_header(images, (len(samples), *size, 3))
            _write_header(masks, (len(samples), *size))
            rows = _decode(samples, size, num_classes)
            for image, mask, aspect in reporter.track(rows, "decoding", len(samples)):
                images.write(pixels := image.tobytes())
                crc_images = zlib.crc32(pixels, crc_images)
                masks.write(classes := mask.tobytes())
                crc_masks = zlib.crc32(classes, crc_masks)
                aspects.append(aspect)
            for file in (images, masks):
                file.flush()
                os.fsync(file.fileno())
        checksums = [crc_images, crc_masks, zlib.crc32(np.array(aspects, np.float32).data)]
        (building / "meta.json").write_text(json.dumps({"aspects": aspects, "crc32": checksums}))
        ids = tuple(sample.id for sample in samples)
        try:
            building.rename(folder)
        except OSError:
            if _open(folder, ids, size) is None:  # not another process's work: a damaged cache
                _replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_header(file, shape: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    descr = np.lib.format.dtype_to_descr(np.dtype(np.uint8))
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )


def _decode(
    samples: Sequence[Sample], size: tuple[int, int], num_classes: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], float]]:
    def decode(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8], float]:
        assert sample.mask is not None
        photo = read_image(sample.image)
        mask = read_mask(sample.mask, num_classes)
        if mask.shape != photo.shape[:2]:
            raise EgeunetError(
                f"{sample.mask} has {mask.shape[1]}×{mask.shape[0]} pixels but its image "
                f"{photo.shape[1]}×{photo.shape[0]}: make them fit; `egeunet data check` lists all "
                "such pairs."
            )
        height, width = photo.shape[:2]
        return resize(photo, size), resize_mask(mask, size, num_classes), width / height

    with ThreadPoolExecutor(count_cores()) as pool:
        for start in range(0, len(samples), _CHUNK):
            yield from pool.map(decode, samples[start : start + _CHUNK])


def _replace(building: Path, folder: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=folder.parent))
    try:
        with suppress(FileNotFoundError):
            folder.rename(aside / "damaged")
        with suppress(OSError):  # another process put its own there
            building.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_stale(root: Path) -> None:
    for folder in root.glob(f"{_BUILDING}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE:
                shutil.rmtree(folder, ignore_errors=True)
