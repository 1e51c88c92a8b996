"""Scores as rows: of a table for people, and of `results/*.jsonl` for whatever is made from it."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egeunet.errors import EgeunetError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from egeunet.evaluation.summary import Evaluation

COLUMNS = ("score", "value", "95 % interval", "std")
_POOLED = {
    "iou": "mIoU, pooled",
    "dice": "DSC, pooled",
    "accuracy": "accuracy, pooled",
    "sensitivity": "sensitivity, pooled",
    "specificity": "specificity, pooled",
}
_PER_IMAGE = {
    "jaccard": "Jaccard",
    "dice": "Dice",
    "thresholded_jaccard": "Jaccard (< .65 is 0)",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "hd95": "HD95",
    "assd": "surface distance",
}
_PIXELS = {"hd95", "assd"}


def table_rows(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    """Write an evaluation as rows of text under `COLUMNS`.

    Pooled scores first, as in the paper; then means over images; then the pooled scores of each
    class where there are several; then how well the quality tells failures.
    """
    intervals = evaluation.intervals
    rows = []
    for name, label in _POOLED.items():
        low, high = (_text(name, end) for end in intervals["pooled"][name])
        rows.append((label, _text(name, evaluation.pooled[name]), f"{low} – {high}", ""))
    for name, label in _PER_IMAGE.items():
        low, high = (_text(name, end) for end in intervals["means"][name])
        missing = evaluation.undefined.get(name, 0)
        label = f"{label} per image" + (f" ({missing} undefined)" if missing else "")
        value, std = _text(name, evaluation.means[name]), _text(name, evaluation.stds[name])
        rows.append((label, value, f"{low} – {high}", std))
    for class_name, score in evaluation.per_class.items():
        for name, label in (("iou", "IoU"), ("dice", "DSC")):
            rows.append(
                (f"{class_name}: {label}, pooled", _text(name, score["pooled"][name]), "", "")
            )
    return rows + (quality_rows(evaluation.quality.to_dict()) if evaluation.quality else [])


def quality_rows(quality: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Write what `QualityScores.to_dict` gives as rows of text under `COLUMNS`."""

    def number(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.3f}"

    def share(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.2%}"

    measured = {
        "auroc": "quality: AUROC of failures (Jaccard < .65)",
        "pearson": "quality: correlation with Dice",
        "rest_ratio": "quality: failure rate without the worst 10 %, over that of all",
    }
    rows = []
    for name, label in measured.items():
        ends = " – ".join(number(end) for end in quality["intervals"][name])
        rows.append((label, number(quality[name]), ends, ""))
    area = (number(quality[name]) for name in ("aurc", "aurc_optimal", "aurc_random"))
    plain = {
        "quality: AURC (perfect order, no order)": "{} ({}, {})".format(*area),
        "quality: calibration error": number(quality["calibration_error"]),
        "quality: failure rate": share(quality["failure_rate"]),
        "quality: failure rate without the worst 10 %": share(quality["rest_failure_rate"]),
        "quality: masks marked for review": share(quality["review"]["share"]),
        "quality: failures among these": share(quality["review"]["failed"]),
        "quality: share of all failures": share(quality["review"]["found"]),
    }
    return rows + [(label, text, "", "") for label, text in plain.items()]


def read_results(folder: str | Path) -> list[dict[str, Any]]:
    """Return the rows of all `*.jsonl` files of a folder, in the order of their names.

    A last line that a crash cut off is left out.

    Raises:
        EgeunetError: If another line is not JSON.
    """
    rows = []
    for path in sorted(Path(folder).glob("*.jsonl")):
        *lines, rest = path.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines, 1):
            row = _parse(line)
            if row is None:
                raise EgeunetError(f"Line {number} of {path} is no row of JSON: mend or drop it.")
            rows.append(row)
        if row := _parse(rest):
            rows.append(row)
    return rows


def _parse(line: str | bytes) -> dict[str, Any] | None:
    """Return a row of results, or None where a line is none."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def append_result(path: str | Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file of JSON lines.

    Several processes may add to one file at a time. The row is on disk when this returns; where
    the disk is full the file is left as it was. A last line that a crash cut off is replaced.

    Args:
        path: A `.jsonl` file; made, with its folder, if missing.
        row: What JSON can hold, without nan.

    Raises:
        EgeunetError: The row could not be written whole.
    """
    path = Path(path)
    line = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            end = _close_last(file)
            written = file.write(line)
            if written != len(line):
                file.truncate(end)
            os.fsync(file.fileno())
    except OSError as error:
        raise EgeunetError(f"The result could not be added to {path}: {error}.") from error
    if written != len(line):
        raise EgeunetError(f"The result could not be added to {path}: the disk is full.")


def _close_last(file: FileIO) -> int:
    """Take away a last line that was cut off, or end it if only its end is; return the size."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if end == 0 or file.read(1) == b"\n":
        return end
    file.seek(0)
    whole, _, last = file.read().rpartition(b"\n")
    if _parse(last) is not None:
        file.write(b"\n")
    else:
        file.truncate(len(whole) + 1 if whole else 0)
    return file.seek(0, os.SEEK_END)


def _text(name: str, value: float) -> str:
    if math.isnan(value):
        return "undefined"
    return f"{value:.2f} px" if name in _PIXELS else f"{value:.2%}"
