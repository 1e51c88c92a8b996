"""How sure a score is: bootstrap intervals over images, and a paired test between two systems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from egeunet.metrics.counts import Counts, mean_foreground, scores

RESAMPLES = 2000

Interval = tuple[float, float]


def resample(n: int, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Draw bootstrap samples of n images, as how often each image is in each sample.

    Returns:
        (resamples, n) whole numbers; every row sums to n. A sum over a bootstrap sample is a
        matrix product with these, so thousands of samples cost one multiplication.
    """
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def bootstrap_interval(replicates: NDArray[np.float64], level: float = 0.95) -> Interval:
    """Return the percentile interval of a statistic.

    Args:
        replicates: (R,), the statistic on each bootstrap sample; nan where it was undefined.
        level: Probability covered, 0…1.

    Returns:
        Lower and upper end; both nan if the statistic was never defined.
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def pooled_scores(counts: Counts, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute the pooled scores of samples of images.

    Args:
        counts: Per image and class, (N, K).
        weights: (R, N), how often each image is in each sample.

    Returns:
        (R,) per name in `egeunet.metrics.counts.SCORES`, averaged over the foreground classes.
    """
    drawn = torch.from_numpy(weights)
    pooled = Counts(*(drawn @ count.double() for count in counts))
    return {name: mean_foreground(score).numpy() for name, score in scores(pooled).items()}


def image_means(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the means over samples of images.

    Args:
        values: (N,), one per image; nan ones are left out.
        weights: (R, N), how often each image is in each sample.

    Returns:
        (R,); nan where a sample has no defined value.
    """
    defined = ~np.isnan(values)
    how_many = weights @ defined.astype(np.float64)
    total = weights @ np.where(defined, values, 0)
    return np.divide(total, how_many, out=np.full(len(weights), np.nan), where=how_many > 0)


@dataclass(frozen=True)
class PairedDifference:
    """Two systems, a and b, compared on the same images.

    Attributes:
        difference: Pooled IoU of a minus that of b.
        interval: Its bootstrap interval over images.
        jaccard: Mean Jaccard index per image of a minus that of b.
        p_value: Wilcoxon signed-rank test, two-sided, on the Jaccard indices per image.
        n: Number of images.
    """

    difference: float
    interval: Interval
    jaccard: float
    p_value: float
    n: int


def paired_difference(
    counts_a: Counts,
    counts_b: Counts,
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Compare two systems on the same images in the same order.

    Each bootstrap sample draws the same images for both, so what makes an image hard for both
    cancels out.

    Args:
        counts_a: Of one system, (N, K).
        counts_b: Of the other, (N, K).
        resamples: Number of bootstrap samples.
        level: Probability that the interval covers.
        seed: Start of the random numbers.

    Raises:
        ValueError: The images are not the same: their number or their truths differ.
    """
    truth_a, truth_b = (counts.tp + counts.fn for counts in (counts_a, counts_b))
    if not torch.equal(truth_a, truth_b):
        raise ValueError(
            "The two systems were not scored on the same images in the same order: the number of "
            f"images ({len(truth_a)} and {len(truth_b)}) or the truths differ."
        )
    n = len(truth_a)
    everyone = np.ones((1, n))
    weights = np.concatenate([everyone, resample(n, resamples, seed)])
    differences = pooled_scores(counts_a, weights)["iou"] - pooled_scores(counts_b, weights)["iou"]
    jaccard_a, jaccard_b = (
        mean_foreground(scores(counts)["iou"]).numpy() for counts in (counts_a, counts_b)
    )
    return PairedDifference(
        difference=float(differences[0]),
        interval=bootstrap_interval(differences[1:], level),
        jaccard=float((jaccard_a - jaccard_b).mean()),
        p_value=_wilcoxon(jaccard_a - jaccard_b),
        n=n,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm. Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p_values)
    steps = np.arange(len(p_values), 0, -1) * np.asarray(p_values)[order]
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected.tolist()


def _wilcoxon(differences: NDArray[np.float64]) -> float:
    from scipy.stats import wilcoxon

    if not differences.any():
        return 1.0
    return float(wilcoxon(differences).pvalue)
