"""Estimated Dice scores: how they are fitted, and how well they detect failed masks.

A failure is a mask with a Jaccard index below 0.65. The measures are those of Zenk et al. 2024
(arXiv 2406.03323): AUROC of failures, area under the risk–coverage curve (Geifman & El-Yaniv 2017)
and correlation with the true Dice; besides, the calibration error and the risk at 90 % coverage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from egeunet.evaluation.figures import BLUE, GREY, ORANGE, plain_axes
from egeunet.evaluation.statistics import Values, bootstrap_interval, resample
from egeunet.inference.quality import FAILURE, REVIEW

COVERAGE = 0.9  # share of masks kept, the best first
_BINS = 10


def fit_quality(features: Values, dice: Values) -> tuple[float, ...]:
    """Fit a logistic function of features to Dice scores.

    Maximises the quasi-likelihood of fractions (Papke & Wooldridge 1996), so the mean estimate
    equals the mean Dice.

    Args:
        features: (N, F).
        dice: (N,) in 0…1.

    Returns:
        Intercept and F weights.
    """
    columns = np.column_stack([np.ones(len(features)), features])

    def loss(weights: Values) -> tuple[float, Values]:
        odds = columns @ weights
        value = (np.logaddexp(0, odds) - dice * odds).mean()
        return float(value), columns.T @ (expit(odds) - dice) / len(dice)

    found = minimize(loss, np.zeros(columns.shape[1]), jac=True, method="BFGS")
    return tuple(map(float, found.x))


@dataclass(frozen=True)
class QualityScores:
    """How well the estimated Dice of N masks fits the true one.

    Attributes:
        expected: Estimated Dice of each mask, (N,) in 0…1.
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

        `auroc`, `pearson` and `relative_risk_at_90` have bootstrap intervals over images. `aurc` is
        the mean of 1 - Dice over all coverages, beside that of a perfect and of a random order.
        `calibration_error` is the mean over ten bins of equal size. `risk_at_90` is the failure
        rate of the 90 % of masks with the best estimates, and `relative_risk_at_90` that over
        `failure_rate`. `review` says of the masks below the review threshold their `share`, how
        many of them `failed`, and which share of the failures was `found`.
        """
        marked, failed = self.expected < REVIEW, self.failures
        everyone = np.arange(len(failed))
        found = self._measures(everyone)
        drawn = [self._measures(np.repeat(everyone, n.astype(int))) for n in resample(len(failed))]
        ends = {k: bootstrap_interval(np.array([one[k] for one in drawn])) for k in found}
        return {
            "failures": int(failed.sum()),
            **{name: _defined(value) for name, value in found.items()},
            "intervals": {name: tuple(map(_defined, pair)) for name, pair in ends.items()},
            "aurc": float(_risks(self.expected, 1 - self.dice).mean()),
            "aurc_optimal": float(_risks(self.dice, 1 - self.dice).mean()),
            "aurc_random": float(1 - self.dice.mean()),
            "calibration_error": self.calibration_error(),
            "mean_expected": float(self.expected.mean()),
            "mean_dice": float(self.dice.mean()),
            "failure_rate": float(failed.mean()),
            "risk_at_90": float(failed[_kept(self.expected)].mean()),
            "review": {
                "share": float(marked.mean()),
                "failed": float(failed[marked].mean()) if marked.any() else None,
                "found": float(failed[marked].sum() / failed.sum()) if failed.any() else None,
            },
        }

    def to_list(self) -> list[list[float]]:
        """Return [estimate, Dice, Jaccard] of each image, rounded, from which figures are drawn."""
        columns = np.column_stack([self.expected, self.dice, self.jaccard])
        return [[round(value, 4) for value in row] for row in columns.tolist()]

    def bins(self) -> tuple[Values, Values]:
        """Return the mean estimate and the mean true Dice of ten bins of equal size."""
        bins = np.array_split(np.argsort(self.expected, kind="stable"), _BINS)
        means = [(self.expected[b].mean(), self.dice[b].mean()) for b in bins if len(b)]
        expected, true = np.array(means).T
        return expected, true

    def calibration_error(self) -> float:
        """Return the mean distance between estimated and true Dice over `bins`."""
        expected, true = self.bins()
        return float(np.abs(expected - true).mean())

    def figure(self) -> Figure:
        """Draw the risk–coverage curve, the failure rate by coverage, and the reliability."""
        figure = Figure(figsize=(12, 3.8), layout="constrained")
        axes = risk, rate, reliability = figure.subplots(1, 3)
        coverage = np.arange(1, len(self.dice) + 1) / len(self.dice)
        for axis, loss in ((risk, 1 - self.dice), (rate, self.failures.astype(float))):
            axis.plot(coverage, _risks(self.expected, loss), color=BLUE, label="by estimate")
            best = _risks(self.dice, loss)
            axis.plot(coverage, best, color=GREY, ls="--", label="perfect order")
            axis.axhline(loss.mean(), color=ORANGE, lw=1, label="random order")
            axis.axvline(COVERAGE, color=GREY, lw=0.8, ls=":")
            axis.set(xlabel="coverage, best masks first", ylim=(0, None), xlim=(0, 1))
            axis.xaxis.set_major_formatter(PercentFormatter(1))
        rate.yaxis.set_major_formatter(PercentFormatter(1))
        risk.set(ylabel="mean of 1 - Dice", title="risk and coverage")
        rate.set(ylabel="Jaccard below 0.65", title="failures among masks kept")
        reliability.plot([0, 1], [0, 1], color=GREY, lw=0.8)
        reliability.scatter(self.expected, self.dice, s=6, color=BLUE, alpha=0.25, lw=0)
        reliability.plot(*self.bins(), color=ORANGE, marker="o", ms=4, label="tenths")
        reliability.axvline(REVIEW, color=GREY, lw=0.8, ls=":", label="review below")
        low = max(0.0, float(self.expected.min()) - 0.05)
        reliability.set(xlabel="estimated Dice", ylabel="true Dice", xlim=(low, 1), ylim=(0, 1.02))
        reliability.set_title("reliability")
        for axis in (risk, reliability):
            axis.legend(frameon=False, loc="lower right")
        plain_axes(axes)
        return figure

    def _measures(self, drawn: NDArray[np.intp]) -> dict[str, float]:
        expected, dice, failed = self.expected[drawn], self.dice[drawn], self.failures[drawn]
        varied = np.ptp(expected) > 0 and np.ptp(dice) > 0
        kept = failed[_kept(expected)].mean()
        return {
            "auroc": auroc(expected, failed),
            "pearson": float(np.corrcoef(expected, dice)[0, 1]) if varied else float("nan"),
            "relative_risk_at_90": float(kept / failed.mean()) if failed.any() else float("nan"),
        }


def quality_table(quality: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return `QualityScores.to_dict` as rows: measure, value, interval and an empty cell."""

    def number(value: float | None, form: str = ".3f") -> str:
        return "undefined" if value is None else f"{value:{form}}"

    measured = {
        "auroc": "AUROC of failures (Jaccard < .65)",
        "pearson": "correlation with Dice",
        "relative_risk_at_90": "failure rate at 90 % coverage, relative to all",
    }
    rows = []
    for name, label in measured.items():
        ends = " – ".join(number(end) for end in quality["intervals"][name])
        rows.append((label, number(quality[name]), ends, ""))
    area = (number(quality[name]) for name in ("aurc", "aurc_optimal", "aurc_random"))
    review = {name: number(value, ".2%") for name, value in quality["review"].items()}
    plain = {
        "AURC (perfect order, random order)": "{} ({}, {})".format(*area),
        "calibration error": number(quality["calibration_error"]),
        "failure rate": number(quality["failure_rate"], ".2%"),
        "failure rate at 90 % coverage": number(quality["risk_at_90"], ".2%"),
        "masks marked for review": review["share"],
        "failures among these": review["failed"],
        "share of all failures": review["found"],
    }
    rows += [(label, text, "", "") for label, text in plain.items()]
    return [(f"quality: {label}", *cells) for label, *cells in rows]  # type: ignore[misc]


def auroc(expected: Values, failed: NDArray[np.bool_]) -> float:
    """Return the AUROC of failures by low estimates; nan without both failures and successes."""
    good, bad = int((~failed).sum()), int(failed.sum())
    if not good or not bad:
        return float("nan")
    ranks = rankdata(expected)[~failed].sum()  # `mannwhitneyu` takes five times as long
    return float((ranks - good * (good + 1) / 2) / (good * bad))


def _kept(expected: Values) -> NDArray[np.intp]:
    """All but the tenth with the lowest estimates."""
    return np.argsort(expected, kind="stable")[round((1 - COVERAGE) * len(expected)) :]


def _risks(order: Values, loss: Values) -> Values:
    """The mean loss of the best, of the two best, …, of all."""
    chosen = loss[np.argsort(-order, kind="stable")]
    return np.cumsum(chosen) / np.arange(1.0, len(chosen) + 1)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value
