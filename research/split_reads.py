"""Count how often test splits were read, from rows of results.

Every command that scores a model on a test split appends a row (`egeunet evaluate --record`,
`python -m research sweep` and `card`, benchmarks), so the rows are the record. From now on choices
are made on validation splits alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from research.paper import DATASETS
from research.table import Table

_NOTE = (
    "A read is a row of results with scores on a test split; rows that show the same weights under "
    "other conditions (mirror images, corruptions, masks post-processed, other formats) count too. "
    "A training is a recipe with its seed. Under `paper` the checkpoint is selected on the test "
    "split itself. Under `holdout` no checkpoint was selected on it, but the augmentations for "
    "illumination, blur, noise and compression were added after earlier weights had failed on "
    "corrupted images of the test split: the test scores of later weights are not free of choice."
)


def count_reads(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return, for each dataset and protocol, how often its test split was read."""
    trained = {
        row["weights_sha256"]: (row["recipe_hash"], row.get("seed"))
        for row in rows
        if {"weights_sha256", "recipe_hash"} <= row.keys()
    }
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if _reads(row):
            key = (row["dataset"], row.get("protocol", "holdout"))
            found.setdefault(key, []).append(row)
    lines = [
        (
            DATASETS.get(dataset, dataset),
            protocol,
            str(len(read)),
            str(len({row["weights_sha256"] for row in read})),
            str(_count(trained.get(row["weights_sha256"]) for row in read)),
        )
        for (dataset, protocol), read in sorted(found.items())
    ]
    columns = ("test split of", "protocol", "reads", "weights files", "trainings")
    return Table("test-reads", "Reads of test splits", columns, tuple(lines), _NOTE)


def _reads(row: Mapping[str, Any]) -> bool:
    if "weights_sha256" not in row:
        return False
    scored_formats = any(one.get("dice") is not None for one in row.get("formats", ()))
    return row.get("split") in ("test", "all") or scored_formats


def _count(keys: Iterable[object]) -> int:
    return len(set(keys) - {None})
