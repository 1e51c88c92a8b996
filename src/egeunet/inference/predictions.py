"""The table of a folder of masks: how each was made, what was measured, what went wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from egeunet.errors import EgeunetError, UsageError
from egeunet.files import atomic_write, held
from egeunet.notice import NOTICE

TABLE, JOURNAL = "predictions.json", "predictions.jsonl"
_CORNERS = ("x0", "y0", "x1", "y1")
_COLUMNS: tuple[str, ...] = ("name", "mask", "width", "height", "area", "area_pixels", *_CORNERS)
_COLUMNS += ("confidence", "quality", "review", "weights", "threshold", "tta")
_COLUMNS += ("largest_component", "fill_holes", "photo_sha256", "error")

Row = dict[str, Any]


def read_rows(output: Path) -> dict[str, Row]:
    """Return the rows that earlier runs left in a folder, by photo; none if there is no table.

    Raises:
        EgeunetError: The table is damaged or of another origin.
    """
    path = output / TABLE
    rows: dict[str, Row] = {}
    try:
        if path.exists():
            table = json.loads(path.read_bytes())["photos"]
            rows = {str(row["name"]): dict(row) for row in table}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EgeunetError(
            f"{path} is damaged or was not written by `egeunet predict`: move it away first."
        ) from error
    return rows | _read_journal(output / JOURNAL)


def check_options(output: Path, rows: Mapping[str, Row], options: Row) -> None:
    """Hold the rows of a folder to the options that masks are to be made with now.

    Raises:
        UsageError: Some were made with others.
    """
    made = [row for row in rows.values() if row.get("mask")]
    other = [key for key in options if any(row.get(key) != options[key] for row in made)]
    if other:
        raise UsageError(
            f"{output} holds masks that were made with other options "
            f"({', '.join(other).replace('_', ' ')}): give the same ones, name another folder, or "
            "replace them with --overwrite."
        )


@contextmanager
def open_table(output: Path) -> Iterator[Callable[[Row], None]]:
    """Open the table of a folder, for rows beside or in the place of those that are there.

    They are appended to `predictions.jsonl` one by one, so that a kill loses none of them, and go
    to `predictions.json` and `predictions.csv`, sorted by photo, when the block ends.

    Args:
        output: The folder; it is made if it is missing.

    Yields:
        A function that adds a row.

    Raises:
        UsageError: Another process writes to the folder.
        EgeunetError: The tables cannot be read or written.
        OSError: The folder or `predictions.jsonl` cannot be written.
    """
    path = output / JOURNAL
    with held(output), path.open("ab", buffering=0) as journal:
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
            row = dict(json.loads(line))
            rows[str(row["name"])] = row
        except (ValueError, KeyError, TypeError):
            continue  # it was cut off
    return rows


def _write_tables(output: Path, table: list[Row]) -> None:
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
