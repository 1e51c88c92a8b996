"""What was tried on the way to a better recipe: scores on the validation part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from egeunet.errors import UsageError
from egeunet.evaluation.paper import DATASETS, TITLES
from egeunet.evaluation.series import Series, changes_of, texts_of
from egeunet.evaluation.table import Table
from egeunet.training.config import Recipe
from egeunet.training.recipe import flatten, load_recipe


def trials(series: Sequence[Series], kept: Mapping[str, Any] | None) -> Iterator[Table]:
    """Yield a table for each dataset, system and budget that ideas were tried with.

    Each is compared with the trial recipe of the dataset as it is. The last column tells whether
    our recipe sets what the trial changed in it as the trial did, or to other values that are
    neither the paper's nor the trial recipe's.

    Args:
        series: Of `egeunet.evaluation.series.collect`; those of the part "val" are taken.
        kept: What our recipe changes in the paper's; see `egeunet.evaluation.series.changes_of`.
            None where there is none.
    """
    groups: dict[tuple[str, str, int, str], list[Series]] = {}
    for one in series:
        if (one.part, one.weights_epoch) == ("val", "selected"):
            groups.setdefault((one.dataset, one.system, one.epochs, one.size), []).append(one)
    papers, longer = flatten(Recipe()), list[Series]()
    for (dataset, system, epochs, size), tried in groups.items():
        trial = _trial(dataset)
        base = next((one for one in tried if one.changes == trial), None)
        if base is None:
            longer += tried
            continue
        start = base.score("iou").mean
        rows = []
        for one in sorted(tried, key=lambda one: -one.score("iou").mean):
            own = {
                key: one.changes.get(key, papers.get(key))
                for key in one.changes | base.changes
                if one.changes.get(key, papers.get(key)) != base.changes.get(key, papers.get(key))
            }
            verdict = "" if kept is None or not own else _verdict(own, base.changes, kept, papers)
            iou = one.score("iou")
            changed = ", ".join(texts_of(own)) or "nothing"
            scores = (str(iou.n), str(iou), str(one.score("dice")), f"{iou.mean - start:+.2f}")
            rows.append((changed, *scores, verdict))
        title = (
            f"Tried with {TITLES.get(system, system)} on {DATASETS.get(dataset, dataset)}: the "
            f"recipe trial-{dataset} ({', '.join(texts_of(base.changes))}), {epochs} epochs, "
            "validation part"
        )
        columns = ("changed", "seeds", "mIoU", "DSC", "points of mIoU", "in our recipe")
        name = "-".join(["trials", dataset, system, str(epochs), *([size] if size else [])])
        yield Table(name, title, columns, tuple(rows))
    if longer:
        yield _whole(longer)


def _verdict(
    own: Mapping[str, Any],
    base: Mapping[str, Any],
    kept: Mapping[str, Any],
    papers: Mapping[str, Any],
) -> str:
    """Tell what our recipe made of a trial's own settings."""
    ours = {key: kept.get(key, papers.get(key)) for key in own}
    if ours == own:
        return "kept"
    moved = all(
        not isinstance(own[key], str) and ours[key] not in (papers.get(key), base.get(key))
        for key in own
    )
    return "other values" if moved else "dropped"


def _whole(series: Sequence[Series]) -> Table:
    """Return the table of trainings that are no trials: each with a budget of its own."""
    rows = []
    for one in sorted(series, key=lambda one: (one.dataset, -one.score("iou").mean)):
        made = " ".join(row.get("weights_sha256", "")[:8] for row in one.rows.values())
        title = DATASETS.get(one.dataset, one.dataset)
        iou, dice = one.score("iou"), one.score("dice")
        rows.append((title, one.label, str(one.epochs), made, str(iou.n), str(iou), str(dice)))
    columns = ("dataset", "trained", "epochs", "weights", "seeds", "mIoU", "DSC")
    note = (
        "Weights by the beginning of their SHA-256, as those that others started or learned from."
    )
    title = "Longer trainings that choices were made among, validation part"
    return Table("trainings-val", title, columns, tuple(rows), note)


def _trial(dataset: str) -> dict[str, Any] | None:
    try:
        return changes_of(load_recipe(f"trial-{dataset}"))
    except UsageError:  # there is no such recipe
        return None
