"""Score a model on samples: pooled and per image, with intervals, as numbers, tables and files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from egeunet.data.cache import Arrays
from egeunet.errors import EgeunetError
from egeunet.evaluation.failure_detection import estimates_figure, quality_table, score_estimates
from egeunet.evaluation.figures import contour_grid, save_figure
from egeunet.evaluation.predictors import Predictor, segment_batches
from egeunet.evaluation.robustness import assess, robustness_figure
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
from egeunet.metrics.surface import surface_distances
from egeunet.progress import bar

COLUMNS = ("score", "value", "95 % interval", "std")
WORST = 12  # images in worst_cases.png
_METRICS = {
    "jaccard": "Jaccard",
    "dice": "Dice",
    "thresholded_jaccard": "Jaccard (< .65 is 0)",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "hd95": "HD95",
    "assd": "surface distance",
}
_POOLED = {"iou": "mIoU", "dice": "DSC"}
_DISTANCES = ("hd95", "assd")


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one set of images.

    Scores are fractions, 0…1; `hd95` and `assd` are pixels at the model's input size. With several
    foreground classes every score is the mean over them, and `per_class` has each.

    Attributes:
        class_names: The foreground classes.
        counts: Pixel counts per image and class, (N, K).
        predictions: Class indices, uint8 (N, H, W).
        per_image: A row per image, by id, a column per metric, nan where undefined; the metrics of
            one of several classes as `jaccard[class]`, and the estimated Dice of an exported model
            as `quality`.
        pooled: From one confusion matrix over all pixels: iou, dice, accuracy, sensitivity,
            specificity.
        intervals: 95 % bootstrap intervals over images: {"pooled": {name: (low, high)}, "means":
            …}.
        per_class: {class: {"pooled": …, "means": …}}; empty with one foreground class. A class
            counts in the means where the truth or the prediction has it.
        quality: How well the Dice estimates of an exported model fit the scores, if it has any; see
            `score_estimates`.
        robustness: The scores under corruptions and in groups, if asked for; see `assess`.
        about: What was scored, as JSON: the dataset, its split, the weights.
    """

    class_names: tuple[str, ...]
    counts: Counts = field(repr=False)
    predictions: NDArray[np.uint8] = field(repr=False)
    per_image: pd.DataFrame = field(repr=False)
    pooled: dict[str, float]
    intervals: dict[str, dict[str, Interval]]
    per_class: dict[str, dict[str, dict[str, float]]]
    quality: dict[str, Any] | None = None
    robustness: dict[str, Any] | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """The images, in order."""
        return tuple(self.per_image.index)

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.per_image)

    @property
    def means(self) -> dict[str, float]:
        """Means over the images in which a metric is defined."""
        return self.per_image[list(_METRICS)].mean().to_dict()

    @property
    def stds(self) -> dict[str, float]:
        """Sample standard deviations of the same; nan for a single image."""
        return self.per_image[list(_METRICS)].std().to_dict()

    @property
    def undefined(self) -> dict[str, int]:
        """Number of images in which a metric is undefined, if any."""
        missing = self.per_image[list(_METRICS)].isna().sum()
        return missing[missing > 0].to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON can hold it; undefined numbers are None."""
        names = ("pooled", "means", "stds", "intervals", "undefined", "per_class")
        return {
            **self.about,
            "n": self.n,
            "classes": list(self.class_names),
            **{name: _jsonable(getattr(self, name)) for name in names},
            **({"quality": self.quality} if self.quality else {}),
            **({"robustness": self.robustness} if self.robustness else {}),
            "bootstrap": {"level": LEVEL, "resamples": RESAMPLES},
        }

    def table(self) -> list[tuple[str, str, str, str]]:
        """Return every score as rows of text under `COLUMNS`; see `score_table`."""
        return score_table(self.to_dict())

    def worst(self, count: int) -> list[int]:
        """Return the indices of the images with the lowest Jaccard index, worst first."""
        return np.argsort(self.per_image["jaccard"].to_numpy(), kind="stable")[:count].tolist()

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
        with atomic_write(folder / "per_image.csv") as path:
            self.per_image.to_csv(path, float_format="%.6g")
        chosen = self.worst(worst)
        captions = [
            f"{name}\nJaccard {row['jaccard']:.2f}  Dice {row['dice']:.2f}  "
            f"HD95 {_text('hd95', row['hd95'])}"
            for name, row in self.per_image.iloc[chosen].iterrows()
        ]
        shown = (arrays.images, arrays.masks, self.predictions)
        images, masks, predictions = ([stack[i] for i in chosen] for stack in shown)
        figure = contour_grid(images, masks, predictions, captions)
        save_figure(figure, folder / "worst_cases.png")
        if self.quality:
            save_figure(estimates_figure(*_estimates(self.per_image)), folder / "quality.png")
        if self.robustness:
            save_figure(robustness_figure(self.robustness), folder / "robustness.png")


def evaluate_arrays(
    predict: Predictor,
    arrays: Arrays,
    *,
    num_classes: int = 1,
    threshold: float = 0.5,
    batch_size: int = 16,
    class_names: Sequence[str] | None = None,
    expect_dice: Callable[[NDArray[np.float32]], float] | None = None,
    corruptions: bool = False,
) -> Evaluation:
    """Segment every sample and score it.

    Args:
        predict: As for `segment_batches`, like the next four.
        arrays: The samples.
        num_classes: 1 for a binary task, else the number of classes with the background.
        threshold: Probability from which a pixel is foreground; binary tasks only.
        batch_size: Samples per call of `predict`.
        class_names: Foreground classes; by default "lesion", or "class 1" … if there are several.
        expect_dice: Estimates the Dice score of a mask from its probabilities (H, W).
        corruptions: Also score corrupted images and groups; see `assess`.

    Raises:
        EgeunetError: If there are no samples, or `predict` returns other shapes or nan.
    """
    if not arrays.ids:
        raise EgeunetError("There are no images to evaluate: choose another split or dataset.")
    several = [f"class {index}" for index in range(1, num_classes)]
    names = tuple(class_names or (several if num_classes > 2 else ["lesion"]))
    segment = partial(
        segment_batches,
        predict,
        num_classes=num_classes,
        threshold=threshold,
        batch_size=batch_size,
        expect_dice=expect_dice,
    )
    batches, distances = [], []
    with bar("evaluating", len(arrays.ids)) as advance:
        for batch in segment(arrays):
            batches.append(batch)
            distances += [
                [surface_distances(predicted == k, mask == k) for k in range(1, len(names) + 1)]
                for predicted, mask in zip(batch.predictions, batch.masks, strict=True)
            ]
            advance(len(batch.masks))
    counts = Counts(*(torch.cat(parts) for parts in zip(*(b.counts for b in batches), strict=True)))
    by_class = _scores_by_class(counts, np.array(distances))
    weights = resample(len(arrays.ids))
    pooled = pooled_scores(counts, np.concatenate([np.ones((1, len(arrays.ids))), weights]))
    columns = {metric: _mean_over_classes(metric, by_class[metric]) for metric in _METRICS}
    means = {name: image_means(values, weights) for name, values in columns.items()}
    per_class = {}
    if len(names) > 1:
        whole = scores(Counts(*(count.sum(dim=0) for count in counts)))
        for index, name in enumerate(names):
            own = {metric: by_class[metric][:, index] for metric in _METRICS}
            columns |= {f"{metric}[{name}]": values for metric, values in own.items()}
            per_class[name] = {
                "pooled": {metric: float(score[index + 1]) for metric, score in whole.items()},
                "means": pd.DataFrame(own).mean().to_dict(),
            }
    if expect_dice:
        columns["quality"] = np.concatenate([batch.estimates for batch in batches])
    per_image = pd.DataFrame(columns, index=pd.Index(arrays.ids, name="id"))
    return Evaluation(
        class_names=names,
        counts=counts,
        predictions=np.concatenate([batch.predictions for batch in batches]),
        per_image=per_image,
        pooled={name: float(values[0]) for name, values in pooled.items()},
        intervals={
            "pooled": {name: bootstrap_interval(values[1:]) for name, values in pooled.items()},
            "means": {name: bootstrap_interval(values) for name, values in means.items()},
        },
        per_class=per_class,
        quality=score_estimates(*_estimates(per_image)) if expect_dice else None,
        robustness=assess(segment, arrays) if corruptions else None,
    )


def score_table(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return `Evaluation.to_dict` as rows of text under `COLUMNS`.

    Pooled scores first, then means over images, the pooled scores of each class, and how well
    failures are detected.
    """
    rows = []
    for kind, suffix, labels in (
        ("pooled", ", pooled", _POOLED),
        ("means", " per image", _METRICS),
    ):
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


def _scores_by_class(counts: Counts, distances: Values) -> dict[str, Values]:
    """Every metric per image and foreground class, (N, F); nan where undefined."""
    first = 0 if counts.tp.shape[1] == 1 else 1
    by_class = {name: score[:, first:].numpy() for name, score in scores(counts).items()}
    jaccard = by_class.pop("iou")
    return {
        **by_class,
        "jaccard": jaccard,
        "thresholded_jaccard": np.where(jaccard < FAILURE, 0, jaccard),
        "hd95": distances[:, :, 0],
        "assd": distances[:, :, 1],
    }


def _mean_over_classes(metric: str, values: Values) -> Values:
    """Average (N, F) over the classes of each image in which the metric is defined.

    If it is defined in none, overlap scores are 1 (correctly empty) and distances undefined.
    """
    means = pd.DataFrame(values).mean(axis=1)
    return (means if metric in _DISTANCES else means.fillna(1.0)).to_numpy()


def _estimates(per_image: pd.DataFrame) -> Values:
    return per_image[["quality", "dice", "jaccard"]].to_numpy().T


def _text(name: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "undefined"
    return f"{value:.2f} px" if name in _DISTANCES else f"{value:.2%}"


def _jsonable(value: Any) -> Any:
    """Copy nested dictionaries with None in place of nan, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return None if math.isnan(value) else value
