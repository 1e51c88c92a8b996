"""Images that weights have been trained or selected on, including through earlier runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from egeunet.errors import EgeunetError
from egeunet.files import atomic_write, read_text

EARLIER = "learned_from.csv"
TRAINED, SELECTED = "trained", "selected"

Seen = dict[tuple[str, str], str]
"""(dataset, id) → TRAINED or SELECTED."""


def seen_of(dataset: str, parts: Mapping[str, str]) -> Seen:
    """Return what a run on `dataset` has seen itself.

    Args:
        dataset: Name of the dataset.
        parts: id → split. Without a split "val" the epoch was selected on "test".
    """
    selected = "val" if "val" in parts.values() else "test"
    kinds = {"train": TRAINED, selected: SELECTED}
    return {(dataset, id): kinds[part] for id, part in parts.items() if part in kinds}


def merge(*several: Seen) -> Seen:
    """Return the union; TRAINED takes precedence over SELECTED."""
    found: Seen = {}
    for seen in several:
        found |= {key: kind for key, kind in seen.items() if found.get(key) != TRAINED}
    return found


def seen_in(seen: Seen, *datasets: str) -> dict[str, str]:
    """Return id → kind of the images of some datasets.

    Ids of the ISIC archive name the same image in every dataset; others only within one.
    """
    found: dict[str, str] = {}
    for (home, id), kind in seen.items():
        same = home in datasets or id.startswith("ISIC_")
        if same and found.get(id) != TRAINED:
            found[id] = kind
    return found


def read_earlier(folder: Path) -> Seen:
    """Return what the runs that a run learned from have seen, as recorded in its folder.

    Raises:
        EgeunetError: If the file is not what a training writes.
    """
    file = folder / EARLIER
    if not file.is_file():
        return {}
    try:
        rows = csv.DictReader(io.StringIO(read_text(file), newline=""))
        return {(row["dataset"], row["id"]): row["kind"] for row in rows}
    except (ValueError, KeyError, csv.Error) as error:
        raise EgeunetError(f"{file} is not a list of images that runs learned from.") from error


def write_earlier(folder: Path, seen: Seen) -> None:
    """Write what `read_earlier` reads."""
    with (
        atomic_write(folder / EARLIER) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("dataset", "id", "kind"))
        writer.writerows((*key, kind) for key, kind in sorted(seen.items()))
