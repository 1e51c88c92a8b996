"""Recorded results: rows of JSON in `.jsonl` files, and pixel counts per image beside them."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egeunet.errors import EgeunetError
from egeunet.files import atomic_write

if TYPE_CHECKING:
    from egeunet.metrics.counts import Counts

if sys.platform != "win32":
    import fcntl

_COUNTS = ("tp", "fp", "fn", "tn")


def read_results(folder: str | Path) -> list[dict[str, Any]]:
    """Return the rows of all `.jsonl` files in a folder, in the order of the file names.

    Raises:
        EgeunetError: As `read_rows`.
    """
    return [row for path in sorted(Path(folder).glob("*.jsonl")) for row in read_rows(path)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a `.jsonl` file, without a last line that a crash cut off.

    Raises:
        EgeunetError: If the file cannot be read or another line is not a JSON object.
    """
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except OSError as error:
        raise EgeunetError(f"Cannot read {path}: {error.strerror}.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if (row := parse_row(line)) is None:
            raise EgeunetError(
                f"Line {number} of {path} is not a JSON object: repair or remove it."
            )
        rows.append(row)
    if row := parse_row(last):
        rows.append(row)
    return rows


def parse_row(line: str | bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None if the text is anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # not JSON, or nested too deeply
        return None
    return row if isinstance(row, dict) else None


def append_result(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append a row to a `.jsonl` file.

    Several processes may append to one file at a time. The row is on disk when this returns. If
    the disk is full, the file is left as it was. A last line that a crash cut off is replaced.

    Args:
        path: The file; created, with its folder, if missing.
        row: Values that JSON can hold, without nan.

    Raises:
        EgeunetError: If the row could not be written whole.
    """
    path = Path(path)
    line = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            end = _repair_last(file)
            written = file.write(line)
            if written != len(line):
                file.truncate(end)
            os.fsync(file.fileno())
    except OSError as error:
        raise EgeunetError(f"Cannot append the result to {path}: {error.strerror}.") from error
    if written != len(line):
        raise EgeunetError(f"Cannot append the result to {path}: the disk is full.")


def write_counts(path: str | Path, ids: tuple[str, ...], counts: Counts) -> None:
    """Write one line per image and class, `id,class,tp,fp,fn,tn`, atomically.

    Args:
        path: The CSV file.
        ids: N image ids.
        counts: Pixel counts (N, K).
    """
    import torch

    table = torch.stack(list(counts), dim=2).tolist()  # (N, K, 4)
    with atomic_write(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "class", *_COUNTS))
        for name, classes in zip(ids, table, strict=True):
            writer.writerows((name, index, *values) for index, values in enumerate(classes))


def read_counts(path: str | Path) -> tuple[tuple[str, ...], Counts]:
    """Read a file of `write_counts`.

    Returns:
        Image ids and their counts, int64 (N, K).

    Raises:
        EgeunetError: If the file is missing or holds something else.
    """
    import torch

    from egeunet.metrics.counts import Counts

    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        ids = tuple(dict.fromkeys(row["id"] for row in rows))
        shape = (len(ids), len(rows) // len(ids))
        columns = ([int(row[name]) for row in rows] for name in _COUNTS)
        return ids, Counts(*(torch.tensor(column).reshape(shape) for column in columns))
    except (
        OSError,
        ArithmeticError,
        LookupError,
        ValueError,
        TypeError,
        RuntimeError,
        csv.Error,
    ) as error:
        raise EgeunetError(
            f"Cannot read the pixel counts in {path}: {error!r}. Evaluate the run again."
        ) from error


def _repair_last(file: FileIO) -> int:
    """Remove a last line that was cut off, or add its missing end; return the size."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if end == 0 or file.read(1) == b"\n":
        return end
    file.seek(0)
    whole, _, last = file.read().rpartition(b"\n")
    if parse_row(last) is not None:
        file.write(b"\n")
    else:
        file.truncate(len(whole) + 1 if whole else 0)
    return file.seek(0, os.SEEK_END)
