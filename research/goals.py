"""The goals of this project, and which of them the results show to be reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from research.paper import TABLE_1
from research.recipe_comparison import gain
from research.release_report import quality_row, weights_row
from research.run_groups import PAPER_EPOCHS, RunGroup
from research.table import NOT_RUN, Table

POINTS = 1.0  # of mIoU, over the paper's recipe
FRONTIER = 82.4  # mIoU that networks of up to 60 K parameters claim, on splits of their own
AUROC = 0.90
RISK = 0.5
POLYPS = 80.0  # Dice per image; the only public figure of this network is 64.02

YES, NO, NOT_SHOWN = "yes", "no", "not shown"
_NOTE = (
    "“Yes”: the whole 95 % interval, bootstrapped over images of the test split, reaches the "
    "target. “Not shown”: the measured value reaches it and the interval does not exclude that it "
    "is missed, or the data are not those of the target. “No”: the measured value misses it. "
    "Intervals describe these trained weights alone; other seeds would give other values."
)
_REMARKS = {
    "isic2017": "the masks are those of ISIC 2018: not comparable",
    "isic2018": "one seed, selected on the test split; {noise}another 7:3 split than the paper's",
}


def goals(
    groups: Sequence[RunGroup],
    rows: Sequence[Mapping[str, Any]],
    kept: Mapping[str, Any] | None,
    folder: Path,
) -> Table:
    """Return the goals, what was measured, and whether that shows them to be reached.

    Args:
        groups: All groups of runs.
        rows: All rows of results; those of the shipped files are taken.
        kept: What the shipped recipe changes in the paper's.
        folder: The folder of results.
    """
    lines = (
        *(_reproduction(groups, dataset, folder) for dataset in TABLE_1),
        _better(groups, kept, folder),
        *_shipped(rows),
    )
    columns = ("goal", "target", "measured", "95 % interval", "reached", "remark")
    return Table("goals", "Goals", columns, tuple(lines), _NOTE)


def verdict(value: float, interval: Sequence[float], target: float, more: bool = True) -> str:
    """Return whether a value with its interval shows that a target is reached.

    Args:
        value: The measured value.
        interval: Its lower and upper end.
        target: The target.
        more: Whether more is better.
    """
    sign = 1 if more else -1
    if sign * value < sign * target:
        return NO
    worst = min(sign * end for end in interval)
    return YES if worst >= sign * target else NOT_SHOWN


def _reproduction(groups: Sequence[RunGroup], dataset: str, folder: Path) -> tuple[str, ...]:
    name = "ISIC " + dataset.removeprefix("isic")
    goal = f"{name}, protocol `paper`, the paper's recipe and 300 epochs: mIoU"
    target = TABLE_1[dataset]["egeunet"].iou
    scored = {
        one.weights_epoch: one
        for one in groups
        if (one.model, one.changes, one.epochs) == ("egeunet", {}, PAPER_EPOCHS)
        and (one.dataset, one.protocol, one.split) == (dataset, "paper", "test")
    }
    if "selected" not in scored:
        return _not_run(goal, f"≥ {target:.2f}")
    spread = scored["selected"].score("iou")
    if spread.n > 1:  # twice the standard error of the mean
        low, high = (spread.mean + sign * 2 * (spread.std or 0) / spread.n**0.5 for sign in (-1, 1))
    else:
        (row,) = scored["selected"].rows.values()
        low, high = (100 * end for end in row["intervals"]["pooled"]["iou"])
    reached = verdict(spread.mean, (low, high), target)
    if dataset == "isic2017" and reached == YES:
        reached = NOT_SHOWN
    noise = (
        f"{scored['last'].score('iou').mean:.2f} at the last epoch; " if "last" in scored else ""
    )
    if spread.n == 1 and "history" in row:
        noise += "{:.2f} to {:.2f} in the 20 epochs of lowest loss; ".format(
            *_best_epochs(folder / row["history"])
        )
    remark = _REMARKS[dataset].format(noise=noise)
    return (goal, f"≥ {target:.2f}", str(spread), f"{low:.2f} … {high:.2f}", reached, remark)


def _best_epochs(history: Path) -> tuple[float, float]:
    """Return the lowest and highest mIoU, in percent, of the 20 epochs of lowest loss."""
    best = pd.read_csv(history).nsmallest(20, "val_loss")["val_iou"]
    return 100 * best.min(), 100 * best.max()


def _better(
    groups: Sequence[RunGroup], kept: Mapping[str, Any] | None, folder: Path
) -> tuple[str, ...]:
    goal = "ISIC 2018, `holdout`: our recipe minus the paper's at 300 epochs, points of mIoU"
    found = gain(groups, "isic2018", kept, folder)
    target = f"≥ {POINTS:.0f}"
    if found is None:
        return _not_run(goal, target)
    low, high = (100 * end for end in found.iou.interval)
    points = 100 * found.iou.difference
    start, end = (100 * end for end in found.jaccard.interval)
    remark = (
        f"mean Jaccard index per image {100 * found.jaccard.difference:+.2f} "
        f"({start:+.2f} … {end:+.2f}), p {found.jaccard.p_value:.2g}"
    )
    reached = verdict(points, (low, high), POINTS)
    return (goal, target, f"{points:+.2f}", f"{low:+.2f} … {high:+.2f}", reached, remark)


def _shipped(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield what the shipped files are measured by, each by its last row."""
    skin, views = (quality_row(rows, "isic2018", tta) for tta in (False, True))
    polyps = weights_row(rows, "kvasir_seg")
    for row, goal in (
        (skin, "the shipped weights"),
        (views, "the same, mean of four mirror views"),
    ):
        title = f"ISIC 2018, `holdout`, {goal}: mIoU"
        yield _score(title, row, "pooled", "iou", FRONTIER)
    yield _score("Kvasir-SEG, the shipped weights: Dice per image", polyps, "means", "dice", POLYPS)
    found = skin["quality"] if skin else {}
    for name, goal, target, more in (
        ("auroc", "Finding failures (Jaccard under 0.65): AUROC", AUROC, True),
        ("relative_risk_at_90", "Failure rate at 90 % coverage, relative to all", RISK, False),
    ):
        limit = f"{'≥' if more else '≤'} {target:.2f}"
        value = found.get(name)
        if value is None:  # not measured, or there is no failure
            yield _not_run(goal, limit)
            continue
        ends = found["intervals"][name]
        interval = " … ".join(f"{end:.3f}" for end in ends)
        yield (goal, limit, f"{value:.3f}", interval, verdict(value, ends, target, more), "")


def _score(
    goal: str, row: Mapping[str, Any] | None, kind: str, name: str, target: float
) -> tuple[str, ...]:
    limit = f"≥ {target:.1f}"
    if row is None or kind not in row:
        return _not_run(goal, limit)
    value = 100 * row[kind][name]
    ends = [100 * end for end in row["intervals"][kind][name]]
    remark = "an easy test split: see the card" if kind == "means" else ""
    interval = " … ".join(f"{end:.2f}" for end in ends)
    return (goal, limit, f"{value:.2f}", interval, verdict(value, ends, target), remark)


def _not_run(goal: str, target: str) -> tuple[str, ...]:
    return (goal, target, NOT_RUN, "", NOT_RUN, "")
