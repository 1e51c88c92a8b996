"""Tables 1 and 2 of the EGE-UNet paper: our results beside the paper's.

Means are over runs that differ in their seed alone. Other budgets of a model stand in rows of their
own, the paper's 300 epochs first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from egeunet.errors import MissingExtraError
from egeunet.models.cost import count_cost
from egeunet.models.registry import create_model, model_info
from research.paper import DATASETS, TABLE_1, TABLE_2, TITLES, Score
from research.run_groups import PAPER_EPOCHS, RunGroup, Spread, by_budget
from research.table import NOT_RUN, Table

_COLUMNS = (
    *("model", "params", "GMACs", "epochs", "seeds", "mIoU", "DSC", "mIoU, last epoch"),
    *("paper: params (M)", "paper: GFLOPs", "paper: mIoU", "paper: DSC"),
)
DATA_NOTES = {
    "isic2017": (
        "Our copy of the images is a 256×192 JPEG, and the masks are those of ISIC 2018 for the "
        "ids of ISIC 2017, not its own: the numbers are not comparable with the paper's."
    ),
    "isic2018": "Our copy of the images is a 256×192 JPEG.",
}
_SHORT = " Short trainings show what learns fast, not what ends best: at {epochs} epochs {found}."


def table1(groups: Sequence[RunGroup], dataset: str) -> Table:
    """Return Table 1: every model under the paper's protocol and recipe.

    Args:
        groups: All groups of runs.
        dataset: "isic2017" or "isic2018".
    """
    title = f"Table 1, {DATASETS[dataset]}: 7:3 split, the checkpoint selected on the test split"
    models = TABLE_1["isic2018"]  # which has all eleven
    return _compare(f"table1-{dataset}", title, models, groups, dataset, TABLE_1[dataset])


def table2(groups: Sequence[RunGroup]) -> Table:
    """Return Table 2: the ablations of EGE-UNet on ISIC 2018, as `table1`."""
    title = "Table 2, ISIC 2018: ablations of EGE-UNet"
    return _compare("table2", title, TABLE_2, groups, "isic2018", TABLE_2)


def _compare(
    name: str,
    title: str,
    models: Mapping[str, Score],
    groups: Sequence[RunGroup],
    dataset: str,
    papers: Mapping[str, Score],
) -> Table:
    rows: list[tuple[str, ...]] = []
    reached: dict[int, dict[str, float]] = {}
    for model in models:
        budgets: dict[int, dict[str, RunGroup]] = {PAPER_EPOCHS: {}}
        for one in sorted(groups, key=by_budget):
            key = (one.model, one.changes, one.dataset, one.protocol, one.split)
            if key == (model, {}, dataset, "paper", "test"):
                budgets.setdefault(one.epochs, {})[one.weights_epoch] = one
        paper = papers.get(model)
        published = (
            *(model_info(model).table or ("–", "–")),
            _published(paper, lambda score: (score.iou, score.iou_std)),
            _published(paper, lambda score: (score.dice, score.dice_std)),
        )
        cost = (TITLES[model], *_cost(model))
        for epochs, scored in budgets.items():
            selected, last = scored.get("selected"), scored.get("last")
            if selected:
                reached.setdefault(epochs, {})[model] = selected.score("iou").mean
            seeds = max((len(one.rows) for one in scored.values()), default=0)
            shown = ((selected, "iou"), (selected, "dice"), (last, "iou"))
            cells = (str(one.score(key)) if one else NOT_RUN for one, key in shown)
            rows.append((*cost, str(epochs), str(seeds), *cells, *published))
    note = DATA_NOTES[dataset]
    for epochs, scores in reached.items():
        better = [TITLES[one] for one in scores if scores[one] > scores.get("egeunet", 100)]
        if epochs < PAPER_EPOCHS and better:
            found = f"EGE-UNet is below {', '.join(better)}"
            note += _SHORT.format(epochs=epochs, found=found)
    return Table(name, title, _COLUMNS, tuple(rows), note)


@functools.cache
def _cost(model: str) -> tuple[str, str]:
    try:
        cost = count_cost(create_model(model))
    except MissingExtraError:
        return "needs egeunet[zoo]", "needs egeunet[zoo]"
    return f"{cost.params:,}", f"{cost.macs / 1e9:.4f}"


def _published(score: Score | None, pick: Callable[[Score], tuple[float, float | None]]) -> str:
    return str(Spread(*pick(score), 5)) if score else "–"
