"""Everything that is made from results, in one folder: a page, tables and figures."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from egeunet.evaluation.effects import protocol_effects
from egeunet.evaluation.figure1 import figure1, paper_points, result_points
from egeunet.evaluation.figure4 import figures4
from egeunet.evaluation.figures import compare_curves, save_figure
from egeunet.evaluation.goals import goals
from egeunet.evaluation.holdout import holdout
from egeunet.evaluation.paper import TABLE_1
from egeunet.evaluation.report import read_results
from egeunet.evaluation.series import (
    PAPER_EPOCHS,
    Series,
    changes_of,
    collect,
    comparable,
    recipe_of,
)
from egeunet.evaluation.shipped import shipped_figures, shipped_tables
from egeunet.evaluation.significance import significance
from egeunet.evaluation.table import NOT_RUN, Table
from egeunet.evaluation.tables import table1, table2
from egeunet.evaluation.trials import trials
from egeunet.files import atomic_write
from egeunet.training.run import selected_on

PAGE = "README.md"
SHIPPED_FOR = ("isic2018", "kvasir_seg")  # datasets of the shipped weights, the default's first
_HEAD = """# Results

Made by `egeunet report` from rows of results; what was not run says so.

mIoU and DSC in percent, pooled over all pixels of the part: mean ± sample standard deviation over
seeds. Runs of different budgets or settings are never averaged. The paper had 2150 images of ISIC
2017 and 2694 of ISIC 2018, of which 1921 and 2594 are public, so its splits cannot be had; its
numbers are means of five runs for EGE-UNet. GMACs and params are counted here at 256×256.
"""

_FIGURE4 = (
    "Not here: it shows photos, and data never enter this folder by themselves. "
    "`egeunet report --runs RUNS --photo ID` draws it."
)


def write_report(
    results: str | Path,
    out: str | Path,
    *,
    runs: str | Path | None = None,
    photos: Sequence[str] = (),
) -> list[Path]:
    """Write the paper's tables and figures, and the comparisons it leaves open.

    Args:
        results: The folder of `.jsonl` files that `egeunet evaluate` and `sweep` record.
        out: A folder: `README.md` with every table, each table as CSV and LaTeX, figures as PNG.
        runs: A folder of run folders whose masks are drawn (Figure 4); they need their data. None
            leaves those figures as they are.
        photos: Ids of the photos that are drawn; see `egeunet.evaluation.figure4.figures4`.

    Returns:
        The files written.

    Raises:
        EgeunetError: If rows, runs or data cannot be read.
    """
    results, out = Path(results), Path(out)
    rows = read_results(results)
    series = collect(rows)
    drawn = dict(_curves(series, results))
    drawn.update(_figures1(results))
    drawn.update(shipped_figures(rows, SHIPPED_FOR[0]))
    if runs is not None:
        drawn.update(figures4(Path(runs), photos))
    written = []
    for name, figure in drawn.items():
        written.append(out / f"{name}.png")
        save_figure(figure, written[-1])
    compared = significance(series, results)
    tables = [
        goal_table(results),
        *(holdout(series, name, shipped_changes(rows, name), results) for name in SHIPPED_FOR),
        *(table1(series, dataset) for dataset in TABLE_1),
        table2(series),
        protocol_effects(series, results),
        *trials(series, shipped_changes(rows, SHIPPED_FOR[0])),
        *compared,
        *shipped_tables(rows, SHIPPED_FOR[0]),
    ]
    texts = {f"{table.name}.csv": table.csv() for table in tables}
    texts |= {f"{table.name}.tex": table.latex() for table in tables}
    texts[PAGE] = _page(tables, [*drawn, *_kept_photos(out)], bool(compared))
    for name, text in texts.items():
        with atomic_write(out / name) as path:
            path.write_text(text, encoding="utf-8")
        written.append(out / name)
    return written


def goal_table(results: str | Path) -> Table:
    """Return what this project set out to show and what is reached, from a folder of results."""
    rows = read_results(results)
    return goals(collect(rows), rows, shipped_changes(rows, SHIPPED_FOR[0]), Path(results))


def shipped_changes(rows: Sequence[Mapping[str, Any]], dataset: str) -> dict[str, Any] | None:
    """Return what the recipe of the weights shipped for a dataset changes in the paper's.

    By their last row and not by the recipe file: the row says which earlier runs were learned from.
    """
    recipes = [recipe_of(row) for row in rows if "weights" in row and row["dataset"] == dataset]
    return changes_of(recipes[-1]) if recipes and recipes[-1] else None


def _kept_photos(out: Path) -> Iterator[str]:
    """Yield the figures of an earlier report that take run folders and data to be drawn."""
    yield from (path.stem for path in out.glob("figure4-*.png"))


def _page(tables: Sequence[Table], drawn: Sequence[str], compared: bool) -> str:
    parts = [_HEAD]
    for table in tables:
        files = f"[CSV]({table.name}.csv), [LaTeX]({table.name}.tex)"
        note = f"{table.note}\n\n" if table.note else ""
        parts.append(f"## {table.title}\n\n{note}{table.markdown()}\n{files}\n")
    if not compared:
        parts.append(f"## Significance\n\n{NOT_RUN}: it takes two systems of one budget.\n")
    for title, pattern, missing in (
        ("Figure 1: parameters against mIoU on ISIC 2018", "figure1*", NOT_RUN),
        ("The shipped weights: quality of the masks", "quality", NOT_RUN),
        ("The shipped weights: scores against the strength of corruptions", "robustness", NOT_RUN),
        ("Figure 4: image, truth and each system's mask", "figure4-*", _FIGURE4),
        ("Training curves, means over seeds", "curves-*", NOT_RUN),
    ):
        names = sorted(set(fnmatch.filter(drawn, pattern)))
        shown = "\n\n".join(f"![{name}]({name}.png)" for name in names)
        parts.append(f"## {title}\n\n{shown or missing}\n")
    return "\n".join(parts)


def _figures1(results: Path) -> Iterator[tuple[str, Figure]]:
    """Yield Figure 1 with the runs of the paper's budget, then one for each other budget."""
    found = result_points(results)
    yield "figure1", figure1([*paper_points(), *found.pop(PAPER_EPOCHS, [])], PAPER_EPOCHS)
    for epochs, points in found.items():
        if len(points) > 1:
            yield f"figure1-{epochs}", figure1(points, epochs)


def _curves(series: Sequence[Series], results: Path) -> Iterator[tuple[str, Figure]]:
    """Yield the training curves of runs that may be compared, where rows name them."""
    for terms, group in comparable(series, "history"):
        histories = {
            one.label: [results / row["history"] for row in one.rows.values()] for one in group
        }
        yield terms.name("curves"), compare_curves(histories, selected_on(terms.protocol))
