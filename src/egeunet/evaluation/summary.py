"""The scores of one model on one set of images, as numbers, tables and files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egeunet.data.cache import Arrays
from egeunet.evaluation.failure_detection import QualityScores, quality_table
from egeunet.evaluation.figures import contour_grid, save_figure
from egeunet.evaluation.robustness import Robustness
from egeunet.evaluation.statistics import (
    LEVEL,
    RESAMPLES,
    Interval,
    Values,
    bootstrap_interval,
    image_means,
    pooled_scores,
    resample,
)
from egeunet.files import atomic_write
from egeunet.inference.quality import FAILURE
from egeunet.metrics.counts import Counts, scores

COLUMNS = ("score", "value", "95 % interval", "std")
WORST = 12  # images in worst_cases.png
_LABELS = {
    "iou": "mIoU",
    "dice": "DSC",
    "jaccard": "Jaccard",
    "thresholded_jaccard": "Jaccard (< .65 is 0)",
    "hd95": "HD95",
    "assd": "surface distance",
}


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one set of images.

    Scores are fractions, 0…1; `hd95` and `assd` are pixels at the model's input size. With several
    foreground classes every score is the mean over them, and `per_class` has each.

    Attributes:
        ids: The images, in order.
        class_names: The foreground classes.
        counts: Pixel counts per image and class, (N, K), as `compare_pooled` takes them.
        predictions: Class indices, uint8 (N, H, W).
        pooled: From one confusion matrix over all pixels: iou, dice, accuracy, sensitivity,
            specificity.
        per_image: (N,) per metric; nan where undefined.
        means: Means of `per_image` over the images where it is defined.
        stds: Sample standard deviations of the same; nan for a single image.
        intervals: 95 % bootstrap intervals over images: {"pooled": {name: (low, high)}, "means":
            …}.
        undefined: Number of images in which a metric is undefined, if any.
        per_class: {class: {"pooled": …, "means": …}}; empty with one foreground class. A class
            counts in the means where the truth or the prediction has it.
        quality: How well the Dice estimates of an exported model fit the scores, if it has any.
        robustness: The scores under corruptions and in groups, if asked for.
        about: What was scored, as JSON: the dataset, its split, the weights.
    """

    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    counts: Counts = field(repr=False)
    predictions: NDArray[np.uint8] = field(repr=False)
    pooled: dict[str, float]
    per_image: dict[str, Values] = field(repr=False)
    means: dict[str, float]
    stds: dict[str, float]
    intervals: dict[str, dict[str, Interval]]
    undefined: dict[str, int]
    per_class: dict[str, dict[str, dict[str, float]]]
    quality: QualityScores | None = None
    robustness: Robustness | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.ids)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON can hold it; undefined numbers are None."""
        names = ("pooled", "means", "stds", "intervals", "undefined", "per_class")
        return {
            **self.about,
            "n": self.n,
            "classes": list(self.class_names),
            **{name: _jsonable(getattr(self, name)) for name in names},
            **({"quality": self.quality.to_dict()} if self.quality else {}),
            **({"robustness": self.robustness.to_dict()} if self.robustness else {}),
            "bootstrap": {"level": LEVEL, "resamples": RESAMPLES},
        }

    def table(self) -> list[tuple[str, str, str, str]]:
        """Return every score as rows of text under `COLUMNS`; see `score_table`."""
        return score_table(self.to_dict())

    def worst(self, count: int) -> list[int]:
        """Return the indices of the images with the lowest Jaccard index, worst first."""
        return [int(i) for i in np.argsort(self.per_image["jaccard"], kind="stable")[:count]]

    def write(self, folder: Path, arrays: Arrays, worst: int = WORST) -> None:
        """Write `metrics.json`, `per_image.csv` and `worst_cases.png`, each atomically.

        With Dice estimates also `quality.png`, with corruptions `robustness.png`.

        Args:
            folder: The folder; created if missing.
            arrays: The evaluated samples.
            worst: Number of worst images to draw.
        """
        with atomic_write(folder / "metrics.json") as path:
            text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
            path.write_text(text + "\n", encoding="utf-8")
        columns = dict(self.per_image)
        if self.quality:
            columns["quality"] = self.quality.expected
        with (
            atomic_write(folder / "per_image.csv") as path,
            path.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(("id", *columns))
            for name, *values in zip(self.ids, *columns.values(), strict=True):
                cells = ("" if math.isnan(value) else f"{value:.6g}" for value in values)
                writer.writerow((name, *cells))
        chosen = self.worst(worst)
        figure = contour_grid(
            [arrays.images[i] for i in chosen],
            [arrays.masks[i] for i in chosen],
            [self.predictions[i] for i in chosen],
            [self._caption(i) for i in chosen],
        )
        save_figure(figure, folder / "worst_cases.png")
        for file_name, part in (("quality", self.quality), ("robustness", self.robustness)):
            if part:
                save_figure(part.figure(), folder / f"{file_name}.png")

    def _caption(self, index: int) -> str:
        score = {name: values[index] for name, values in self.per_image.items()}
        hd95 = _text("hd95", score["hd95"])
        return (
            f"{self.ids[index]}\n"
            f"Jaccard {score['jaccard']:.2f}  Dice {score['dice']:.2f}  HD95 {hd95}"
        )


def score_table(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return `Evaluation.to_dict` as rows of text under `COLUMNS`.

    Pooled scores first, then means over images, the pooled scores of each class, and how well
    failures are detected.
    """
    rows = []
    for kind, suffix in (("pooled", ", pooled"), ("means", " per image")):
        labels = _LABELS if kind == "pooled" else {**_LABELS, "dice": "Dice"}
        for name, value in summary[kind].items():
            label = labels.get(name, name) + suffix
            if kind == "means" and name in summary["undefined"]:
                label += f" ({summary['undefined'][name]} undefined)"
            low, high = (_text(name, end) for end in summary["intervals"][kind][name])
            std = "" if kind == "pooled" else _text(name, summary["stds"][name])
            rows.append((label, _text(name, value), f"{low} – {high}", std))
    for one, score in summary["per_class"].items():
        for name, label in (("iou", "IoU"), ("dice", "DSC")):
            rows.append((f"{one}: {label}, pooled", _text(name, score["pooled"][name]), "", ""))
    return rows + (quality_table(summary["quality"]) if "quality" in summary else [])


def summarise(
    ids: tuple[str, ...],
    names: tuple[str, ...],
    counts: Counts,
    predictions: NDArray[np.uint8],
    distances: Values,
) -> Evaluation:
    """Turn counts and distances per image and class into every reported score.

    Args:
        ids: N images.
        names: F foreground classes.
        counts: Pixel counts (N, K).
        predictions: Class indices, uint8 (N, H, W).
        distances: HD95 and average symmetric surface distance, (N, F, 2).
    """
    by_class = _scores_by_class(counts, distances)  # metric -> (N, F)
    per_image = {metric: _mean_over_classes(metric, by_class[metric]) for metric in by_class}
    weights = resample(len(ids))
    pooled = pooled_scores(counts, np.ones((1, len(ids))))
    replicates = {
        "pooled": pooled_scores(counts, weights),
        "means": {name: image_means(values, weights) for name, values in per_image.items()},
    }
    undefined = {name: int(np.isnan(values).sum()) for name, values in per_image.items()}
    columns: dict[str, Values] = {}
    per_class = {}
    if len(names) > 1:
        whole = scores(Counts(*(count.sum(dim=0) for count in counts)))
        for index, name in enumerate(names):
            own = {metric: values[:, index] for metric, values in by_class.items()}
            columns |= {f"{metric}[{name}]": values for metric, values in own.items()}
            per_class[name] = {
                "pooled": {metric: float(score[index + 1]) for metric, score in whole.items()},
                "means": {metric: _mean(values) for metric, values in own.items()},
            }
    return Evaluation(
        ids=ids,
        class_names=names,
        counts=counts,
        predictions=predictions,
        pooled={name: float(score[0]) for name, score in pooled.items()},
        per_image={**per_image, **columns},
        means={name: _mean(values) for name, values in per_image.items()},
        stds={name: _std(values) for name, values in per_image.items()},
        intervals={
            kind: {name: bootstrap_interval(values) for name, values in found.items()}
            for kind, found in replicates.items()
        },
        undefined={name: number for name, number in undefined.items() if number},
        per_class=per_class,
    )


def _scores_by_class(counts: Counts, distances: Values) -> dict[str, Values]:
    """Every metric per image and foreground class, (N, F); nan where undefined."""
    first = 0 if counts.tp.shape[1] == 1 else 1
    by_class = {name: score[:, first:].numpy() for name, score in scores(counts).items()}
    jaccard = by_class.pop("iou")
    return {
        "jaccard": jaccard,
        "dice": by_class["dice"],
        "thresholded_jaccard": np.where(jaccard < FAILURE, 0, jaccard),
        "sensitivity": by_class["sensitivity"],
        "specificity": by_class["specificity"],
        "accuracy": by_class["accuracy"],
        "hd95": distances[:, :, 0],
        "assd": distances[:, :, 1],
    }


def _mean_over_classes(metric: str, values: Values) -> Values:
    """Average (N, F) over the classes of each image in which the metric is defined.

    If it is defined in none, overlap scores are 1 (correctly empty) and distances undefined.
    """
    empty = float("nan") if metric in ("hd95", "assd") else 1.0
    defined = ~np.isnan(values)
    number = defined.sum(axis=1)
    total = np.where(defined, values, 0).sum(axis=1)
    return np.divide(total, number, out=np.full(len(values), empty), where=number > 0)


def _mean(values: Values) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _std(values: Values) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.std(ddof=1)) if len(defined) > 1 else float("nan")


def _text(name: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "undefined"
    return f"{value:.2f} px" if name in ("hd95", "assd") else f"{value:.2%}"


def _jsonable(value: Any) -> Any:
    """Copy nested dictionaries with None in place of nan, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return None if math.isnan(value) else value
