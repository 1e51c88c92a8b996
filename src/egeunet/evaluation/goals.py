"""What this project set out to show, and what of it is reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from egeunet.evaluation.holdout import gain
from egeunet.evaluation.paper import TABLE_1
from egeunet.evaluation.series import PAPER_EPOCHS, Series
from egeunet.evaluation.shipped import quality_row, weights_row
from egeunet.evaluation.table import NOT_RUN, Table

POINTS = 1.0  # of mIoU, over the paper's recipe
FRONTIER = 82.4  # mIoU that networks of up to 60 K parameters claim, on splits of their own
AUROC = 0.90
REST = 0.5
POLYPS = 80.0  # Dice per image; the only public figure of this network is 64.02

_NOTE = (
    "Intervals are of 95 %, bootstrapped over images of the test part, and know these trained "
    "weights alone. Of a score the measured value decides; of a difference its interval has to "
    "exclude 0 too."
)


def goals(
    series: Sequence[Series],
    rows: Sequence[Mapping[str, Any]],
    kept: Mapping[str, Any] | None,
    folder: Path,
) -> Table:
    """Return the goals, what was measured, and whether that reaches them.

    Args:
        series: Of `egeunet.evaluation.series.collect`.
        rows: All rows of results; those of the shipped files' quality are taken.
        kept: What the shipped recipe changes in the paper's.
        folder: Where the results lie; rows name their counts per image relative to it.
    """
    lines = (
        *(_reproduction(series, dataset) for dataset in TABLE_1),
        _better(series, kept, folder),
        *_shipped(rows),
    )
    columns = ("goal", "wanted", "measured", "95 % interval", "reached")
    return Table("goals", "Goals, and what is reached", columns, tuple(lines), _NOTE)


def _reproduction(series: Sequence[Series], dataset: str) -> tuple[str, ...]:
    name = "ISIC " + dataset.removeprefix("isic")
    goal = f"{name}, protocol `paper`, the paper's recipe and 300 epochs: mIoU"
    wanted = TABLE_1[dataset]["egeunet"].iou
    for one in series:
        ours = (one.system, one.changes, one.epochs) == ("egeunet", {}, PAPER_EPOCHS)
        scored = (one.dataset, one.protocol, one.part, one.weights_epoch)
        if ours and scored == (dataset, "paper", "test", "selected"):
            spread = one.score("iou")
            alone = one.rows.values() if len(one.rows) == 1 else ()  # a mean has another interval
            interval = "".join(_percent(row, "pooled", "iou") for row in alone)
            return (goal, f"≥ {wanted:.2f}", str(spread), interval, _yes(spread.mean >= wanted))
    return _not_run(goal, f"≥ {wanted:.2f}")


def _better(
    series: Sequence[Series], kept: Mapping[str, Any] | None, folder: Path
) -> tuple[str, ...]:
    goal = "ISIC 2018, `holdout`: our recipe minus the paper's at 300 epochs, points of mIoU"
    found = gain(series, "isic2018", kept, folder)
    wanted = f"≥ {POINTS:.0f}"
    if found is None:
        return _not_run(goal, wanted)
    low, high = (100 * end for end in found.interval)
    reached = _yes(100 * found.difference >= POINTS and low > 0)
    return (goal, wanted, f"{100 * found.difference:+.2f}", f"{low:+.2f} … {high:+.2f}", reached)


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
    for name, goal, wanted, more in (
        ("auroc", "Finding failures (Jaccard under 0.65): AUROC", AUROC, True),
        ("rest_ratio", "Failure rate without the worst 10 %, over that of all", REST, False),
    ):
        limit = f"{'≥' if more else '≤'} {wanted:.2f}"
        value = found.get(name)
        if value is None:  # not measured, or there is no failure to be found
            yield _not_run(goal, limit)
            continue
        interval = " … ".join(f"{end:.3f}" for end in found["intervals"][name])
        reached = value >= wanted if more else value <= wanted
        yield (goal, limit, f"{value:.3f}", interval, _yes(reached))


def _score(
    goal: str, row: Mapping[str, Any] | None, kind: str, name: str, wanted: float
) -> tuple[str, ...]:
    limit = f"≥ {wanted:.1f}"
    if row is None or kind not in row:
        return _not_run(goal, limit)
    value = 100 * row[kind][name]
    return (goal, limit, f"{value:.2f}", _percent(row, kind, name), _yes(value >= wanted))


def _not_run(goal: str, wanted: str) -> tuple[str, ...]:
    return (goal, wanted, NOT_RUN, "", NOT_RUN)


def _percent(row: Mapping[str, Any], kind: str, name: str) -> str:
    if "intervals" not in row:
        return ""
    return " … ".join(f"{100 * end:.2f}" for end in row["intervals"][kind][name])


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"
