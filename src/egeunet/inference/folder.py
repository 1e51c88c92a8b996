"""Segmentation of many images into a folder of masks."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from egeunet.errors import EgeunetError, UsageError
from egeunet.files import check_folder, escape_name, is_url, remove_temporary, sha256_file
from egeunet.inference.image_io import read_bytes
from egeunet.inference.paths import find_images
from egeunet.inference.predictions import JOURNAL, TABLE, Row
from egeunet.inference.prefetch import prefetch_map
from egeunet.inference.result import Result, save_image
from egeunet.inference.segmenter import Segmenter

_MASK, _OVERLAY = "_mask.png", "_overlay.jpg"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # no image could be written

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One image and the files to write for it.

    Args:
        source: The image's path or URL.
        name: Its path below the folder it was found in, with forward slashes, or its URL.
        mask: File of its mask.
        overlay: File of its overlay; None if there should be none.
    """

    source: str | Path
    name: str
    mask: Path
    overlay: Path | None = None

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The files to write."""
        return (self.mask,) if self.overlay is None else (self.mask, self.overlay)

    @property
    def existing(self) -> list[Path]:
        """Those of `outputs` that exist."""
        # Not by Path.exists: of a name that is too long it raises.
        return [path for path in self.outputs if os.path.lexists(path)]


def plan(
    inputs: Sequence[str | Path], output: Path, recursive: bool = False, overlay: bool = False
) -> list[Job]:
    """Find images and decide which files to write for each.

    A mask is named after its image, `a_mask.png`; where images of one folder share the name but
    not the suffix, `a.jpg_mask.png`. Subfolders are kept. Masks and overlays in the output folder,
    or in a folder with the table of an earlier run, do not count as images.

    Args:
        inputs: Files, folders, glob patterns and URLs, as for `find_images`.
        output: Folder to write to.
        recursive: Include the inputs' subfolders.
        overlay: Also write overlays.

    Returns:
        One job per image, sorted by path.

    Raises:
        UsageError: There is no image, two would be written to the same file, the output is a file,
            or a subfolder of it a link.
    """
    check_folder(output)
    home = output.resolve()
    found = find_images(inputs, recursive)
    written = [image for image in found if isinstance(image, Path) and _is_written(image, home)]
    for image in written:
        del found[image]
    if not found:
        raise UsageError(f"There are only masks and overlays, such as {written[0]}, and no image.")
    if written:
        logger.info("%d masks and overlays were left out, such as %s", len(written), written[0])
    # As lower case, because some file systems do not distinguish A from a.
    shared = Counter(str(relative.with_suffix("")).lower() for relative in found.values())
    jobs: dict[str, Job] = {}
    for source, relative in found.items():
        stem = relative.with_suffix("")
        base = output / (stem if shared[str(stem).lower()] == 1 else relative)
        mask = base.with_name(base.name + _MASK)
        name = escape_name(source if isinstance(source, str) else relative.as_posix())
        job = Job(source, name, mask, _overlay_of(mask) if overlay else None)
        other = jobs.setdefault(str(job.mask).lower(), job)
        if other is not job:
            raise UsageError(
                f"The masks of {other.source} and {source} would both be {job.mask}: "
                "segment them into different folders."
            )
    for folder in {parent for job in jobs.values() for parent in job.mask.parents}:
        if folder.is_symlink() and output in folder.parents:
            raise UsageError(f"{folder} is a symbolic link, which is not followed: remove it.")
    return list(jobs.values())


def _is_written(path: Path, home: Path) -> bool:
    """Return whether a file is a mask or overlay of this folder, or of one that has a table."""
    return path.name.endswith((_MASK, _OVERLAY)) and any(
        folder == home or (folder / TABLE).is_file() or (folder / JOURNAL).is_file()
        for folder in path.resolve().parents
    )


def run_jobs(
    segmenter: Segmenter, jobs: Sequence[Job], output: Path, keep_existing: bool = False
) -> Generator[Row, None, None]:
    """Segment the images of jobs and write their files, each atomically.

    Args:
        segmenter: The model.
        jobs: What `plan` returned.
        output: The folder that was planned for; no other process may write to it.
        keep_existing: Do not replace existing masks, which a killed run leaves without rows. One
            that differs from what is computed now is an error of its image.

    Yields:
        The row of each image, in order; its `error` says why an image was skipped or its files
        could not be written, and is None otherwise.

    Raises:
        EgeunetError: The folder is full or cannot be written to.
    """
    for folder in {job.mask.parent for job in jobs} | {output}:
        remove_temporary(folder)
    process = partial(
        _process,
        segmenter=segmenter,
        output=output,
        keep_existing=keep_existing,
        options=mask_options(segmenter),
    )
    threads = segmenter.threads + 1  # one waits for the disk
    yield from prefetch_map(process, jobs, threads=threads, limit=threads)


def mask_options(segmenter: Segmenter) -> Row:
    """Return the options that determine the masks of a segmenter, as columns of the table."""
    one_class = len(segmenter.metadata.classes) == 1
    return {
        "weights": segmenter.weights,
        "threshold": segmenter.threshold if one_class else None,
        "tta": segmenter.tta,
        "largest_component": segmenter.largest_component,
        "fill_holes": segmenter.fill_holes,
    }


def _process(
    job: Job,
    *,
    segmenter: Segmenter,
    output: Path,
    keep_existing: bool,
    options: Row,
) -> Row:
    """Segment one image, write its files and return its row."""
    row: Row = {"name": job.name, "mask": None}
    kept = job.existing if keep_existing else []
    try:
        data = read_bytes(job.source, str(job.source), segmenter.max_bytes)
        result = segmenter.segment(data, str(job.source))
    except EgeunetError as error:
        if not keep_existing:
            for path in (job.mask, _overlay_of(job.mask)):  # of what the file held before
                _remove(path)
        return {**row, "error": escape_name(str(error))}
    try:
        if job.mask in kept:
            _compare(result, job.mask)
        else:
            result.save(job.mask)
            _remove(_overlay_of(job.mask))  # it showed the mask before
        measured = result.to_dict(contours=False)
        del measured["source"]
        row |= {"mask": escape_name(job.mask.relative_to(output).as_posix())}
        row |= {**measured, **options, "image_sha256": hashlib.sha256(data).hexdigest()}
        if job.overlay and not (job.overlay in kept and job.mask in kept):
            save_image(result.overlay(), job.overlay)
    except EgeunetError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
            raise
        return {**row, "error": escape_name(str(error))}
    except MemoryError:
        return {**row, "error": escape_name(f"{job.source} needs more memory than there is.")}
    return {**row, "error": None}


def _overlay_of(mask: Path) -> Path:
    return mask.with_name(mask.name.removesuffix(_MASK) + _OVERLAY)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _compare(result: Result, path: Path) -> None:
    """Compare a mask file to a result.

    Raises:
        EgeunetError: They differ.
    """
    try:
        with PngImageFile(path) as image:  # `Image.open` refuses large ones
            same = image.size == (result.width, result.height) and np.array_equal(
                np.asarray(image), np.asarray(result.mask_image())
            )
    except Exception:  # damaged files raise errors of many kinds
        same = False
    if not same:
        raise EgeunetError(
            f"{path} exists and differs from the mask of these weights and options: replace it "
            "with --overwrite, or move it away."
        )


def is_done(job: Job, rows: Mapping[str, Row]) -> bool:
    """Return whether a job's files exist and the table describes them.

    Raises:
        UsageError: They are of another image of the same name.
    """
    row = rows.get(job.name, {})
    if row.get("mask") is None or row.get("error") or job.mask not in job.existing:
        return False
    if not is_url(job.source):
        try:
            digest = sha256_file(job.source)
        except OSError:
            return False  # the error is reported when it is read
        if row.get("image_sha256") != digest:
            raise UsageError(
                f"{job.mask} belongs to another image than {job.source}: choose another folder, or "
                "replace it with --overwrite."
            )
    return len(job.existing) == len(job.outputs)
