"""Estimated Dice scores: how they are fitted, and how well they detect failed masks.

A failure is a mask with a Jaccard index below 0.65. The measures are those of Zenk et al. 2024
(arXiv 2406.03323): AUROC of failures, area under the risk–coverage curve (Geifman & El-Yaniv 2017)
and correlation with the true Dice; besides, the calibration error and the risk at 90 % coverage.
"""

from __future__ import annotations

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


def score_estimates(expected: Values, dice: Values, jaccard: Values) -> dict[str, Any]:
    """Measure how well estimated Dice scores fit the true ones.

    Args:
        expected: Estimated Dice of each mask, (N,) in 0…1.
        dice: Its true Dice, (N,).
        jaccard: Its true Jaccard index, (N,).

    Returns:
        Every measure as JSON can hold it; undefined ones are None. `auroc`, `pearson` and
        `relative_risk_at_90` have bootstrap `intervals` over images. `aurc` is the mean of 1 - Dice
        over all coverages, beside that of a perfect and of a random order. `calibration_error` is
        the mean over ten bins of equal size. `risk_at_90` is the failure rate of the 90 % of masks
        with the best estimates, and `relative_risk_at_90` that over `failure_rate`. `review`
        describes the masks below the review threshold: their `share`, the fraction of them that
        `failed`, and the fraction of all failures that they are (`found`).
    """
    failed, marked = jaccard < FAILURE, expected < REVIEW

    def measure(drawn: NDArray[np.intp]) -> list[float]:
        estimates, true, bad = expected[drawn], dice[drawn], failed[drawn]
        varied = np.ptp(estimates) > 0 and np.ptp(true) > 0
        return [
            auroc(estimates, bad),
            float(np.corrcoef(estimates, true)[0, 1]) if varied else float("nan"),
            float(bad[_kept(estimates)].mean() / bad.mean()) if bad.any() else float("nan"),
        ]

    everyone = np.arange(len(failed))
    drawn = (np.repeat(everyone, counts.astype(int)) for counts in resample(len(failed)))
    ends = map(bootstrap_interval, np.array([measure(one) for one in drawn]).T)
    names = ("auroc", "pearson", "relative_risk_at_90")
    estimated, true = _bins(expected, dice)
    return {
        "failures": int(failed.sum()),
        **{name: _defined(value) for name, value in zip(names, measure(everyone), strict=True)},
        "intervals": {k: tuple(map(_defined, pair)) for k, pair in zip(names, ends, strict=True)},
        "aurc": float(_risks(expected, 1 - dice).mean()),
        "aurc_optimal": float(_risks(dice, 1 - dice).mean()),
        "aurc_random": float(1 - dice.mean()),
        "calibration_error": float(np.abs(estimated - true).mean()),
        "mean_expected": float(expected.mean()),
        "mean_dice": float(dice.mean()),
        "failure_rate": float(failed.mean()),
        "risk_at_90": float(failed[_kept(expected)].mean()),
        "review": {
            "share": float(marked.mean()),
            "failed": float(failed[marked].mean()) if marked.any() else None,
            "found": float(marked[failed].mean()) if failed.any() else None,
        },
    }


def estimates_figure(expected: Values, dice: Values, jaccard: Values) -> Figure:
    """Draw the risk–coverage curve, the failure rate by coverage, and the reliability.

    The arguments are those of `score_estimates`.
    """
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    axes = risk, rate, reliability = figure.subplots(1, 3)
    coverage = np.arange(1, len(dice) + 1) / len(dice)
    for axis, loss in ((risk, 1 - dice), (rate, (jaccard < FAILURE).astype(float))):
        axis.plot(coverage, _risks(expected, loss), color=BLUE, label="by estimate")
        axis.plot(coverage, _risks(dice, loss), color=GREY, ls="--", label="perfect order")
        axis.axhline(loss.mean(), color=ORANGE, lw=1, label="random order")
        axis.axvline(COVERAGE, color=GREY, lw=0.8, ls=":")
        axis.set(xlabel="coverage, best masks first", ylim=(0, None), xlim=(0, 1))
        axis.xaxis.set_major_formatter(PercentFormatter(1))
    rate.yaxis.set_major_formatter(PercentFormatter(1))
    risk.set(ylabel="mean of 1 - Dice", title="risk and coverage")
    rate.set(ylabel="Jaccard below 0.65", title="failures among masks kept")
    reliability.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    reliability.scatter(expected, dice, s=6, color=BLUE, alpha=0.25, lw=0)
    reliability.plot(*_bins(expected, dice), color=ORANGE, marker="o", ms=4, label="tenths")
    reliability.axvline(REVIEW, color=GREY, lw=0.8, ls=":", label="review below")
    low = max(0.0, float(expected.min()) - 0.05)
    reliability.set(xlabel="estimated Dice", ylabel="true Dice", xlim=(low, 1), ylim=(0, 1.02))
    reliability.set_title("reliability")
    for axis in (risk, reliability):
        axis.legend(frameon=False, loc="lower right")
    plain_axes(axes)
    return figure


def quality_table(quality: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return `score_estimates` as rows: measure, value, interval and an empty cell."""

    def text(value: float | None, form: str = ".3f") -> str:
        return "undefined" if value is None else f"{value:{form}}"

    def ends(name: str) -> str:
        return " – ".join(map(text, quality["intervals"][name]))

    area, optimal, random = (text(quality[f"aurc{end}"]) for end in ("", "_optimal", "_random"))
    review = {name: text(value, ".2%") for name, value in quality["review"].items()}
    relative = "relative_risk_at_90"
    rows = [
        ("AUROC of failures (Jaccard < .65)", text(quality["auroc"]), ends("auroc")),
        ("correlation with Dice", text(quality["pearson"]), ends("pearson")),
        (
            "failure rate at 90 % coverage, relative to all",
            text(quality[relative]),
            ends(relative),
        ),
        ("AURC (perfect order, random order)", f"{area} ({optimal}, {random})", ""),
        ("calibration error", text(quality["calibration_error"]), ""),
        ("failure rate", text(quality["failure_rate"], ".2%"), ""),
        ("failure rate at 90 % coverage", text(quality["risk_at_90"], ".2%"), ""),
        ("masks marked for review", review["share"], ""),
        ("failures among these", review["failed"], ""),
        ("share of all failures", review["found"], ""),
    ]
    return [(f"quality: {label}", value, interval, "") for label, value, interval in rows]


def auroc(expected: Values, failed: NDArray[np.bool_]) -> float:
    """Return the AUROC of failures by low estimates; nan without both failures and successes."""
    good, bad = int((~failed).sum()), int(failed.sum())
    if not good or not bad:
        return float("nan")
    ranks = rankdata(expected)[~failed].sum()  # `mannwhitneyu` takes five times as long
    return float((ranks - good * (good + 1) / 2) / (good * bad))


def _bins(expected: Values, dice: Values) -> tuple[Values, Values]:
    """Return the mean estimate and the mean true Dice of ten bins of equal size."""
    bins = np.array_split(np.argsort(expected, kind="stable"), _BINS)
    estimated, true = np.array([(expected[b].mean(), dice[b].mean()) for b in bins if len(b)]).T
    return estimated, true


def _kept(expected: Values) -> NDArray[np.intp]:
    """All but the tenth with the lowest estimates."""
    return np.argsort(expected, kind="stable")[round((1 - COVERAGE) * len(expected)) :]


def _risks(order: Values, loss: Values) -> Values:
    """The mean loss of the best, of the two best, …, of all."""
    chosen = loss[np.argsort(-order, kind="stable")]
    return np.cumsum(chosen) / np.arange(1.0, len(chosen) + 1)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value
