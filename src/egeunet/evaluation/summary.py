"""The scores of one system on one set of images: what they are, and the files they are kept in."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egeunet.data.cache import Arrays
from egeunet.evaluation.failure_detection import QualityScores
from egeunet.evaluation.figures import contour_grid, save_figure
from egeunet.evaluation.robustness import Robustness
from egeunet.evaluation.statistics import (
    RESAMPLES,
    Interval,
    bootstrap_interval,
    image_means,
    pooled_scores,
    resample,
)
from egeunet.files import atomic_write
from egeunet.inference.quality import FAILURE
from egeunet.metrics.counts import Counts, scores

LEVEL = 0.95


@dataclass(frozen=True)
class Evaluation:
    """The scores of one system on one set of images.

    Scores are fractions, 0…1; `hd95` and `assd` are pixels of the network's input. Where there are
    several foreground classes, every score is the mean over them, and `per_class` has each.

    Attributes:
        ids: The images, in order.
        class_names: Of the foreground classes.
        counts: Pixels per image and class, (N, K); what `paired_difference` compares.
        predictions: uint8 (N, H, W), class indices.
        pooled: From one confusion matrix over all pixels: iou, dice, accuracy, sensitivity,
            specificity.
        per_image: (N,) per metric; nan where it is undefined.
        means: Of `per_image`, without the undefined.
        stds: Of `per_image`, likewise; the sample's, nan for a single image.
        intervals: 95 % bootstrap intervals over images: {"pooled": {name: (low, high)}, "means":
            …}.
        undefined: Number of images in which a metric is undefined; names with none are left out.
        per_class: {class: {"pooled": …, "means": …}}; empty with one foreground class. A class
            counts in the means where the truth or the prediction has it.
        quality: How well the qualities that an exported file gives fit the scores; None for what
            gives none.
        robustness: The scores under corruptions and in groups, if they were asked for.
        about: What was scored, as JSON can hold it: the dataset, its part, the weights.
    """

    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    counts: Counts = field(repr=False)
    predictions: NDArray[np.uint8] = field(repr=False)
    pooled: dict[str, float]
    per_image: dict[str, NDArray[np.float64]] = field(repr=False)
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
        return {
            **self.about,
            "n": self.n,
            "classes": list(self.class_names),
            "pooled": _jsonable(self.pooled),
            "means": _jsonable(self.means),
            "stds": _jsonable(self.stds),
            "intervals": _jsonable(self.intervals),
            "undefined": self.undefined,
            "per_class": _jsonable(self.per_class),
            **({"quality": self.quality.to_dict()} if self.quality else {}),
            **({"robustness": self.robustness.to_dict()} if self.robustness else {}),
            "bootstrap": {"level": LEVEL, "resamples": RESAMPLES},
        }

    def worst(self, count: int) -> list[int]:
        """Return the indices of the images with the lowest Jaccard index, worst first."""
        return [int(i) for i in np.argsort(self.per_image["jaccard"], kind="stable")[:count]]

    def write(self, folder: Path, arrays: Arrays, worst: int = 12) -> None:
        """Write `metrics.json`, `per_image.csv` and `worst_cases.png`, each atomically.

        Where there is a quality, also a column of it and `quality.png`; where corruptions were
        asked for, `robustness.png`.

        Args:
            folder: Where; made if missing.
            arrays: What was evaluated.
            worst: How many of the worst images to show.
        """
        with atomic_write(folder / "metrics.json") as path:
            text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
            path.write_text(text + "\n", encoding="utf-8")
        with (
            atomic_write(folder / "per_image.csv") as path,
            path.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            columns = dict(self.per_image)
            if self.quality:
                columns["quality"] = self.quality.expected
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
        if self.quality:
            save_figure(self.quality.figure(), folder / "quality.png")
        if self.robustness:
            save_figure(self.robustness.figure(), folder / "robustness.png")

    def _caption(self, index: int) -> str:
        score = {name: values[index] for name, values in self.per_image.items()}
        hd95 = "undefined" if math.isnan(score["hd95"]) else f"{score['hd95']:.0f} px"
        return (
            f"{self.ids[index]}\n"
            f"Jaccard {score['jaccard']:.2f}  Dice {score['dice']:.2f}  HD95 {hd95}"
        )


def summarise(
    ids: tuple[str, ...],
    names: tuple[str, ...],
    counts: Counts,
    predictions: NDArray[np.uint8],
    distances: NDArray[np.float64],
) -> Evaluation:
    """Turn what was counted and measured per image and class into every reported score.

    Args:
        ids: The images.
        names: Of the F foreground classes.
        counts: Per image and class, (N, K).
        predictions: uint8 (N, H, W), class indices.
        distances: (N, F, 2), HD95 and average symmetric surface distance.
    """
    by_class = _scores_by_class(counts, distances)  # metric -> (N, F)
    per_image = {metric: _mean_over_classes(metric, by_class[metric]) for metric in by_class}
    weights = resample(len(ids))
    everyone = np.ones((1, len(ids)))
    pooled = {name: float(score[0]) for name, score in pooled_scores(counts, everyone).items()}
    intervals = {
        "pooled": {
            name: bootstrap_interval(replicates, LEVEL)
            for name, replicates in pooled_scores(counts, weights).items()
        },
        "means": {
            name: bootstrap_interval(image_means(values, weights), LEVEL)
            for name, values in per_image.items()
        },
    }
    undefined = {name: int(np.isnan(values).sum()) for name, values in per_image.items()}
    return Evaluation(
        ids=ids,
        class_names=names,
        counts=counts,
        predictions=predictions,
        pooled=pooled,
        per_image={**per_image, **_class_columns(names, by_class)},
        means={name: _mean(values) for name, values in per_image.items()},
        stds={name: _std(values) for name, values in per_image.items()},
        intervals=intervals,
        undefined={name: number for name, number in undefined.items() if number},
        per_class=_per_class(names, counts, by_class),
    )


def _scores_by_class(
    counts: Counts, distances: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Every metric per image and foreground class, (N, F); nan where undefined."""
    first = 0 if counts.tp.shape[1] == 1 else 1
    by_class = {name: score[:, first:].numpy() for name, score in scores(counts).items()}
    jaccard = by_class["iou"]
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


def _mean_over_classes(metric: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average (N, F) over the classes of each image in which the metric is defined.

    Where it is defined in none, overlap scores are 1 (rightly empty), distances stay undefined.
    """
    empty = float("nan") if metric in ("hd95", "assd") else 1.0
    defined = ~np.isnan(values)
    how_many = defined.sum(axis=1)
    total = np.where(defined, values, 0).sum(axis=1)
    return np.divide(total, how_many, out=np.full(len(values), empty), where=how_many > 0)


def _class_columns(
    names: tuple[str, ...], by_class: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    if len(names) == 1:
        return {}
    return {
        f"{metric}[{name}]": values[:, index]
        for index, name in enumerate(names)
        for metric, values in by_class.items()
    }


def _per_class(
    names: tuple[str, ...], counts: Counts, by_class: dict[str, NDArray[np.float64]]
) -> dict[str, dict[str, dict[str, float]]]:
    if len(names) == 1:
        return {}
    pooled = scores(Counts(*(count.sum(dim=0) for count in counts)))
    return {
        name: {
            "pooled": {metric: float(score[index + 1]) for metric, score in pooled.items()},
            "means": {metric: _mean(values[:, index]) for metric, values in by_class.items()},
        }
        for index, name in enumerate(names)
    }


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _std(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.std(ddof=1)) if len(defined) > 1 else float("nan")


def _jsonable(value: Any) -> Any:
    """Copy nested dictionaries with None in place of nan, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return None if math.isnan(value) else value
