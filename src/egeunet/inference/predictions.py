"""The table of a folder of masks: predictions.json and predictions.csv."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from egeunet.errors import EgeunetError, UsageError
from egeunet.files import atomic_write, folder_lock
from egeunet.notice import NOTICE

TABLE, JOURNAL = "predictions.json", "predictions.jsonl"
_CORNERS = ("x0", "y0", "x1", "y1")
_COLUMNS: tuple[str, ...] = ("name", "mask", "width", "height", "area", "area_pixels", *_CORNERS)
_COLUMNS += ("quality", "review", "weights", "threshold", "tta")
_COLUMNS += ("largest_component", "fill_holes", "image_sha256", "error")

Row = dict[str, Any]


def read_rows(output: Path) -> dict[str, Row]:
    """Return the rows that earlier runs left in a folder, by image; none if there is no table.

    Raises:
        EgeunetError: The table is damaged or not from `egeunet predict`.
    """
    path = output / TABLE
    rows: dict[str, Row] = {}
    try:
        if path.exists():
            table = [_check_row(row) for row in json.loads(path.read_bytes())["images"]]
            rows = {row["name"]: row for row in table}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EgeunetError(
            f"{path} is damaged or not from `egeunet predict`: move it away first."
        ) from error
    return rows | _read_journal(output / JOURNAL)


def check_options(output: Path, rows: Mapping[str, Row], options: Row) -> None:
    """Compare the options that the rows of a folder were made with to those of a new run.

    Raises:
        UsageError: They differ.
    """
    made = [row for row in rows.values() if row.get("mask")]
    other = [key for key in options if any(row.get(key) != options[key] for row in made)]
    if other:
        raise UsageError(
            f"{output} holds masks made with other options ({', '.join(other).replace('_', ' ')}): "
            "use the same ones, choose another folder, or replace them with --overwrite."
        )


@contextmanager
def open_table(output: Path) -> Iterator[Callable[[Row], None]]:
    """Open the table of a folder to add or replace rows.

    Rows are appended to `predictions.jsonl` one by one, so that a kill loses none, and written to
    `predictions.json` and `predictions.csv`, sorted by image, when the block ends.

    Args:
        output: The folder; created if missing.

    Yields:
        A function that adds a row.

    Raises:
        UsageError: Another process writes to the folder.
        EgeunetError: The tables cannot be read or written, or `predictions.jsonl` is a link.
        OSError: The folder or `predictions.jsonl` cannot be written.
    """
    path = output / JOURNAL
    with folder_lock(output):
        if path.is_symlink():
            raise EgeunetError(f"{path} is a symbolic link, which is not followed: remove it.")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(path, flags, 0o666), "ab", buffering=0) as journal:
            table = read_rows(output)

            def add(row: Row) -> None:
                # A line begins a new one, because a kill may have cut off the last.
                journal.write(b"\n" + json.dumps(row, ensure_ascii=False).encode())
                table[row["name"]] = row

            try:
                yield add
            finally:
                _write_tables(output, [table[name] for name in sorted(table)])
                journal.close()
                path.unlink(missing_ok=True)


def _read_journal(path: Path) -> dict[str, Row]:
    """Return the rows of a run that was killed."""
    rows: dict[str, Row] = {}
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            row = _check_row(json.loads(line))
            rows[row["name"]] = row
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # it was cut off
    return rows


def _check_row(row: Any) -> Row:
    """Return a row whose values are of the right kinds.

    Raises:
        KeyError, TypeError: It is not a row.
    """
    box = row.get("box") if isinstance(row, dict) else 0
    if box is not None and not (isinstance(box, list) and len(box) == 4):
        raise TypeError(box)
    if not isinstance(row["name"], str):
        raise TypeError(row["name"])
    return dict(row)


def _write_tables(output: Path, table: list[Row]) -> None:
    try:
        with atomic_write(output / TABLE) as path:
            text = json.dumps({"notice": NOTICE, "images": table}, indent=2, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")
        with (
            atomic_write((output / TABLE).with_suffix(".csv")) as path,
            path.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
            writer.writeheader()
            for row in table:
                corners = zip(_CORNERS, row.get("box") or (), strict=False)
                cells = {**row, **dict(corners)}
                writer.writerow({key: _to_cell(value) for key, value in cells.items()})
    except OSError as error:
        raise EgeunetError(
            f"Cannot write the table in {output}: {error.strerror or error}."
        ) from error


def _to_cell(value: Any) -> Any:
    """Quote text that spreadsheets would run as a formula."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value
