"""The tables of the EGE-UNet paper, and what they leave open, from rows of results.

What was not run says so. Means are over runs that differ in their seed alone; other budgets of the
same system stand in rows of their own, the paper's 300 epochs first.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from egeunet.errors import MissingExtraError
from egeunet.evaluation.counts_file import read_counts
from egeunet.evaluation.paper import TABLE_1, TABLE_2, TITLES, Score
from egeunet.evaluation.series import PAPER_EPOCHS, Series, Spread, by_budget, comparable
from egeunet.evaluation.statistics import paired_difference
from egeunet.evaluation.table import Table
from egeunet.metrics.counts import Counts
from egeunet.models.cost import count_cost
from egeunet.models.registry import create_model, get_system

NOT_RUN = "not run"
DATASETS = {"isic2017": "ISIC 2017", "isic2018": "ISIC 2018"}
_CHANGES = {
    "published scheduler, rotation per sample": {},
    "published scheduler, rotation once per run": {"augmentation.angle": "once"},
    "rate that decays, rotation per sample": {"scheduler.t_max": None},
}
"""What the published code and our runs do otherwise: a title, and the settings that it changes."""

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


def protocol_effects(series: Sequence[Series], dataset: str = "isic2018") -> Table:
    """Return what the choice of the checkpoint, of the angle and of the schedule do to EGE-UNet.

    Each row is a way to train, for one budget. The columns are the same test under the protocol
    `paper`, with the checkpoint that did best on the test part and with that of the last epoch, and
    under `holdout`, selected on a validation part, on other images than the former two.
    """
    rows: list[tuple[str, ...]] = []
    for title, changes in _CHANGES.items():
        same = [
            one
            for one in series
            if (one.system, one.dataset, one.part, one.changes)
            == ("egeunet", dataset, "test", changes)
        ]
        for epochs in dict.fromkeys(
            [PAPER_EPOCHS, *(one.epochs for one in sorted(same, key=by_budget))]
        ):
            cells = []
            for protocol, weights in (
                ("paper", "selected"),
                ("paper", "last"),
                ("holdout", "selected"),
            ):
                found = [
                    one
                    for one in same
                    if (one.epochs, one.protocol, one.weights_epoch) == (epochs, protocol, weights)
                ]
                cells.append(found[0].score("iou") if found else None)
            rows.append((title, str(epochs), *map(_cell, cells), _difference(*cells[:2])))
    columns = (
        *("EGE-UNet trained with", "epochs", "selected on test", "last epoch", "holdout"),
        "points that selecting on test gives",
    )
    title = f"mIoU of EGE-UNet on {DATASETS[dataset]} by protocol"
    return Table(f"protocol-effects-{dataset}", title, columns, tuple(rows))


def trials(series: Sequence[Series], kept: Mapping[str, Any] | None) -> list[Table]:
    """Return what was tried, by dataset and budget: scores on the validation part.

    Settings that all trials of a table share stand in its title. The last column tells whether
    everything that a trial changed is part of the recipe we ship.

    Args:
        series: Of `egeunet.evaluation.series.collect`; those of the part "val" are taken.
        kept: What that recipe changes in the paper's; see `egeunet.evaluation.series.changes_of`.
            None where there is no such recipe.
    """
    groups: dict[tuple[str, str, int, str], list[Series]] = {}
    for one in series:
        if (one.part, one.weights_epoch) == ("val", "selected"):
            key = (one.dataset, one.system, one.epochs, one.size)
            groups.setdefault(key, []).append(one)
    tables = []
    for (dataset, system, epochs, size), tried in groups.items():
        shared = set.intersection(*(set(_texts(one.changes)) for one in tried))
        base = [one for one in tried if set(_texts(one.changes)) == shared]
        start = base[0].score("iou").mean if base else None
        rows = []
        for one in sorted(tried, key=lambda one: -one.score("iou").mean):
            own = {k: v for k, v in one.changes.items() if not shared.issuperset(_texts({k: v}))}
            iou = one.score("iou")
            more = "" if start is None else f"{iou.mean - start:+.2f}"
            verdict = ""
            if own and kept is not None:
                verdict = "kept" if own.items() <= kept.items() else "dropped"
            rows.append(
                (
                    ", ".join(_texts(own)) or "nothing",
                    *(str(iou.n), str(iou), str(one.score("dice")), more, verdict),
                )
            )
        title = (
            f"Tried with {TITLES.get(system, system)} on {DATASETS.get(dataset, dataset)}, "
            f"{epochs} epochs each, scored on the validation part"
            + (f"; all with {', '.join(sorted(shared))}" if shared else "")
        )
        columns = ("changed", "seeds", "mIoU", "DSC", "points of mIoU", "in our recipe")
        name = "-".join(["trials", dataset, system, str(epochs), *([size] if size else [])])
        tables.append(Table(name, title, columns, tuple(rows)))
    return tables


def _texts(changes: Mapping[str, Any]) -> list[str]:
    """Settings as they are written; of a checksum the beginning."""
    found = []
    for key, value in changes.items():
        text = value if isinstance(value, str) else json.dumps(value)
        found.append(f"{key}={text[:8] if key.endswith('sha256') else text}")
    return found


def significance(series: Sequence[Series], folder: Path) -> list[Table]:
    """Return, of runs that may be compared, every system against every other.

    A cell is the pooled IoU of its row minus that of its column in points, its 95 % bootstrap
    interval over images, and the p-value of the Wilcoxon signed-rank test on the Jaccard indices;
    "no difference" stands first where the interval holds 0. Pixels are counted over the seeds that
    both have.

    Args:
        series: Of `egeunet.evaluation.series.collect`.
        folder: Where the results lie; rows name their counts per image relative to it.
    """
    tables = []
    for terms, compared in comparable(series, "per_image"):
        if len(compared) < 2:
            continue
        counts = [_counts(one, folder) for one in compared]
        rows = tuple(
            (a.label, *("" if mine is theirs else _paired(mine, theirs) for theirs in counts))
            for a, mine in zip(compared, counts, strict=True)
        )
        title = (
            "Row minus column in points of pooled IoU, "
            f"{DATASETS.get(terms.dataset, terms.dataset)}, protocol {terms.protocol}, "
            f"{terms.epochs} epochs"
        )
        columns = ("", *(one.label for one in compared))
        seeds = max(len(one.rows) for one in compared)
        tables.append(Table(terms.name("significance"), title, columns, rows, _warning(seeds)))
    return tables


def _warning(seeds: int) -> str:
    alone = " With one seed each, these are compared and not the systems." if seeds == 1 else ""
    return (
        "The interval is of the difference of pooled IoU, bootstrapped over images; p is of the "
        "Wilcoxon test on the Jaccard index per image, another quantity: they may disagree. "
        "Neither is corrected for the number of pairs, and both know these trained weights alone."
        f"{alone} Few epochs rank what learns fast, not what ends best."
    )


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


def _difference(selected: Spread | None, last: Spread | None) -> str:
    return f"{selected.mean - last.mean:+.2f}" if selected and last else NOT_RUN


def _counts(series: Series, folder: Path) -> dict[int, tuple[tuple[str, ...], Counts]]:
    return {seed: read_counts(folder / row["per_image"]) for seed, row in series.rows.items()}


def _paired(
    mine: dict[int, tuple[tuple[str, ...], Counts]],
    theirs: dict[int, tuple[tuple[str, ...], Counts]],
) -> str:
    seeds = sorted(mine.keys() & theirs.keys())
    images = {ids for one in (mine, theirs) for seed in seeds for ids in (one[seed][0],)}
    if len(images) != 1:
        return "not the same seeds or images"
    a, b = (
        Counts(*(sum(parts) for parts in zip(*(one[seed][1] for seed in seeds), strict=True)))
        for one in (mine, theirs)
    )
    try:
        found = paired_difference(a, b)
    except ValueError:  # the masks of these images were other ones
        return "not the same seeds or images"
    low, high = (f"{100 * end:+.2f}" for end in found.interval)
    verdict = "no difference: " if found.verdict == "no difference" else ""
    return f"{verdict}{100 * found.difference:+.2f} ({low} … {high}), p {found.p_value:.2g}"
