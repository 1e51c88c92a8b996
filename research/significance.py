"""Every model against every other on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from egeunet.evaluation.statistics import holm
from research.paired_comparison import compare, points
from research.paper import DATASETS
from research.run_groups import RunGroup, comparable
from research.table import Table

_NOTE = (
    "Above the diagonal: points of pooled IoU, the row's model minus the column's, with the 95 % "
    "interval bootstrapped over images; an interval that holds 0 shows no difference. Below it, "
    "points of mean Jaccard index per image, row minus column, with the p-value of the Wilcoxon "
    "signed-rank test, Holm-corrected for all pairs; the two measures may disagree. The intervals "
    "are not corrected, and all of it describes these trained weights alone.{seeds} Short "
    "trainings rank what learns fast, not what ends best."
)
_ONE_SEED = " With one seed each, it compares these weights and not the models."


def significance(groups: Sequence[RunGroup], folder: Path) -> list[Table]:
    """Return a matrix of all comparable models for each dataset, protocol and budget.

    Args:
        groups: All groups of runs.
        folder: The folder of results.
    """
    return [
        _matrix(terms.name("significance"), _title(*terms[:3]), compared, folder)
        for terms, compared in comparable(groups, "per_image")
        if len(compared) > 1
    ]


def _title(dataset: str, protocol: str, epochs: int) -> str:
    name = DATASETS.get(dataset, dataset)
    return f"Row against column, {name}, protocol {protocol}, {epochs} epochs"


def _matrix(name: str, title: str, compared: Sequence[RunGroup], folder: Path) -> Table:
    pairs = list(combinations(range(len(compared)), 2))
    found = {(i, j): compare(compared[i], compared[j], folder) for i, j in pairs}
    tested = {pair: one.jaccard.p_value or 0.0 for pair, one in found.items() if one}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    cells = [[""] * len(compared) for _ in compared]
    for (i, j), one in found.items():
        cells[i][j] = points(one and one.iou)
        if one:
            cells[j][i] = f"{-100 * one.jaccard.difference:+.2f}, p {corrected[i, j]:.2g}"
    rows = tuple(
        (f"{number} {one.label}", *line)
        for number, (one, line) in enumerate(zip(compared, cells, strict=True), 1)
    )
    columns = ("", *(str(number) for number, _ in enumerate(compared, 1)))
    alone = max(len(one.rows) for one in compared) == 1
    return Table(name, title, columns, rows, _NOTE.format(seeds=_ONE_SEED if alone else ""))
