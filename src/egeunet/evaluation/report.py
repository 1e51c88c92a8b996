"""Compare evaluated models: scores with intervals, paired differences and training curves."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egeunet.errors import EgeunetError, UsageError
from egeunet.evaluation.figures import compare_curves, save_figure
from egeunet.evaluation.results_store import parse_row, read_counts, read_rows
from egeunet.evaluation.statistics import compare_means, holm
from egeunet.files import atomic_write
from egeunet.metrics.counts import mean_foreground, scores

SCORES = {
    "mIoU": ("pooled", "iou"),
    "DSC": ("pooled", "dice"),
    "Jaccard per image": ("means", "jaccard"),
    "Dice per image": ("means", "dice"),
}


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of one model.

    Attributes:
        label: How the report names the model.
        row: Its `metrics.json`, or its row of results.
        per_image: CSV file with a Jaccard index or pixel counts per image, if there is one.
        history: `history.csv` of the training, if there is one.
    """

    label: str
    row: dict[str, Any]
    per_image: Path | None
    history: Path | None

    def jaccard(self) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Return image ids and the Jaccard index of each.

        Raises:
            EgeunetError: If the file cannot be read.
        """
        assert self.per_image
        if self.per_image.name != "per_image.csv":
            ids, counts = read_counts(self.per_image)
            return ids, mean_foreground(scores(counts)["iou"]).numpy()
        try:
            with self.per_image.open(newline="", encoding="utf-8") as file:
                rows = [(row["id"], float(row["jaccard"])) for row in csv.DictReader(file)]
        except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
            raise EgeunetError(
                f"Cannot read the scores in {self.per_image}: {error!r}. Evaluate the run again."
            ) from error
        return tuple(name for name, _ in rows), np.array([score for _, score in rows])


def find_evaluations(source: str | Path) -> list[Evaluated]:
    """Find evaluations in run folders or in recorded results.

    Args:
        source: A run folder, a folder of run folders, a `.jsonl` file of `egeunet evaluate
            --record`, or a folder of these.

    Raises:
        UsageError: If there are none.
        EgeunetError: If a file cannot be read.
    """
    source = Path(source)
    files = [source] if source.suffix == ".jsonl" else sorted(source.glob("*.jsonl"))
    found = [one for file in files if file.is_file() for one in _recorded(file)]
    for pattern in ("evaluation*/metrics.json", "*/evaluation*/metrics.json"):
        found += [_evaluated_run(file) for file in sorted(source.glob(pattern))]
    if not found:
        raise UsageError(
            f"{source} holds no evaluations. Run `egeunet evaluate RUN`, or name a file written "
            "with --record."
        )
    return found


def write_report(evaluated: Sequence[Evaluated], out: str | Path) -> list[Path]:
    """Write `README.md`, `scores.csv` and one figure of training curves per dataset and protocol.

    Models are compared where they were evaluated on the same images: the difference of the mean
    Jaccard index per image to that of the best model, its 95 % bootstrap interval, and the p-value
    of a Wilcoxon signed-rank test, Holm-corrected.

    Returns:
        The files.
    """
    out = Path(out)
    groups: dict[tuple[str, ...], list[Evaluated]] = {}
    for one in evaluated:
        key = tuple(str(one.row.get(name, "?")) for name in ("dataset", "protocol", "split"))
        groups.setdefault(key, []).append(one)
    text, written = ["# Evaluated models\n"], list[Path]()
    lines: list[tuple[str, ...]] = []
    for (dataset, protocol, split), group in groups.items():
        group.sort(key=lambda one: -one.row["means"]["jaccard"])
        rows = [(one.label, str(one.row["n"]), *_scores(one.row)) for one in group]
        lines.extend((dataset, protocol, split, *row) for row in rows)
        text.append(f"## {dataset}, protocol {protocol}, split {split}\n")
        text.append(_markdown(("model", "images", *SCORES), rows))
        if differences := list(_differences(group)):
            names = (f"minus {group[0].label}", "Jaccard per image", "95 % interval", "p (Holm)")
            text.append(_markdown(names, differences))
        if histories := {one.label: [one.history] for one in group if one.history}:
            name = f"curves-{dataset}-{protocol}-{split}.png"
            save_figure(compare_curves(histories, split), out / name)
            text.append(f"![Training curves]({name})\n")
            written.append(out / name)
    with atomic_write(out / "README.md") as path:
        path.write_text("\n".join(text), encoding="utf-8")
    with (
        atomic_write(out / "scores.csv") as path,
        path.open("w", newline="", encoding="utf-8") as file,
    ):
        columns = ("dataset", "protocol", "split", "model", "images", *SCORES)
        csv.writer(file, lineterminator="\n").writerows([columns, *lines])
    return [out / "README.md", out / "scores.csv", *written]


def _recorded(file: Path) -> Iterator[Evaluated]:
    for row in read_rows(file):
        if not {"pooled", "means", "intervals", "n", "model"} <= row.keys():
            continue
        paths = (file.parent / row[key] if key in row else None for key in ("per_image", "history"))
        words = [str(row["model"])]
        words += [f"{row[key]} {key}" for key in ("epochs",) if key in row]
        words += [f"seed {row['seed']}"] if "seed" in row else []
        words += ["last epoch"] if row.get("weights_epoch") == "last" else []
        words += ["tta"] if row.get("tta") else []
        label = ", ".join([*words, str(row.get("weights_sha256", ""))[:8]])
        yield Evaluated(label, row, *paths)


def _evaluated_run(file: Path) -> Evaluated:
    folder = file.parent.parent
    try:
        row = parse_row(file.read_bytes())
    except OSError as error:
        raise EgeunetError(f"Cannot read {file}: {error.strerror}.") from error
    if row is None or not {"pooled", "means", "intervals", "n"} <= row.keys():
        raise EgeunetError(f"{file} is not written by `egeunet evaluate`: evaluate the run again.")
    per_image, history = file.parent / "per_image.csv", folder / "history.csv"
    return Evaluated(
        folder.name,
        row,
        per_image if per_image.is_file() else None,
        history if history.is_file() else None,
    )


def _scores(row: dict[str, Any]) -> Iterator[str]:
    for kind, name in SCORES.values():
        low, high = row["intervals"][kind][name]
        yield f"{100 * row[kind][name]:.2f} ({100 * low:.2f} – {100 * high:.2f})"


def _differences(group: Sequence[Evaluated]) -> Iterator[tuple[str, ...]]:
    """Yield model, difference, interval and p-value against the first model of the group."""
    best, *others = group
    if not best.per_image:
        return
    ids, reference = best.jaccard()
    read = [(one.label, *one.jaccard()) for one in others if one.per_image]
    found = [(label, compare_means(mine, reference)) for label, own, mine in read if own == ids]
    corrected = holm([one.p_value or 0.0 for _, one in found])
    for (label, one), p_value in zip(found, corrected, strict=True):
        low, high = (f"{100 * end:+.2f}" for end in one.interval)
        yield label, f"{100 * one.difference:+.2f}", f"{low} … {high}", f"{p_value:.2g}"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (columns, rule, *rows))
