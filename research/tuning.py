"""What was tried for a better recipe: scores on the validation split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from egeunet.errors import UsageError
from egeunet.training.config import Recipe
from egeunet.training.recipe import flatten, load_recipe
from research.paper import DATASETS, TITLES
from research.run_groups import RunGroup, changes_of, texts_of
from research.table import Table


def tuning(groups: Sequence[RunGroup], kept: Mapping[str, Any] | None) -> Iterator[Table]:
    """Yield a table of trials for each dataset, model and budget.

    Each trial is compared with the unchanged trial recipe of the dataset. The last column says
    whether our recipe has the settings of the trial ("kept"), other values that are neither the
    paper's nor the trial recipe's ("other values"), or not ("dropped").

    Args:
        groups: All groups of runs; those of the validation split are taken.
        kept: What our recipe changes in the paper's; None if there is none.
    """
    found: dict[tuple[str, str, int, str], list[RunGroup]] = {}
    for one in groups:
        if (one.split, one.weights_epoch) == ("val", "selected"):
            found.setdefault((one.dataset, one.model, one.epochs, one.size), []).append(one)
    papers, longer = flatten(Recipe()), list[RunGroup]()
    for (dataset, model, epochs, size), tried in found.items():
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
            f"Tried with {TITLES.get(model, model)} on {DATASETS.get(dataset, dataset)}, "
            f"validation: trial-{dataset} ({', '.join(texts_of(base.changes))}), {epochs} epochs"
        )
        columns = ("changed", "seeds", "mIoU", "DSC", "points of mIoU", "in our recipe")
        name = "-".join(["trials", dataset, model, str(epochs), *([size] if size else [])])
        yield Table(name, title, columns, tuple(rows))
    if longer:
        yield _long_trainings(longer)


def _verdict(
    own: Mapping[str, Any],
    base: Mapping[str, Any],
    kept: Mapping[str, Any],
    papers: Mapping[str, Any],
) -> str:
    ours = {key: kept.get(key, papers.get(key)) for key in own}
    if ours == own:
        return "kept"
    moved = all(
        not isinstance(own[key], str) and ours[key] not in (papers.get(key), base.get(key))
        for key in own
    )
    return "other values" if moved else "dropped"


def _long_trainings(groups: Sequence[RunGroup]) -> Table:
    """Return the table of trainings that are no trials, each with a budget of its own."""
    rows = []
    for one in sorted(groups, key=lambda one: (one.dataset, -one.score("iou").mean)):
        made = " ".join(row.get("weights_sha256", "")[:8] for row in one.rows.values())
        title = DATASETS.get(one.dataset, one.dataset)
        iou, dice = one.score("iou"), one.score("dice")
        rows.append((title, one.label, str(one.epochs), made, str(iou.n), str(iou), str(dice)))
    columns = ("dataset", "trained", "epochs", "weights", "seeds", "mIoU", "DSC")
    note = "Weights by the beginning of their SHA-256, as other runs name those they learned from."
    title = "Longer trainings that choices were made among, validation split"
    return Table("trainings-val", title, columns, tuple(rows), note)


def _trial(dataset: str) -> dict[str, Any] | None:
    try:
        return changes_of(load_recipe(f"trial-{dataset}"))
    except UsageError:  # there is no such recipe
        return None
