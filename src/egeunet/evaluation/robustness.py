"""Scores under corruptions, by lesion size and by skin tone. For description, not for selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from egeunet.data.cache import Arrays
from egeunet.evaluation.corruptions import KINDS, LABELS, SEVERITIES, corrupt
from egeunet.evaluation.figures import BLUE, ORANGE, plain_axes
from egeunet.evaluation.skin_tone import TONES, skin_tone, typology_angle
from egeunet.evaluation.statistics import (
    Interval,
    Values,
    bootstrap_interval,
    image_means,
    resample,
)
from egeunet.inference.quality import FAILURE
from egeunet.inference.segmenter import sigmoid
from egeunet.metrics.counts import count_pixels, mean_foreground, predict_classes, scores
from egeunet.progress import track

CORRUPTION_COLUMNS = ("Jaccard per image", "none", *map(str, SEVERITIES))
GROUP_COLUMNS = ("images", "n", "Jaccard", "95 % interval", "Dice", "Jaccard < .65")
_BATCH = 16
_QUARTERS = 4


@dataclass(frozen=True)
class Score:
    """Mean scores of a group of masks.

    Attributes:
        name: The group.
        n: Number of images.
        jaccard: Mean per image.
        interval: Its 95 % bootstrap interval over images.
        dice: Mean per image.
        failures: Share with a Jaccard index below 0.65.
        quality: Mean estimated Dice; None without estimates.
    """

    name: str
    n: int
    jaccard: float
    interval: Interval
    dice: float
    failures: float
    quality: float | None = None


@dataclass(frozen=True)
class Robustness:
    """Scores under corruptions and in groups.

    Attributes:
        seed: Seed of the corruptions.
        clean: Without corruption.
        corrupted: One score per severity for each kind.
        by_size: By quarters of the lesion's share of the image, smallest first.
        by_skin_tone: Lightest first; groups without images are left out.
    """

    seed: int
    clean: Score
    corrupted: dict[str, list[Score]] = field(repr=False)
    by_size: list[Score] = field(repr=False)
    by_skin_tone: list[Score] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "seed": self.seed,
            "clean": vars(self.clean),
            "corrupted": {kind: list(map(vars, found)) for kind, found in self.corrupted.items()},
            "by_size": list(map(vars, self.by_size)),
            "by_skin_tone": list(map(vars, self.by_skin_tone)),
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Robustness:
        """Read what `to_dict` wrote."""
        corrupted = {kind: [Score(**s) for s in found] for kind, found in row["corrupted"].items()}
        groups = ([Score(**s) for s in row[key]] for key in ("by_size", "by_skin_tone"))
        return cls(row["seed"], Score(**row["clean"]), corrupted, *groups)

    def corruption_rows(self) -> list[tuple[str, ...]]:
        """Return mean Jaccard per kind and severity as text, under `CORRUPTION_COLUMNS`."""
        return [
            (LABELS.get(kind, kind), *(f"{score.jaccard:.1%}" for score in (self.clean, *found)))
            for kind, found in self.corrupted.items()
        ]

    def group_rows(self) -> list[tuple[str, ...]]:
        """Return the groups as text, under `GROUP_COLUMNS`."""
        return [
            (
                score.name,
                str(score.n),
                f"{score.jaccard:.1%}",
                "{:.1%} – {:.1%}".format(*score.interval),
                f"{score.dice:.1%}",
                f"{score.failures:.1%}",
            )
            for score in (*self.by_size, *self.by_skin_tone)
        ]

    def figure(self) -> Figure:
        """Draw scores against severity, a small plot per kind."""
        columns = 4
        rows = -(-len(self.corrupted) // columns)
        figure = Figure(figsize=(2.7 * columns, 2.3 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis, (kind, found) in zip(axes.ravel(), self.corrupted.items(), strict=False):
            steps = [self.clean, *found]
            axis.plot([s.dice for s in steps], color=BLUE, marker="o", ms=3, label="mean Dice")
            axis.set(title=LABELS.get(kind, kind), ylim=(0, 1), xticks=range(len(steps)))
            if self.clean.quality is not None:
                told = [s.quality for s in steps]
                style = {"color": ORANGE, "ls": "--", "marker": "o", "ms": 3}
                axis.plot(told, label="mean estimated Dice", **style)
            axis.yaxis.set_major_formatter(PercentFormatter(1))
        plain_axes(axes.ravel())
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        for axis in axes[-1]:
            axis.set_xlabel("severity")
        return figure


def assess(
    predict: Callable[[NDArray[np.uint8]], torch.Tensor],
    arrays: Arrays,
    *,
    num_classes: int = 1,
    threshold: float = 0.5,
    expect_dice: Callable[[NDArray[np.float32]], float] | None = None,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> Robustness:
    """Score a model on images as they are, corrupted, and in groups.

    Args:
        predict: As for `evaluate_arrays`, like the next four.
        arrays: The samples.
        num_classes: The number of classes.
        threshold: Probability from which a pixel is foreground.
        expect_dice: Estimates the Dice score of a mask.
        kinds: The corruptions.
        seed: Seed of the corruptions.
    """

    def run(some: Arrays) -> tuple[Values, Values, Values | None]:
        """Jaccard, Dice and estimated Dice of each image."""
        jaccard, dice, told = [], [], []
        for start in range(0, len(some.ids), _BATCH):
            chosen = slice(start, start + _BATCH)
            logits = predict(some.images[chosen])
            truth = torch.from_numpy(np.array(some.masks[chosen]))
            found = scores(count_pixels(predict_classes(logits, threshold), truth, num_classes))
            jaccard.append(mean_foreground(found["iou"]).numpy())
            dice.append(mean_foreground(found["dice"]).numpy())
            if expect_dice:
                told += [expect_dice(sigmoid(one)) for one in logits[:, 0].numpy()]
        estimates = np.array(told) if expect_dice else None
        return np.concatenate(jaccard), np.concatenate(dice), estimates

    plain = run(arrays)
    settings = [(kind, severity) for kind in kinds for severity in SEVERITIES]
    corrupted: dict[str, list[Score]] = {kind: [] for kind in kinds}
    for kind, severity in track(settings, "corrupting"):
        found = run(corrupt(arrays, kind, severity, seed))
        corrupted[kind].append(_score(str(severity), *found))
    sizes = (arrays.masks > 0).mean(axis=(1, 2))
    order = np.array_split(np.argsort(sizes, kind="stable"), _QUARTERS)
    by_size = [
        _score("lesion {:.1%} – {:.1%} of the image".format(*sizes[one[[0, -1]]]), *plain, one)
        for one in order
        if len(one)
    ]
    pairs = zip(arrays.images, arrays.masks, strict=True)
    tones = np.array([skin_tone(typology_angle(image, mask)) for image, mask in pairs])
    by_skin_tone = [
        _score(f"skin tone: {name}", *plain, np.flatnonzero(tones == name))
        for name in (*TONES, "dark", "unknown")
        if (tones == name).any()
    ]
    return Robustness(seed, _score("none", *plain), corrupted, by_size, by_skin_tone)


def _score(
    name: str,
    jaccard: Values,
    dice: Values,
    quality: Values | None,
    chosen: NDArray[np.intp] | None = None,
) -> Score:
    group = np.arange(len(jaccard)) if chosen is None else chosen
    return Score(
        name,
        len(group),
        float(jaccard[group].mean()),
        bootstrap_interval(image_means(jaccard[group], resample(len(group)))),
        float(dice[group].mean()),
        float((jaccard[group] < FAILURE).mean()),
        None if quality is None else float(quality[group].mean()),
    )
