"""Scores of the epochs of a training: history, selection and summary."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from egeunet.errors import EgeunetError
from egeunet.files import atomic_write, read_text, write_json
from egeunet.training.config import Recipe

HISTORY = "history.csv"
COLUMNS = ("epoch", "lr", "train_loss", "val_loss", "val_iou", "val_dice", "seconds")


def read_history(folder: Path) -> list[dict[str, float]]:
    """Return the finished epochs of a run folder; none before the first.

    Each has `epoch` (from 1), `lr`, `train_loss`, `val_loss`, `val_iou`, `val_dice` (0…1) and
    `seconds`.

    Raises:
        EgeunetError: If the file is damaged.
    """
    file = folder / HISTORY
    if not file.is_file():
        return []
    try:
        rows = csv.DictReader(io.StringIO(read_text(file), newline=""), restkey="", restval="")
        if not {*COLUMNS} <= {*(rows.fieldnames or ())}:
            raise ValueError(f"expected the columns {', '.join(COLUMNS)}")  # noqa: TRY301
        return [{name: float(value) for name, value in row.items()} for row in rows]
    except (ValueError, TypeError, csv.Error) as error:
        raise EgeunetError(f"{file} is not the history of a training ({error}).") from error


def write_history(folder: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write what `read_history` reads."""
    with (
        atomic_write(folder / HISTORY) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def select_epoch(history: Sequence[dict[str, float]], recipe: Recipe) -> dict[str, float]:
    """Return the row of the epoch that `trainer.select_by` selects, the earliest of equals."""
    key = recipe.select_by
    return (max if key == "val_iou" else min)(history, key=lambda row: row[key])


def selected_on(protocol: str) -> str:
    """Return the split whose score selects the epoch: "test" under `paper`, else "validation"."""
    return "test" if protocol == "paper" else "validation"


def write_summary(
    recipe: Recipe, history: Sequence[dict[str, float]], metadata: dict[str, str]
) -> None:
    """Write `metrics.json` of a finished training.

    Args:
        recipe: Settings of the training.
        history: All its epochs.
        metadata: Metadata of the selected weights.
    """
    summary = {
        **metadata,
        "seed": recipe.seed,
        "selected_by": recipe.select_by,
        "selected_on": selected_on(recipe.data.protocol),
        "selected": select_epoch(history, recipe),
        "last": history[-1],
        "seconds": round(sum(row["seconds"] for row in history), 1),
    }
    write_json(recipe.out / "metrics.json", summary)


def describe_epoch(history: Sequence[dict[str, float]], epochs: int) -> str:
    """Return one line about the last of the finished epochs, and the time left for the others."""
    row = history[-1]
    seconds = sum(one["seconds"] for one in history) / len(history) * (epochs - len(history))
    left = f"  {timedelta(seconds=round(seconds))} left" if len(history) < epochs else ""
    return (
        f"epoch {row['epoch']:.0f}/{epochs}  lr {row['lr']:.2e}  "
        f"train loss {row['train_loss']:.4f}  val loss {row['val_loss']:.4f}  "
        f"mIoU {row['val_iou']:.2%}  DSC {row['val_dice']:.2%}  {row['seconds']:.1f} s{left}"
    )
