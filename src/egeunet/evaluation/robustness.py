"""Scores under corruptions, by the size of the lesion and by the tone of the photo.

This describes a trained system; nothing is chosen by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from egeunet.data.cache import Arrays
from egeunet.evaluation.corruptions import KINDS, SEVERITIES, corrupt
from egeunet.evaluation.figures import BLUE, ORANGE
from egeunet.evaluation.predictors import Predictor
from egeunet.evaluation.skin_tone import TONES, tone, typology_angle
from egeunet.evaluation.statistics import bootstrap_interval, image_means, resample
from egeunet.inference.quality import FAILURE
from egeunet.metrics.counts import count_pixels, mean_foreground, predict_classes, scores
from egeunet.reporting import Reporter

Quality: TypeAlias = Callable[[NDArray[np.float32]], float]
"""From the probability of the lesion, (h, w), to the Dice to be expected of its mask."""

_BATCH = 16
_QUARTERS = 4


@dataclass(frozen=True)
class Score:
    """The scores of some masks.

    Attributes:
        name: Which ones.
        n: How many.
        jaccard: Mean per image.
        interval: Its 95 % bootstrap interval over images.
        dice: Mean per image.
        failures: Share with a Jaccard index below 0.65.
        quality: Mean Dice that the weights expect; None if they say nothing.
    """

    name: str
    n: int
    jaccard: float
    interval: tuple[float, float]
    dice: float
    failures: float
    quality: float | None = None


@dataclass(frozen=True)
class Robustness:
    """What `assess` found.

    Attributes:
        seed: Start of the random numbers.
        clean: Without corruption.
        corrupted: Per kind, one score per severity.
        by_size: By quarters of the lesion's share of the photo, smallest first.
        by_tone: By the tone of the photo, lightest first; groups without photos are left out.
    """

    seed: int
    clean: Score
    corrupted: dict[str, list[Score]] = field(repr=False)
    by_size: list[Score] = field(repr=False)
    by_tone: list[Score] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "seed": self.seed,
            "clean": vars(self.clean),
            "corrupted": {kind: list(map(vars, found)) for kind, found in self.corrupted.items()},
            "by_size": list(map(vars, self.by_size)),
            "by_tone": list(map(vars, self.by_tone)),
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Robustness:
        """Read what `to_dict` wrote."""
        corrupted = {kind: [Score(**s) for s in found] for kind, found in row["corrupted"].items()}
        by_size, by_tone = ([Score(**s) for s in row[key]] for key in ("by_size", "by_tone"))
        return cls(row["seed"], Score(**row["clean"]), corrupted, by_size, by_tone)

    def corruption_rows(self) -> list[tuple[str, ...]]:
        """Write mean Jaccard per kind and severity as text: kind, none, 1…5."""
        clean = f"{self.clean.jaccard:.1%}"
        return [
            (kind, clean, *(f"{score.jaccard:.1%}" for score in found))
            for kind, found in self.corrupted.items()
        ]

    def group_rows(self) -> list[tuple[str, ...]]:
        """Write the groups as text: name, n, Jaccard, interval, Dice, failures."""
        return [
            (
                score.name,
                str(score.n),
                f"{score.jaccard:.1%}",
                "{:.1%} – {:.1%}".format(*score.interval),
                f"{score.dice:.1%}",
                f"{score.failures:.1%}",
            )
            for score in (*self.by_size, *self.by_tone)
        ]

    def figure(self) -> Figure:
        """Draw scores against severity, a small plot each."""
        columns = 4
        rows = -(-len(self.corrupted) // columns)
        figure = Figure(figsize=(2.7 * columns, 2.3 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis, (kind, found) in zip(axes.ravel(), self.corrupted.items(), strict=False):
            steps = [self.clean, *found]
            severity = range(len(steps))
            axis.plot(severity, [s.dice for s in steps], color=BLUE, marker="o", ms=3)
            axis.set(title=kind, ylim=(0, 1), xticks=list(severity))
            if self.clean.quality is not None:
                told = [s.quality for s in steps]
                axis.plot(severity, told, color=ORANGE, ls="--", marker="o", ms=3)
            axis.yaxis.set_major_formatter(PercentFormatter(1))
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        labels = ["mean Dice"] + ["mean quality"] * (self.clean.quality is not None)
        lines = axes[0, 0].get_lines()
        figure.legend(lines, labels, loc="outside lower center", ncols=2, frameon=False)
        for axis in axes[-1]:
            axis.set_xlabel("severity")
        return figure


CORRUPTION_COLUMNS = ("Jaccard per image", "none", *map(str, SEVERITIES))
GROUP_COLUMNS = ("photos", "n", "Jaccard", "95 % interval", "Dice", "Jaccard < .65")


def assess(
    predict: Predictor,
    arrays: Arrays,
    *,
    num_classes: int = 1,
    quality: Quality | None = None,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Robustness:
    """Score a system on images as they are, corrupted, and in groups.

    Args:
        predict: As for `evaluate_arrays`, like the next two.
        arrays: The samples.
        num_classes: Of the task.
        quality: Tells the quality of a mask, if anything does.
        kinds: Which corruptions.
        seed: Start of the random numbers.
        reporter: Hears of the progress.
    """
    reporter = reporter or Reporter()
    plain = _run(predict, arrays, num_classes, quality)
    settings = [(kind, severity) for kind in kinds for severity in SEVERITIES]
    corrupted: dict[str, list[Score]] = {kind: [] for kind in kinds}
    for kind, severity in reporter.track(settings, "corrupting", len(settings)):
        found = _run(predict, corrupt(arrays, kind, severity, seed), num_classes, quality)
        corrupted[kind].append(_score(str(severity), *found))
    sizes = (arrays.masks > 0).mean(axis=(1, 2))
    order = np.array_split(np.argsort(sizes, kind="stable"), _QUARTERS)
    by_size = [
        _score("lesion {:.1%} – {:.1%} of the photo".format(*sizes[part[[0, -1]]]), *plain, part)
        for part in order
        if len(part)
    ]
    pairs = zip(arrays.images, arrays.masks, strict=True)
    tones = np.array([tone(typology_angle(image, mask)) for image, mask in pairs])
    by_tone = [
        _score(f"tone: {name}", *plain, np.flatnonzero(tones == name))
        for name in (*TONES, "dark", "unknown")
        if (tones == name).any()
    ]
    return Robustness(seed, _score("none", *plain), corrupted, by_size, by_tone)


def _run(
    predict: Predictor, arrays: Arrays, num_classes: int, quality: Quality | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Jaccard, Dice and, if it is told, quality of each image."""
    jaccard, dice, told = [], [], []
    for start in range(0, len(arrays.ids), _BATCH):
        chosen = slice(start, start + _BATCH)
        logits = predict(arrays.images[chosen])
        truth = torch.from_numpy(np.array(arrays.masks[chosen]))
        found = scores(count_pixels(predict_classes(logits), truth, num_classes))
        jaccard.append(mean_foreground(found["iou"]).numpy())
        dice.append(mean_foreground(found["dice"]).numpy())
        if quality:
            told += [quality(p) for p in logits[:, 0].sigmoid().numpy()]
    return np.concatenate(jaccard), np.concatenate(dice), np.array(told) if quality else None


def _score(
    name: str,
    jaccard: NDArray[np.float64],
    dice: NDArray[np.float64],
    quality: NDArray[np.float64] | None,
    chosen: NDArray[np.intp] | None = None,
) -> Score:
    part = np.arange(len(jaccard)) if chosen is None else chosen
    interval = bootstrap_interval(image_means(jaccard[part], resample(len(part))))
    return Score(
        name,
        len(part),
        float(jaccard[part].mean()),
        interval,
        float(dice[part].mean()),
        float((jaccard[part] < FAILURE).mean()),
        None if quality is None else float(quality[part].mean()),
    )
