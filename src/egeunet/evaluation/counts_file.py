"""Counted pixels of each image in a CSV file: what comparing two systems takes."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from egeunet.errors import EgeunetError
from egeunet.files import atomic_write
from egeunet.metrics.counts import Counts

_COLUMNS = ("id", "class", *Counts._fields)


def write_counts(path: str | Path, ids: tuple[str, ...], counts: Counts) -> None:
    """Write one line per image and class: `id,class,tp,fp,fn,tn`.

    Args:
        path: Where to, atomically.
        ids: The images.
        counts: Per image and class, (N, K).
    """
    table = torch.stack(list(counts), dim=2).tolist()  # (N, K, 4)
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for name, classes in zip(ids, table, strict=True):
            writer.writerows((name, index, *values) for index, values in enumerate(classes))


def read_counts(path: str | Path) -> tuple[tuple[str, ...], Counts]:
    """Read what `write_counts` wrote.

    Returns:
        The images, and their counts as int64 (N, K).

    Raises:
        EgeunetError: If the file is missing or holds something else.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        ids = tuple(dict.fromkeys(row["id"] for row in rows))
        shape = (len(ids), len(rows) // max(1, len(ids)))
        columns = ([int(row[name]) for row in rows] for name in Counts._fields)
        return ids, Counts(*(torch.tensor(column).reshape(shape) for column in columns))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise EgeunetError(
            f"{path} holds no counts per image ({error!r}): evaluate that run again."
        ) from error
