"""How well expected Dice scores tell good masks from bad ones, and how they are fitted.

A failure is a mask with a Jaccard index below 0.65. The measures are those of Zenk et al. 2024
(arXiv 2406.03323): AUROC of finding failures, area under the risk–coverage curve (Geifman &
El-Yaniv 2017), correlation with the true Dice; besides, the calibration error and what reviewing
the worst tenth does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import rankdata

from egeunet.evaluation.figures import BLUE, ORANGE
from egeunet.evaluation.statistics import bootstrap_interval, resample
from egeunet.inference.quality import FAILURE, REVIEW

Values: TypeAlias = NDArray[np.float64]

REVIEWED = 0.1  # share of the photos that a person has time for
_BINS = 10
_GREY = "#777777"


def fit_quality(evidence: Values, dice: Values) -> tuple[float, ...]:
    """Fit a logistic function of the evidence to Dice scores.

    The quasi-likelihood of fractions (Papke & Wooldridge 1996) is maximised, -Σ D log q + (1 - D)
    log(1 - q): the mean of what is expected is then the mean of what there was.

    Args:
        evidence: (N, 2), as `egeunet.inference.quality.features` gives it.
        dice: (N,) in 0…1.

    Returns:
        Intercept and weights.
    """
    columns = np.column_stack([np.ones(len(evidence)), evidence])

    def loss(weights: Values) -> tuple[float, Values]:
        odds = columns @ weights
        expected = 1 / (1 + np.exp(-odds))
        value = (np.logaddexp(0, odds) - dice * odds).mean()
        return float(value), columns.T @ (expected - dice) / len(dice)

    found = minimize(loss, np.zeros(columns.shape[1]), jac=True, method="BFGS")
    return tuple(map(float, found.x))


@dataclass(frozen=True)
class QualityScores:
    """How well the expected Dice of N photos fits the true one.

    Attributes:
        expected: The quality of each mask, (N,) in 0…1.
        dice: Its true Dice, (N,).
        jaccard: Its true Jaccard index, (N,).
    """

    expected: Values = field(repr=False)
    dice: Values = field(repr=False)
    jaccard: Values = field(repr=False)

    @property
    def failures(self) -> NDArray[np.bool_]:
        """Which masks failed, (N,)."""
        return self.jaccard < FAILURE

    def to_dict(self) -> dict[str, Any]:
        """Return every measure as JSON can hold it; undefined ones are None.

        `auroc`, `pearson` and `rest_ratio` with bootstrap intervals over photos; `aurc`, the mean
        of 1 - Dice over all coverages, beside that of a perfect order and of no order;
        `calibration_error` over ten bins with as many photos each; `failure_rate` of all and
        `rest_failure_rate` of those that are left when the worst tenth is reviewed; and of the
        masks that `review` marks their share, how many of them failed and how many of the failures
        they are.
        """
        marked, failed = self.expected < REVIEW, self.failures
        measures = {"auroc": auroc, "pearson": _pearson, "rest_ratio": _rest_ratio}
        found = {name: self._measure(measure) for name, measure in measures.items()}
        return {
            "failures": int(failed.sum()),
            **{name: value for name, (value, _) in found.items()},
            "intervals": {name: ends for name, (_, ends) in found.items()},
            "aurc": float(_risks(self.expected, 1 - self.dice).mean()),
            "aurc_optimal": float(_risks(self.dice, 1 - self.dice).mean()),
            "aurc_random": float(1 - self.dice.mean()),
            "calibration_error": self.calibration_error(),
            "mean_expected": float(self.expected.mean()),
            "mean_dice": float(self.dice.mean()),
            "failure_rate": float(failed.mean()),
            "rest_failure_rate": float(failed[_rest(self.expected)].mean()),
            "review": {
                "share": float(marked.mean()),
                "failed": float(failed[marked].mean()) if marked.any() else None,
                "found": float(failed[marked].sum() / failed.sum()) if failed.any() else None,
            },
        }

    def to_list(self) -> list[list[float]]:
        """Return what the figure is drawn from: [quality, Dice, Jaccard] of each photo, rounded."""
        columns = np.column_stack([self.expected, self.dice, self.jaccard])
        return [[round(value, 4) for value in row] for row in columns.tolist()]

    def bins(self) -> tuple[Values, Values]:
        """Return the mean of the expected and of the true Dice of ten equal parts, by quality."""
        parts = np.array_split(np.argsort(self.expected, kind="stable"), _BINS)
        means = [(self.expected[p].mean(), self.dice[p].mean()) for p in parts if len(p)]
        expected, true = np.array(means).T
        return expected, true

    def calibration_error(self) -> float:
        """Return the mean distance between expected and true Dice over `bins`."""
        expected, true = self.bins()
        return float(np.abs(expected - true).mean())

    def figure(self) -> Figure:
        """Draw the risk–coverage curve, the failure rate after review, and the reliability."""
        figure = Figure(figsize=(12, 3.8), layout="constrained")
        risk, rate, reliability = figure.subplots(1, 3)
        n = len(self.dice)
        coverage = np.arange(1, n + 1) / n
        for label, order, colour, style in (
            ("by quality", self.expected, BLUE, "-"),
            ("perfect order", self.dice, _GREY, "--"),
        ):
            for axis, loss in ((risk, 1 - self.dice), (rate, self.failures.astype(float))):
                axis.plot(coverage, _risks(order, loss), color=colour, ls=style, label=label)
        for axis, level in ((risk, 1 - self.dice.mean()), (rate, self.failures.mean())):
            axis.axhline(level, color=ORANGE, lw=1, label="no order")
            axis.axvline(1 - REVIEWED, color=_GREY, lw=0.8, ls=":")
            axis.set(xlabel="share of masks kept, best first", ylim=(0, None), xlim=(0, 1))
            axis.xaxis.set_major_formatter(PercentFormatter(1))
        rate.yaxis.set_major_formatter(PercentFormatter(1))
        risk.set(ylabel="mean of 1 - Dice", title="risk and coverage")
        rate.set(ylabel="Jaccard below 0.65", title="failures among those kept")
        risk.legend(frameon=False, loc="lower right")
        reliability.plot([0, 1], [0, 1], color=_GREY, lw=0.8)
        reliability.scatter(self.expected, self.dice, s=6, color=BLUE, alpha=0.25, lw=0)
        reliability.plot(*self.bins(), color=ORANGE, marker="o", ms=4, label="tenths")
        reliability.axvline(REVIEW, color=_GREY, lw=0.8, ls=":", label="review below")
        low = max(0.0, float(self.expected.min()) - 0.05)
        reliability.set(xlabel="quality", ylabel="true Dice", xlim=(low, 1), ylim=(0, 1.02))
        reliability.set_title("reliability")
        reliability.legend(frameon=False, loc="lower right")
        for axis in (risk, rate, reliability):
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        return figure

    def _measure(
        self, measure: Callable[[Values, Values, NDArray[np.bool_]], float]
    ) -> tuple[float | None, tuple[float | None, float | None]]:
        n = len(self.dice)
        replicates = []
        for times in resample(n):
            drawn = np.repeat(np.arange(n), times.astype(int))
            replicates.append(measure(self.expected[drawn], self.dice[drawn], self.failures[drawn]))
        low, high = bootstrap_interval(np.array(replicates))
        value = measure(self.expected, self.dice, self.failures)
        return _defined(value), (_defined(low), _defined(high))


def auroc(expected: Values, _: Values, failed: NDArray[np.bool_]) -> float:
    """Return how often a failure is expected to be worse than a success; nan without both."""
    bad = int(failed.sum())
    good = len(failed) - bad
    if not bad or not good:
        return float("nan")
    ranks = rankdata(-expected)
    return float((ranks[failed].sum() - bad * (bad + 1) / 2) / (bad * good))


def _pearson(expected: Values, dice: Values, _: NDArray[np.bool_]) -> float:
    if np.ptp(expected) == 0 or np.ptp(dice) == 0:
        return float("nan")
    return float(np.corrcoef(expected, dice)[0, 1])


def _rest_ratio(expected: Values, _: Values, failed: NDArray[np.bool_]) -> float:
    """The failure rate of the rest over that of all."""
    return float(failed[_rest(expected)].mean() / failed.mean()) if failed.any() else float("nan")


def _rest(expected: Values) -> NDArray[np.intp]:
    """All but the tenth of lowest quality."""
    return np.argsort(expected, kind="stable")[round(REVIEWED * len(expected)) :]


def _risks(order: Values, loss: Values) -> Values:
    """The mean loss of the best, of the two best, …, of all."""
    chosen = loss[np.argsort(-order, kind="stable")]
    return np.cumsum(chosen) / np.arange(1.0, len(chosen) + 1)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value
