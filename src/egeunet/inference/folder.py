"""Many photos into one folder of masks: what is written where, and what is done already."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from egeunet.errors import EgeunetError, UsageError
from egeunet.files import check_folder, escape_name, sha256_file
from egeunet.inference.paths import locate_photos
from egeunet.inference.predictions import JOURNAL, TABLE, Row
from egeunet.inference.prefetch import work_ahead
from egeunet.inference.result import Result, save_image
from egeunet.inference.segmenter import Segmenter
from egeunet.reporting import Reporter

_MASK, _OVERLAY = "_mask.png", "_overlay.jpg"
_WRITERS = 2  # photos whose files are written at a time: they wait for the disk
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # no photo could be written


@dataclass(frozen=True)
class Job:
    """One photo and the files that shall come of it.

    Args:
        photo: The photo's path.
        name: Its path below the folder that was asked for, with forward slashes.
        mask: Where its mask goes.
        overlay: Where the photo with the mask drawn over it goes; None if it is not wanted.
    """

    photo: Path
    name: str
    mask: Path
    overlay: Path | None = None

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The files that shall be written."""
        return (self.mask,) if self.overlay is None else (self.mask, self.overlay)

    @property
    def existing(self) -> list[Path]:
        """Those of `outputs` that exist."""
        # Not by Path.exists: of a name that is too long it raises.
        return [path for path in self.outputs if os.path.exists(path)]  # noqa: PTH110


def plan(
    inputs: Sequence[str | Path],
    output: Path,
    recursive: bool = False,
    overlay: bool = False,
    reporter: Reporter | None = None,
) -> list[Job]:
    """Find the photos and decide what is written where.

    A mask is called after its photo, `a_mask.png`; where photos of one folder share the name but
    not the suffix, `a.jpg_mask.png`. Subfolders are kept. Masks and overlays that lie in the output
    folder, or in one with the table of an earlier run, are not taken for photos.

    Args:
        inputs: Files, folders and glob patterns, as for `find_photos`.
        output: The folder to write to.
        recursive: Also look into the inputs' subfolders.
        overlay: Also plan overlays.
        reporter: Hears of masks and overlays that were found and left out.

    Returns:
        One job per photo, sorted by path.

    Raises:
        UsageError: There is no photo, two would be written to the same file, or the output is a
            file.
    """
    check_folder(output)
    home = output.resolve()
    found = locate_photos(inputs, recursive)
    written = [photo for photo in found if _is_written(photo, home)]
    for photo in written:
        del found[photo]
    if not found:
        raise UsageError(f"There are only masks and overlays, such as {written[0]}, and no photo.")
    if written:
        (reporter or Reporter()).info(
            f"{len(written)} masks and overlays were left out, such as {written[0]}"
        )
    # As lower case, because some file systems do not tell A from a.
    shared = Counter(str(relative.with_suffix("")).lower() for relative in found.values())
    jobs: dict[str, Job] = {}
    for photo, relative in found.items():
        stem = relative.with_suffix("")
        base = output / (stem if shared[str(stem).lower()] == 1 else relative)
        mask = base.with_name(base.name + _MASK)
        name = escape_name(relative.as_posix())
        job = Job(photo, name, mask, _overlay_of(mask) if overlay else None)
        other = jobs.setdefault(str(job.mask).lower(), job)
        if other is not job:
            raise UsageError(
                f"The masks of {other.photo} and {photo} would both be {job.mask}: "
                "segment them into different folders."
            )
    return list(jobs.values())


def _is_written(photo: Path, home: Path) -> bool:
    """Tell whether a file is a mask or overlay of this folder, or of one that has a table."""
    return photo.name.endswith((_MASK, _OVERLAY)) and any(
        folder == home or (folder / TABLE).is_file() or (folder / JOURNAL).is_file()
        for folder in photo.resolve().parents
    )


def run_jobs(
    segmenter: Segmenter, jobs: Sequence[Job], output: Path, keep_existing: bool = False
) -> Generator[Row, None, None]:
    """Segment the photos of jobs in order and write their files, each whole or not at all.

    Args:
        segmenter: The network.
        jobs: What `plan` gave.
        output: The folder that was planned for.
        keep_existing: Replace no mask that exists, because a run that was killed leaves masks
            without rows; one that differs from what is drawn now is an error of its photo.

    Yields:
        The row of the table for each photo; its `error` says what was wrong with a photo that had
        to be skipped, or with its files, and is None otherwise.

    Raises:
        EgeunetError: The folder is full or cannot be written to.
    """
    made_with = mask_options(segmenter)
    with closing(segmenter.outcomes(job.photo for job in jobs)) as outcomes:
        writes = (
            (job, partial(_write, job, outcome, output, keep_existing, made_with))
            for job, (_, outcome) in zip(jobs, outcomes, strict=True)
        )
        with closing(work_ahead(writes, _WRITERS, _WRITERS)) as rows:
            for _, row in rows:
                if isinstance(row, EgeunetError):
                    raise row
                yield row


def mask_options(segmenter: Segmenter) -> Row:
    """Return what decides the masks of a segmenter, as a row of the table says it."""
    one_class = len(segmenter.metadata.classes) == 1
    return {
        "weights": segmenter.weights,
        "threshold": segmenter.threshold if one_class else None,
        "tta": segmenter.tta,
        "largest_component": segmenter.largest_component,
        "fill_holes": segmenter.fill_holes,
    }


def _write(
    job: Job, outcome: Result | EgeunetError, output: Path, keep_existing: bool, made_with: Row
) -> Row:
    """Write the files of one photo and return its row."""
    row: Row = {"name": job.name, "mask": None}
    if isinstance(outcome, EgeunetError):
        return {**row, "error": escape_name(str(outcome))}
    kept = job.existing if keep_existing else []
    try:
        digest = _digest(job.photo)
        if job.mask in kept:
            _compare(outcome, job.mask)
        else:
            outcome.save(job.mask)
            with suppress(OSError):
                _overlay_of(job.mask).unlink()  # it showed the mask before
        measured = outcome.to_dict(contours=False)
        del measured["source"]
        row |= {"mask": escape_name(job.mask.relative_to(output).as_posix())}
        row |= {**measured, **made_with, "photo_sha256": digest}
        if job.overlay and not (job.overlay in kept and job.mask in kept):
            save_image(outcome.overlay(), job.overlay)
    except EgeunetError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
            raise
        return {**row, "error": escape_name(str(error))}
    return {**row, "error": None}


def _overlay_of(mask: Path) -> Path:
    return mask.with_name(mask.name.removesuffix(_MASK) + _OVERLAY)


def _compare(result: Result, path: Path) -> None:
    """Hold a mask file to a result."""
    try:
        same = np.array_equal(
            np.asarray(Image.open(path, formats=("PNG",))), np.asarray(result.mask_image())
        )
    except OSError:
        same = False
    if not same:
        raise EgeunetError(
            f"{path} exists and shows another mask than these weights and options draw: replace it "
            "with --overwrite, or move it away."
        )


def _digest(photo: Path) -> str:
    try:
        return sha256_file(photo)
    except OSError as error:
        raise EgeunetError(f"{photo} cannot be read: {error.strerror or error}.") from error


def is_done(job: Job, rows: Mapping[str, Row]) -> bool:
    """Tell whether a job's files exist and the table describes them.

    Raises:
        UsageError: They are of another photo of the same name.
    """
    row = rows.get(job.name, {})
    if row.get("mask") is None or row.get("error") or job.mask not in job.existing:
        return False
    try:
        digest = _digest(job.photo)
    except EgeunetError:
        return False  # what is wrong with it is told when it is read
    if row.get("photo_sha256") != digest:
        raise UsageError(
            f"{job.mask} is of another photo than {job.photo}: name another folder, or replace it "
            "with --overwrite."
        )
    return len(job.existing) == len(job.outputs)
