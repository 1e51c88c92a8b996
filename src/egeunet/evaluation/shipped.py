"""Tables and figures of the shipped weights: is their quality to be trusted, what do photos do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure

from egeunet.environment import describe_environment
from egeunet.evaluation.failure_detection import QualityScores
from egeunet.evaluation.report import quality_rows
from egeunet.evaluation.robustness import CORRUPTION_COLUMNS, GROUP_COLUMNS, Robustness
from egeunet.evaluation.table import NOT_RUN, Table

Row: TypeAlias = Mapping[str, Any]


def shipped_tables(rows: Sequence[Row], dataset: str) -> list[Table]:
    """Return how well the quality tells failures, what else was tried for it, and the robustness.

    Args:
        rows: All rows of results; of each kind the last of the dataset is taken.
        dataset: Which the weights are shipped for.
    """
    views = [quality_row(rows, dataset, tta) for tta in (False, True)]
    tried = _last(rows, dataset, lambda row: "evidence" in row)
    row = _of_shipped(rows, dataset, lambda row: "robustness" in row)
    robustness = Robustness.from_dict(row["robustness"]) if row else None
    told = f"Seed {robustness.seed}; {_subject(row)}" if robustness else ""
    quality_columns = ("on the test part", "one view", "95 % interval")
    return [
        _table(
            "quality",
            "The quality of the shipped weights' masks: does it find failures?",
            (*quality_columns, "four views (`tta`)", "95 % interval of these"),
            _quality_cells(*views),
            _subject(views[0]),
        ),
        _table(
            "quality-evidence",
            "What else the quality could be told from, cross-validated in the validation part",
            ("fitted to", "AUROC", "correlation with Dice"),
            [
                (name, f"{score['auroc']:.3f}", f"{score['pearson']:.3f}")
                for name, score in (tried["evidence"] if tried else {}).items()
            ],
            _subject(tried),
        ),
        _table(
            "robustness-corruptions",
            "The shipped weights under corruptions of five strengths",
            CORRUPTION_COLUMNS,
            robustness.corruption_rows() if robustness else (),
            told,
        ),
        _table(
            "robustness-groups",
            "The shipped weights by the size of the lesion and the tone of the photo",
            GROUP_COLUMNS,
            robustness.group_rows() if robustness else (),
            told,
        ),
    ]


def shipped_figures(rows: Sequence[Row], dataset: str) -> Iterator[tuple[str, Figure]]:
    """Yield what the last rows of quality (one view) and robustness are drawn as, by name."""
    quality = quality_row(rows, dataset, tta=False)
    if quality and "quality_photos" in quality:
        yield "quality", QualityScores(*np.array(quality["quality_photos"]).T).figure()
    if row := _of_shipped(rows, dataset, lambda row: "robustness" in row):
        yield "robustness", Robustness.from_dict(row["robustness"]).figure()


def weights_row(rows: Sequence[Row], dataset: str) -> Row | None:
    """Return the row of the weights that are shipped for a dataset."""
    return _last(rows, dataset, lambda row: "weights" in row)


def quality_row(rows: Sequence[Row], dataset: str, tta: bool) -> Row | None:
    """Return how well these weights tell their failures, of one view or of four."""
    return _of_shipped(
        rows,
        dataset,
        lambda row: "quality" in row and "robustness" not in row and row.get("tta") is tta,
    )


def _of_shipped(rows: Sequence[Row], dataset: str, chosen: Callable[[Row], bool]) -> Row | None:
    """Only these weights, on the photos of their own test part: anything may be measured."""
    weights = weights_row(rows, dataset)
    same = ("weights_sha256", "protocol", "part")
    return weights and _last(
        rows,
        dataset,
        lambda row: chosen(row) and all(row.get(key) == weights[key] for key in same),
    )


def _last(rows: Sequence[Row], dataset: str, chosen: Callable[[Row], bool]) -> Row | None:
    found = [row for row in rows if row.get("dataset") == dataset and chosen(row)]
    return found[-1] if found else None


def _quality_cells(one: Row | None, four: Row | None) -> list[tuple[str, ...]]:
    if one is None or four is None:
        return []
    pairs = zip(quality_rows(one["quality"]), quality_rows(four["quality"]), strict=True)
    return [
        (label.removeprefix("quality: "), value, ends, other, other_ends)
        for (label, value, ends, _), (_, other, other_ends, _) in pairs
    ]


def _table(
    name: str,
    title: str,
    columns: tuple[str, ...],
    cells: Sequence[tuple[str, ...]],
    note: str,
) -> Table:
    rest = ("",) * (len(columns) - 1)
    return Table(name, title, columns, tuple(cells) or ((NOT_RUN, *rest),), note)


def _subject(row: Row | None) -> str:
    """What a row was measured with and on."""
    if row is None:
        return ""
    return (
        f"{row['n']} photos of {row['dataset']}, protocol {row['protocol']}, part {row['part']}; "
        f"weights {row['weights_sha256'][:12]}; {describe_environment(row)}."
    )
