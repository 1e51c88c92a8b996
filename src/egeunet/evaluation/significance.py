"""Every system against every other on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from egeunet.evaluation.pairs import compare, points
from egeunet.evaluation.paper import DATASETS
from egeunet.evaluation.series import Series, comparable
from egeunet.evaluation.statistics import holm
from egeunet.evaluation.table import Table

_NOTE = (
    "Above the diagonal: points of pooled IoU, the row's system minus the column's, with the 95 % "
    "interval bootstrapped over images; one that holds 0 shows no difference. Below it another "
    "quantity, and the two may disagree: points of mean Jaccard index per image, row minus "
    "column, with the p-value of the Wilcoxon signed-rank test, Holm-corrected for all pairs. The "
    "intervals are not corrected, and all of it knows these trained weights alone.{seeds} Few "
    "epochs rank what learns fast, not what ends best."
)
_ONE_SEED = " With one seed each, these are compared and not the systems."


def significance(series: Sequence[Series], folder: Path) -> list[Table]:
    """Return, of runs that may be compared, every system against every other.

    Args:
        series: Of `egeunet.evaluation.series.collect`.
        folder: Where the results lie; rows name their counts per image relative to it.
    """
    return [
        _matrix(terms.name("significance"), _title(*terms[:3]), compared, folder)
        for terms, compared in comparable(series, "per_image")
        if len(compared) > 1
    ]


def _title(dataset: str, protocol: str, epochs: int) -> str:
    name = DATASETS.get(dataset, dataset)
    return f"Row against column, {name}, protocol {protocol}, {epochs} epochs"


def _matrix(name: str, title: str, compared: Sequence[Series], folder: Path) -> Table:
    pairs = list(combinations(range(len(compared)), 2))
    found = {(i, j): compare(compared[i], compared[j], folder) for i, j in pairs}
    tested = {pair: one.p_value for pair, one in found.items() if one}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    cells = [[""] * len(compared) for _ in compared]
    for (i, j), one in found.items():
        cells[i][j] = points(one)
        if one:
            cells[j][i] = f"{-100 * one.jaccard:+.2f}, p {corrected[i, j]:.2g}"
    rows = tuple(
        (f"{number} {one.label}", *line)
        for number, (one, line) in enumerate(zip(compared, cells, strict=True), 1)
    )
    columns = ("", *(str(number) for number, _ in enumerate(compared, 1)))
    alone = max(len(one.rows) for one in compared) == 1
    return Table(name, title, columns, rows, _NOTE.format(seeds=_ONE_SEED if alone else ""))
