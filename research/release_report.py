"""Tables and figures of the shipped weights: failure detection and robustness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from matplotlib.figure import Figure

from egeunet.environment import describe_environment
from egeunet.evaluation import robustness
from egeunet.evaluation.failure_detection import estimates_figure, quality_table
from egeunet.evaluation.results_store import read_counts
from egeunet.evaluation.statistics import bootstrap_interval, image_means, pooled_scores, resample
from egeunet.metrics.counts import Counts, mean_foreground, scores
from research.paper import DATASETS
from research.table import NOT_RUN, Table

Row: TypeAlias = Mapping[str, Any]


def release_tables(rows: Sequence[Row], dataset: str) -> list[Table]:
    """Return failure detection, the features tried for it, and robustness.

    Args:
        rows: All rows of results; of each kind the last of the dataset is taken.
        dataset: The dataset of the shipped weights.
    """
    views = [quality_row(rows, dataset, tta) for tta in (False, True)]
    tried = _last(rows, dataset, lambda row: "features" in row)
    row = _of_shipped(rows, dataset, lambda row: "robustness" in row)
    measured = f"Seed {row['robustness']['seed']}; {_subject(row)}" if row else ""
    nothing = {"clean": {}, "corrupted": {}, "by_size": (), "by_skin_tone": ()}
    corruptions, groups = robustness.tables(row["robustness"] if row else nothing)
    quality_columns = ("on the test split", "one view", "95 % interval")
    return [
        _table(
            "quality",
            "Failure detection by the estimated Dice of the shipped weights",
            (*quality_columns, "four views (`tta`)", "95 % interval of these"),
            _quality_cells(*views),
            _subject(views[0]),
        ),
        _table(
            "quality-features",
            "Features tried for the Dice estimate, cross-validated in the validation split",
            ("features", "AUROC", "correlation with Dice"),
            [
                (name, f"{score['auroc']:.3f}", f"{score['pearson']:.3f}")
                for name, score in (tried["features"] if tried else {}).items()
            ],
            _subject(tried),
        ),
        _table(
            "robustness-corruptions",
            "The shipped weights under corruptions of five severities",
            *corruptions[1:],
            measured,
        ),
        _table(
            "robustness-groups",
            "The shipped weights by lesion size and skin tone",
            *groups[1:],
            measured,
        ),
    ]


def release_figures(rows: Sequence[Row], dataset: str) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of failure detection (one view) and robustness with their names."""
    quality = quality_row(rows, dataset, tta=False)
    if quality and "quality_images" in quality:
        yield "quality", estimates_figure(*np.array(quality["quality_images"]).T)
    if row := _of_shipped(rows, dataset, lambda row: "robustness" in row):
        yield "robustness", robustness.robustness_figure(row["robustness"])


def weights_row(rows: Sequence[Row], dataset: str) -> Row | None:
    """Return the row of the weights shipped for a dataset."""
    return _last(rows, dataset, lambda row: "weights" in row and "options" not in row)


def quality_row(rows: Sequence[Row], dataset: str, tta: bool) -> Row | None:
    """Return the failure detection of these weights, with one view or four."""
    return _of_shipped(
        rows,
        dataset,
        lambda row: "quality" in row and "robustness" not in row and row.get("tta") is tta,
    )


def _of_shipped(rows: Sequence[Row], dataset: str, chosen: Callable[[Row], bool]) -> Row | None:
    """Return the last row of the shipped weights on their own test split."""
    weights = weights_row(rows, dataset)
    same = ("weights_sha256", "protocol", "split")
    return weights and _last(
        rows,
        dataset,
        lambda row: chosen(row) and all(row.get(key) == weights[key] for key in same),
    )


def _last(rows: Sequence[Row], dataset: str, chosen: Callable[[Row], bool]) -> Row | None:
    found = [row for row in rows if row.get("dataset") == dataset and chosen(row)]
    return found[-1] if found else None


def _quality_cells(one: Row | None, four: Row | None) -> list[tuple[str, ...]]:
    if one is None or four is None:
        return []
    pairs = zip(quality_table(one["quality"]), quality_table(four["quality"]), strict=True)
    return [
        (label.removeprefix("quality: "), value, ends, other, other_ends)
        for (label, value, ends, _), (_, other, other_ends, _) in pairs
    ]


def _table(
    name: str,
    title: str,
    columns: tuple[str, ...],
    cells: Sequence[tuple[str, ...]],
    note: str,
) -> Table:
    rest = ("",) * (len(columns) - 1)
    return Table(name, title, columns, tuple(cells) or ((NOT_RUN, *rest),), note)


def _subject(row: Row | None) -> str:
    """Say what a row was measured with and on."""
    if row is None:
        return ""
    return (
        f"{row['n']} images of {row['dataset']}, protocol {row['protocol']}, split {row['split']}; "
        f"weights {row['weights_sha256'][:12]}; {describe_environment(row)}."
    )


COPIES = {
    "isic2018": {"ISIC_0012673": "ISIC_0012672", "ISIC_0012222": "ISIC_0016003"},
    "kvasir_seg": {"test_16": "train_222"},
}
"""Dataset: images of the `holdout` test split and their copy or near copy in training."""
_NOTE_SPLITS = (
    "The model was trained on the training split and selected on the validation split: those "
    "rows only show how hard the test split is."
)
_NOTE_COPIES = (
    " “Without copies” leaves out test images with a copy or near copy in the training split: "
)


def split_scores(rows: Sequence[Row], dataset: str, folder: Path) -> Table:
    """Return the scores of the shipped weights on every split, and on test without copies.

    Args:
        rows: All rows of results.
        dataset: The dataset of the weights.
        folder: The folder of results.
    """
    weights = weights_row(rows, dataset)
    lines = []
    if weights and "n" in weights:
        lines.append(_split_cells("test", weights))
        if without := _without_copies(rows, weights, folder):
            lines.append(without)
        for split, name in (("val", "validation"), ("train", "training")):
            same = {"weights_sha256": weights["weights_sha256"], "split": split}
            row = _last(rows, dataset, lambda r, same=same: same.items() <= r.items())
            lines.append(_split_cells(name, row) if row else (name, *[NOT_RUN] * 4))
    columns = ("split", "images", "mIoU", "DSC", "Dice per image")
    copies = COPIES.get(dataset, {})
    note = _NOTE_SPLITS
    if copies:
        note += _NOTE_COPIES + ", ".join(f"{a} of {b}" for a, b in copies.items()) + "."
    title = f"The shipped weights on every split of {DATASETS.get(dataset, dataset)}"
    return _table(f"splits-{dataset}", title, columns, lines, note)


def _split_cells(name: str, row: Row) -> tuple[str, ...]:
    kinds = (("pooled", "iou"), ("pooled", "dice"), ("means", "dice"))
    cells = (
        f"{100 * row[kind][score]:.2f} ({' – '.join(f'{100 * end:.2f}' for end in ends)})"
        for kind, score in kinds
        for ends in [row["intervals"][kind][score]]
    )
    return (name, str(row["n"]), *cells)


def _without_copies(rows: Sequence[Row], weights: Row, folder: Path) -> tuple[str, ...] | None:
    """Return the scores without copies, from the counts per image of the same training."""
    keys = ("recipe_hash", "seed", "dataset", "split")
    same = {key: weights[key] for key in keys if key in weights}
    copies = COPIES.get(weights["dataset"])
    if not copies:
        return None
    found = [row for row in rows if same.items() <= row.items() and "per_image" in row]
    if not found:
        return None
    ids, counts = read_counts(folder / found[-1]["per_image"])
    kept = torch.tensor([name not in copies for name in ids])
    counts = Counts(*(count[kept] for count in counts))
    weighted = np.concatenate([np.ones((1, int(kept.sum()))), resample(int(kept.sum()))])
    pooled = pooled_scores(counts, weighted)
    means = image_means(mean_foreground(scores(counts)["dice"]).numpy(), weighted)
    cells = []
    for values in (pooled["iou"], pooled["dice"], means):
        low, high = bootstrap_interval(values[1:])
        cells.append(f"{100 * values[0]:.2f} ({100 * low:.2f} – {100 * high:.2f})")
    return ("test, without copies", str(int(kept.sum())), *cells)
