"""Our recipes against the paper's on images that no choice was made by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from egeunet.evaluation.pairs import compare, points
from egeunet.evaluation.paper import DATASETS
from egeunet.evaluation.series import PAPER_EPOCHS, Series, label_of
from egeunet.evaluation.statistics import PairedDifference
from egeunet.evaluation.table import NOT_RUN, Table

_NOTE = (
    "Of each recipe the longest training; its epochs are without those of earlier runs that it "
    "starts from or learns from. Differences are points of pooled IoU on the same images, of the "
    "seeds that both have, with the 95 % interval bootstrapped over images; one that holds 0 shows "
    "no difference."
)


def holdout(
    series: Sequence[Series], dataset: str, kept: Mapping[str, Any] | None, folder: Path
) -> Table:
    """Return the scores of EGE-UNet under the protocol `holdout`, the shipped recipe first.

    Args:
        series: Of `egeunet.evaluation.series.collect`; those of the test part are taken.
        dataset: Where they were trained and scored.
        kept: What the shipped recipe changes in the paper's; None where none is shipped.
        folder: Where the results lie; rows name their counts per image relative to it.
    """
    found = _longest(series, dataset)
    shipped = next((one for one in found if one.changes == kept), None)
    rows: list[tuple[str, ...]] = []
    for one in found:
        minus = "" if one is shipped or not shipped else points(compare(shipped, one, folder))
        dice = [100 * row["means"]["dice"] for row in one.rows.values() if "means" in row]
        per_image = f"{sum(dice) / len(dice):.2f}" if dice else NOT_RUN
        scores = (str(one.score("iou")), str(one.score("dice")), per_image)
        rows.append((one.label, str(one.epochs), str(len(one.rows)), *scores, minus))
    if not any((one.changes, one.epochs) == ({}, PAPER_EPOCHS) for one in found):
        rows.append((label_of("egeunet", {}), str(PAPER_EPOCHS), "0", *[NOT_RUN] * 4))
    if shipped:
        rows.sort(key=lambda row: row[0] != shipped.label)
    columns = (
        *("trained", "epochs", "seeds", "mIoU", "DSC", "Dice per image"),
        "the first row minus this",
    )
    title = (
        f"EGE-UNet on {DATASETS[dataset]}, holdout: the test part, selected on the validation part"
    )
    return Table(f"holdout-{dataset}", title, columns, tuple(rows), _NOTE)


def gain(
    series: Sequence[Series], dataset: str, kept: Mapping[str, Any] | None, folder: Path
) -> PairedDifference | None:
    """Return what the shipped recipe gives over the paper's at its 300 epochs; None if not run."""
    shipped = next((one for one in _longest(series, dataset) if one.changes == kept), None)
    runs = [one for one in series if one.epochs == PAPER_EPOCHS]
    paper = next((one for one in _longest(runs, dataset) if not one.changes), None)
    return compare(shipped, paper, folder) if shipped and paper else None


def _longest(series: Sequence[Series], dataset: str) -> list[Series]:
    """Return the longest training of each recipe, the best score first."""
    found: dict[str, Series] = {}
    for one in sorted(series, key=lambda one: one.epochs):
        scored = (one.system, one.dataset, one.protocol, one.part, one.weights_epoch)
        if scored == ("egeunet", dataset, "holdout", "test", "selected"):
            found[one.label] = one
    return sorted(found.values(), key=lambda one: -one.score("iou").mean)
