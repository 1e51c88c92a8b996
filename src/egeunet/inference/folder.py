"""Many photos into one folder of masks: what is written where, and the table that describes it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from egeunet.errors import EgeunetError, UsageError
from egeunet.files import atomic_write, check_folder, escape_name
from egeunet.inference.find import locate_photos
from egeunet.inference.result import Result, save_image
from egeunet.inference.segmenter import Segmenter
from egeunet.notice import NOTICE

TABLE = "predictions.json"
_MASK, _OVERLAY = "_mask.png", "_overlay.jpg"
_CORNERS = ("x0", "y0", "x1", "y1")
_COLUMNS: tuple[str, ...] = ("name", "mask", "width", "height", "area", "area_pixels", *_CORNERS)
_COLUMNS += ("confidence", "quality", "review", "weights", "threshold", "error")

Row = dict[str, Any]


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


def plan(
    inputs: Sequence[str | Path], output: Path, recursive: bool = False, overlay: bool = False
) -> list[Job]:
    """Find the photos and decide what is written where.

    A mask is called after its photo, `a_mask.png`; where photos of one folder share the name but
    not the suffix, `a.jpg_mask.png`. Subfolders are kept. Masks and overlays that already lie in
    the output folder are not taken for photos.

    Args:
        inputs: Files, folders and glob patterns, as for `find_photos`.
        output: The folder to write to.
        recursive: Also look into the inputs' subfolders.
        overlay: Also plan overlays.

    Returns:
        One job per photo, sorted by path.

    Raises:
        UsageError: There is no photo, two would be written to the same file, or the output is a
            file.
    """
    check_folder(output)
    home = output.resolve()
    found = {
        photo: relative
        for photo, relative in locate_photos(inputs, recursive).items()
        if not (photo.name.endswith((_MASK, _OVERLAY)) and home in photo.resolve().parents)
    }
    # As lower case, because some file systems do not tell A from a.
    shared = Counter(str(relative.with_suffix("")).lower() for relative in found.values())
    jobs: dict[str, Job] = {}
    for photo, relative in found.items():
        stem = relative.with_suffix("")
        base = output / (stem if shared[str(stem).lower()] == 1 else relative)
        job = Job(
            photo=photo,
            name=escape_name(relative.as_posix()),
            mask=base.with_name(base.name + _MASK),
            overlay=base.with_name(base.name + _OVERLAY) if overlay else None,
        )
        other = jobs.setdefault(str(job.mask).lower(), job)
        if other is not job:
            raise UsageError(
                f"The masks of {other.photo} and {photo} would both be {job.mask}: "
                "segment them into different folders."
            )
    if not jobs:
        raise UsageError(f"There are only masks and overlays in {output}, and no photo.")
    return list(jobs.values())


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
        to be skipped and is None otherwise.

    Raises:
        EgeunetError: A file cannot be written.
    """
    with closing(segmenter.outcomes(job.photo for job in jobs)) as outcomes:
        for job, (_, outcome) in zip(jobs, outcomes, strict=True):
            if not isinstance(outcome, EgeunetError) and keep_existing and job.mask.exists():
                outcome = _compare(outcome, job.mask)
            if isinstance(outcome, EgeunetError):
                yield {"name": job.name, "mask": None, "error": escape_name(str(outcome))}
                continue
            if not job.mask.exists() or not keep_existing:
                outcome.save(job.mask)
            if job.overlay and not (keep_existing and job.overlay.exists()):
                save_image(outcome.overlay(), job.overlay)
            measured = outcome.to_dict(contours=False)
            del measured["source"]
            own = {
                "name": job.name,
                "bytes": job.photo.stat().st_size,
                "mask": escape_name(job.mask.relative_to(output).as_posix()),
                "weights": segmenter.weights,
            }
            yield {**own, **measured, "error": None}


def _compare(result: Result, path: Path) -> Result | EgeunetError:
    """Return the result if a mask file shows it, else an error."""
    try:
        same = np.array_equal(np.asarray(Image.open(path)), np.asarray(result.mask_image()))
    except OSError:
        same = False
    if same:
        return result
    return EgeunetError(
        f"{path} exists and shows another mask than these weights and options draw: replace it "
        "with --overwrite, or move it away."
    )


def read_rows(output: Path) -> dict[str, Row]:
    """Return the rows that earlier runs left in a folder, by photo; none if there is no table.

    Raises:
        EgeunetError: The table is damaged or of another origin.
    """
    path = output / TABLE
    if not path.exists():
        return {}
    try:
        return {str(row["name"]): dict(row) for row in json.loads(path.read_bytes())["photos"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EgeunetError(
            f"{path} is damaged or was not written by `egeunet predict`: move it away first."
        ) from error


def is_done(job: Job, rows: Mapping[str, Row]) -> bool:
    """Tell whether a job's files exist and the table describes them.

    Raises:
        UsageError: They are of another photo of the same name.
    """
    row = rows.get(job.name, {})
    if row.get("mask") is None or not job.mask.exists():
        return False
    if row.get("bytes") not in (None, job.photo.stat().st_size):
        raise UsageError(
            f"{job.mask} is of another photo than {job.photo}: name another folder, or replace it "
            "with --overwrite."
        )
    return all(path.exists() for path in job.outputs)


def write_rows(output: Path, rows: Mapping[str, Row]) -> None:
    """Write the table as `predictions.json` and `predictions.csv`, sorted by photo.

    Args:
        output: The folder the table describes.
        rows: What `run_jobs` and `read_rows` gave, by photo.

    Raises:
        EgeunetError: The files cannot be written.
    """
    table = [rows[name] for name in sorted(rows)]
    try:
        with atomic_write(output / TABLE) as path:
            text = json.dumps({"notice": NOTICE, "photos": table}, indent=2, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")
        with (
            atomic_write((output / TABLE).with_suffix(".csv")) as path,
            path.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
            writer.writeheader()
            for row in table:
                corners = zip(_CORNERS, row.get("box") or (), strict=False)
                writer.writerow({**row, **dict(corners)})
    except OSError as error:
        raise EgeunetError(
            f"The table in {output} cannot be written: {error.strerror or error}."
        ) from error
