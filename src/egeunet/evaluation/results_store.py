"""Recorded results: rows of JSON in `.jsonl` files, and pixel counts per image beside them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
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
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise EgeunetError(f"Cannot read {path}: {error.strerror}.") from error
    rows = [parse_row(line) for line in lines]
    if None in rows[:-1]:
        number = rows.index(None) + 1
        raise EgeunetError(f"Line {number} of {path} is not a JSON object: repair or remove it.")
    return [row for row in rows if row is not None]


def parse_row(line: bytes) -> dict[str, Any] | None:
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
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            last = file.read(size).rpartition(b"\n")[2]
            if parse_row(last) is not None:  # only its end is missing
                line = b"\n" + line
            elif last:
                file.truncate(size - len(last))
            end = file.seek(0, os.SEEK_END)
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
    import pandas as pd

    index = pd.MultiIndex.from_product([ids, range(counts.tp.shape[1])], names=["id", "class"])
    columns = {name: getattr(counts, name).numpy().ravel() for name in _COUNTS}
    with atomic_write(path) as part:
        pd.DataFrame(columns, index).to_csv(part, lineterminator="\n")


def read_counts(path: str | Path) -> tuple[tuple[str, ...], Counts]:
    """Read a file of `write_counts`.

    Returns:
        Image ids and their counts, int64 (N, K).

    Raises:
        EgeunetError: If the file is missing or holds something else.
    """
    import pandas as pd
    import torch

    from egeunet.metrics.counts import Counts

    try:
        table = pd.read_csv(path, dtype={"id": str}, keep_default_na=False)
        ids = tuple(table["id"].unique())
        columns = (torch.tensor(table[name].to_numpy("int64")) for name in _COUNTS)
        return ids, Counts(*(column.reshape(len(ids), -1) for column in columns))
    except (OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise EgeunetError(
            f"Cannot read the pixel counts in {path}: {error!r}. Evaluate the run again."
        ) from error
