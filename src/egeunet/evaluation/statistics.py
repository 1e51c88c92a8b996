"""Bootstrap confidence intervals over images and paired tests between two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from egeunet.metrics.counts import Counts, mean_foreground, scores

LEVEL = 0.95
RESAMPLES = 2000

Values = NDArray[np.float64]
Interval = tuple[float, float]


def resample(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Values:
    """Draw bootstrap samples of n images, as counts of each image in each sample.

    Returns:
        Whole numbers (resamples, n); every row sums to n. A sum over a bootstrap sample is a matrix
        product with these, which is why this replaces `scipy.stats.bootstrap`.
    """
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def bootstrap_interval(replicates: Values, level: float = LEVEL) -> Interval:
    """Return the percentile interval of a statistic.

    Args:
        replicates: The statistic on each bootstrap sample, (R,); nan where undefined.
        level: Coverage, 0…1.

    Returns:
        Lower and upper end; both nan if the statistic was never defined.
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def pooled_scores(counts: Counts, weights: Values) -> dict[str, Values]:
    """Compute pooled scores of bootstrap samples.

    Args:
        counts: Pixel counts (N, K).
        weights: How often each image is in each sample, (R, N).

    Returns:
        (R,) per name in `egeunet.metrics.counts.SCORES`, averaged over the foreground classes.
    """
    drawn = torch.from_numpy(weights)
    pooled = Counts(*(drawn @ count.double() for count in counts))
    return {name: mean_foreground(score).numpy() for name, score in scores(pooled).items()}


def image_means(values: Values, weights: Values) -> Values:
    """Compute means of bootstrap samples.

    Args:
        values: One per image, (N,); nan ones are left out.
        weights: How often each image is in each sample, (R, N).

    Returns:
        (R,); nan where a sample has no defined value.
    """
    defined = ~np.isnan(values)
    number = weights @ defined.astype(np.float64)
    total = weights @ np.where(defined, values, 0)
    return np.divide(total, number, out=np.full(len(weights), np.nan), where=number > 0)


@dataclass(frozen=True)
class Difference:
    """A score of one model minus that of another on the same images.

    Attributes:
        difference: The difference.
        interval: Its 95 % bootstrap interval over images.
        p_value: Two-sided Wilcoxon signed-rank test per image; None for pooled scores.
    """

    difference: float
    interval: Interval
    p_value: float | None = None


def compare_means(a: Values, b: Values, seed: int = 0) -> Difference:
    """Compare the mean scores per image of two models, (N,) each, on the same images."""
    from scipy.stats import wilcoxon

    differences = a - b
    interval = bootstrap_interval(image_means(differences, resample(len(a), seed=seed)))
    p_value = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
    return Difference(float(differences.mean()), interval, p_value)


def compare_pooled(a: Counts, b: Counts, seed: int = 0) -> Difference:
    """Compare the pooled IoU of two models.

    Each bootstrap sample draws the same images for both, so the difficulty of an image cancels out.

    Args:
        a: Pixel counts of one model, (N, K).
        b: Pixel counts of the other, of the same images in the same order.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If the number of images or their masks differ.
    """
    truth_a, truth_b = (counts.tp + counts.fn for counts in (a, b))
    if not torch.equal(truth_a, truth_b):
        raise ValueError(
            "The two models were not scored on the same images in the same order: the number of "
            f"images ({len(truth_a)} and {len(truth_b)}) or the masks differ."
        )
    n = len(truth_a)
    weights = np.concatenate([np.ones((1, n)), resample(n, seed=seed)])
    value, *replicates = pooled_scores(a, weights)["iou"] - pooled_scores(b, weights)["iou"]
    return Difference(float(value), bootstrap_interval(np.array(replicates)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p_values)
    steps = np.arange(len(p_values), 0, -1) * np.asarray(p_values, float)[order]
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected.tolist()
