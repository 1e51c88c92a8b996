"""Our recipes against the paper's under the protocol `holdout`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.paired_comparison import Comparison, compare, points
from research.paper import DATASETS
from research.run_groups import PAPER_EPOCHS, RunGroup, label_of
from research.table import NOT_RUN, Table

_NOTE = (
    "Of each recipe the longest training; its epochs are without those of earlier runs that it "
    "starts from or learns from. Differences are points on the same images, of the seeds that both "
    "have, with the 95 % interval bootstrapped over images and, per image, the p-value of the "
    "Wilcoxon signed-rank test; an interval that holds 0 shows no difference. The checkpoint of "
    "each run was selected on the validation split. The test split was read more than once, and "
    "augmentations were added after earlier weights failed on corrupted test images: see the reads "
    "of test splits."
)


def recipe_comparison(
    groups: Sequence[RunGroup], dataset: str, kept: Mapping[str, Any] | None, folder: Path
) -> Table:
    """Return the scores of EGE-UNet under the protocol `holdout`, the shipped recipe first.

    Args:
        groups: All groups of runs.
        dataset: Where they were trained and scored.
        kept: What the shipped recipe changes in the paper's; None if none is shipped.
        folder: The folder of results.
    """
    found = _longest(groups, dataset)
    shipped = next((one for one in found if one.changes == kept), None)
    rows: list[tuple[str, ...]] = []
    for one in found:
        minus = ("", "")
        if shipped and one is not shipped:
            minus = _differences(compare(shipped, one, folder))
        dice = [100 * row["means"]["dice"] for row in one.rows.values() if "means" in row]
        per_image = f"{sum(dice) / len(dice):.2f}" if dice else NOT_RUN
        scores = (str(one.score("iou")), str(one.score("dice")), per_image)
        rows.append((one.label, str(one.epochs), str(len(one.rows)), *scores, *minus))
    if not any((one.changes, one.epochs) == ({}, PAPER_EPOCHS) for one in found):
        rows.append((label_of("egeunet", {}), str(PAPER_EPOCHS), "0", *[NOT_RUN] * 5))
    if shipped:
        rows.sort(key=lambda row: row[0] != shipped.label)
    columns = (
        *("trained", "epochs", "seeds", "mIoU", "DSC", "Dice per image"),
        *("the first row minus this, mIoU", "the first row minus this, Jaccard per image"),
    )
    title = f"EGE-UNet on {DATASETS[dataset]}, holdout: test split, selected on validation"
    return Table(f"holdout-{dataset}", title, columns, tuple(rows), _NOTE)


def gain(
    groups: Sequence[RunGroup], dataset: str, kept: Mapping[str, Any] | None, folder: Path
) -> Comparison | None:
    """Return the gain of the shipped recipe over the paper's at 300 epochs; None if not run."""
    shipped = next((one for one in _longest(groups, dataset) if one.changes == kept), None)
    runs = [one for one in groups if one.epochs == PAPER_EPOCHS]
    paper = next((one for one in _longest(runs, dataset) if not one.changes), None)
    return compare(shipped, paper, folder) if shipped and paper else None


def _differences(found: Comparison | None) -> tuple[str, str]:
    if found is None:
        return points(None), points(None)
    return points(found.iou), f"{points(found.jaccard)}, p {found.jaccard.p_value:.2g}"


def _longest(groups: Sequence[RunGroup], dataset: str) -> list[RunGroup]:
    """Return the longest training of each recipe, the best score first."""
    found: dict[str, RunGroup] = {}
    for one in sorted(groups, key=lambda one: one.epochs):
        scored = (one.model, one.dataset, one.protocol, one.split, one.weights_epoch)
        if scored == ("egeunet", dataset, "holdout", "test", "selected"):
            found[one.label] = one
    return sorted(found.values(), key=lambda one: -one.score("iou").mean)
