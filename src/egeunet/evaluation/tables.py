"""Tables 1 and 2 of the EGE-UNet paper, ours beside the paper's, from rows of results.

What was not run says so. Means are over runs that differ in their seed alone; other budgets of the
same system stand in rows of their own, the paper's 300 epochs first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from egeunet.errors import MissingExtraError
from egeunet.evaluation.paper import DATASETS, TABLE_1, TABLE_2, TITLES, Score
from egeunet.evaluation.series import PAPER_EPOCHS, Series, Spread, by_budget
from egeunet.evaluation.table import NOT_RUN, Table
from egeunet.models.cost import count_cost
from egeunet.models.registry import create_model, get_system

_COLUMNS = (
    *("system", "params", "GMACs", "epochs", "seeds", "mIoU", "DSC", "mIoU, last epoch"),
    *("paper: params (M)", "paper: GFLOPs", "paper: mIoU", "paper: DSC"),
)


def table1(series: Sequence[Series], dataset: str) -> Table:
    """Return Table 1: the systems under the paper's protocol and recipe, ours beside the paper's.

    Args:
        series: Of `egeunet.evaluation.series.collect`.
        dataset: "isic2017" or "isic2018".
    """
    title = f"Table 1, {DATASETS[dataset]}: 7:3 split, the checkpoint selected on the test part"
    systems = TABLE_1["isic2018"]  # that one has all eleven
    return _compare(f"table1-{dataset}", title, systems, series, dataset, TABLE_1[dataset])


def table2(series: Sequence[Series]) -> Table:
    """Return Table 2: what each part of EGE-UNet gives, on ISIC 2018, as `table1`."""
    title = "Table 2, ISIC 2018: what each part of EGE-UNet gives"
    return _compare("table2", title, TABLE_2, series, "isic2018", TABLE_2)


def _compare(
    name: str,
    title: str,
    systems: Mapping[str, Score],
    series: Sequence[Series],
    dataset: str,
    papers: Mapping[str, Score],
) -> Table:
    rows: list[tuple[str, ...]] = []
    for system in systems:
        budgets: dict[int, dict[str, Series]] = {PAPER_EPOCHS: {}}
        for one in sorted(series, key=by_budget):
            scored = (one.system, one.changes, one.dataset, one.protocol, one.part)
            if scored == (system, {}, dataset, "paper", "test"):
                budgets.setdefault(one.epochs, {})[one.weights_epoch] = one
        paper = papers.get(system)
        published = (
            *(get_system(system).table or ("–", "–")),
            _published(paper, lambda score: (score.iou, score.iou_std)),
            _published(paper, lambda score: (score.dice, score.dice_std)),
        )
        cost = (TITLES[system], *_cost(system))
        for epochs, found in budgets.items():
            selected, last = found.get("selected"), found.get("last")
            seeds = max((len(one.rows) for one in found.values()), default=0)
            shown = ((selected, "iou"), (selected, "dice"), (last, "iou"))
            cells = (_cell(one.score(name) if one else None) for one, name in shown)
            rows.append((*cost, str(epochs), str(seeds), *cells, *published))
    return Table(name, title, _COLUMNS, tuple(rows))


@functools.cache
def _cost(system: str) -> tuple[str, str]:
    try:
        cost = count_cost(create_model(system))
    except MissingExtraError:
        return "needs egeunet[zoo]", "needs egeunet[zoo]"
    return f"{cost.params:,}", f"{cost.macs / 1e9:.4f}"


def _published(score: Score | None, pick: Callable[[Score], tuple[float, float | None]]) -> str:
    if score is None:
        return "–"
    mean, std = pick(score)
    return str(Spread(mean, std, 5))


def _cell(score: Spread | None) -> str:
    return str(score) if score else NOT_RUN
