"""Compare evaluated models: scores with intervals, paired differences and training curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from egeunet.errors import EgeunetError, UsageError
from egeunet.evaluation.figures import save_figure, training_curves
from egeunet.evaluation.results_store import read_counts, read_rows
from egeunet.evaluation.statistics import compare_means, holm
from egeunet.files import atomic_write, read_json
from egeunet.metrics.counts import mean_foreground, scores

SCORES = {
    "mIoU": ("pooled", "iou"),
    "DSC": ("pooled", "dice"),
    "Jaccard per image": ("means", "jaccard"),
    "Dice per image": ("means", "dice"),
}
_NEEDED = {"pooled", "means", "intervals", "n"}
_GROUP = ["dataset", "protocol", "split"]


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

    def jaccard(self) -> pd.Series:
        """Return the Jaccard index of each image, by id.

        Raises:
            EgeunetError: If the file cannot be read.
        """
        assert self.per_image
        if self.per_image.name != "per_image.csv":
            ids, counts = read_counts(self.per_image)
            return pd.Series(mean_foreground(scores(counts)["iou"]).numpy(), ids)
        try:
            table = pd.read_csv(self.per_image, dtype={"id": str}, keep_default_na=False)
            return table.set_index("id")["jaccard"].astype(float)
        except (OSError, KeyError, ValueError) as error:
            raise EgeunetError(
                f"Cannot read the scores in {self.per_image}: {error!r}. Evaluate the run again."
            ) from error


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
    ranked = sorted(evaluated, key=lambda one: -one.row["means"]["jaccard"])
    table = pd.DataFrame(
        [
            {
                **{name: str(one.row.get(name, "?")) for name in _GROUP},
                **{"model": one.label, "images": one.row["n"], **dict(_scores(one.row))},
            }
            for one in ranked
        ]
    )
    text, written = ["# Evaluated models\n"], [out / "README.md", out / "scores.csv"]
    for (dataset, protocol, split), rows in table.groupby(_GROUP, sort=False):
        group = [ranked[index] for index in rows.index]
        text.append(f"## {dataset}, protocol {protocol}, split {split}\n")
        text.append(_markdown(rows.drop(columns=_GROUP)))
        if differences := list(_differences(group)):
            text.append(_markdown(pd.DataFrame(differences)))
        if histories := {one.label: [one.history] for one in group if one.history}:
            name = f"curves-{dataset}-{protocol}-{split}.png"
            save_figure(training_curves(histories, split), out / name)
            text.append(f"![Training curves]({name})\n")
            written.append(out / name)
    with atomic_write(out / "README.md") as path:
        path.write_text("\n".join(text), encoding="utf-8")
    with atomic_write(out / "scores.csv") as path:
        table.to_csv(path, index=False, lineterminator="\n")
    return written


def _recorded(file: Path) -> Iterator[Evaluated]:
    for row in read_rows(file):
        if not {*_NEEDED, "model"} <= row.keys():
            continue
        words = [str(row["model"])]
        words += [f"{row['epochs']} epochs"] if "epochs" in row else []
        words += [f"seed {row['seed']}"] if "seed" in row else []
        words += ["last epoch"] if row.get("weights_epoch") == "last" else []
        words += ["tta"] if row.get("tta") else []
        label = ", ".join([*words, str(row.get("weights_sha256", ""))[:8]])
        paths = (file.parent / row[key] if key in row else None for key in ("per_image", "history"))
        yield Evaluated(label, row, *paths)


def _evaluated_run(file: Path) -> Evaluated:
    folder = file.parent.parent
    row = read_json(file)
    if not isinstance(row, dict) or not row.keys() >= _NEEDED:
        raise EgeunetError(f"{file} is not written by `egeunet evaluate`: evaluate the run again.")
    paths = (file.parent / "per_image.csv", folder / "history.csv")
    return Evaluated(folder.name, row, *(path if path.is_file() else None for path in paths))


def _scores(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for label, (kind, name) in SCORES.items():
        low, high = row["intervals"][kind][name]
        yield label, f"{100 * row[kind][name]:.2f} ({100 * low:.2f} – {100 * high:.2f})"


def _differences(group: Sequence[Evaluated]) -> Iterator[dict[str, str]]:
    """Yield model, difference, interval and p-value against the first model of the group."""
    best, *others = group
    if not best.per_image:
        return
    reference = best.jaccard()
    read = [(one.label, one.jaccard()) for one in others if one.per_image]
    found = [
        (label, compare_means(mine.to_numpy(), reference.to_numpy()))
        for label, mine in read
        if mine.index.equals(reference.index)
    ]
    corrected = holm([one.p_value or 0.0 for _, one in found])
    for (label, one), p_value in zip(found, corrected, strict=True):
        yield {
            f"minus {best.label}": label,
            "Jaccard per image": f"{100 * one.difference:+.2f}",
            "95 % interval": " … ".join(f"{100 * end:+.2f}" for end in one.interval),
            "p (Holm)": f"{p_value:.2g}",
        }


def _markdown(table: pd.DataFrame) -> str:
    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    lines = (list(table.columns), rule, *table.astype(str).to_numpy().tolist())
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
