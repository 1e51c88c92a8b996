"""Compare two groups of runs on the images and seeds that both have."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from egeunet.evaluation.results_store import read_counts
from egeunet.evaluation.statistics import Difference, compare_means, compare_pooled
from egeunet.metrics.counts import Counts, mean_foreground, scores
from research.run_groups import RunGroup


class Comparison(NamedTuple):
    """Differences of pooled IoU and of the mean Jaccard index per image."""

    iou: Difference
    jaccard: Difference


def compare(a: RunGroup, b: RunGroup, folder: Path) -> Comparison | None:
    """Return the scores of one group minus those of another.

    Pixels are counted over the seeds that both have.

    Args:
        a: A group whose rows name their counts per image.
        b: Another one.
        folder: The folder of results, which the names are relative to.

    Returns:
        None if they have no seed in common, or were not scored on the same images and masks.
    """
    seeds = [
        seed
        for seed in sorted(a.rows.keys() & b.rows.keys())
        if "per_image" in a.rows[seed] and "per_image" in b.rows[seed]
    ]
    found = [
        [read_counts(folder / one.rows[seed]["per_image"]) for seed in seeds] for one in (a, b)
    ]
    if len({ids for read in found for ids, _ in read}) != 1:
        return None
    first, second = (
        Counts(*(sum(counts) for counts in zip(*(counts for _, counts in read), strict=True)))
        for read in found
    )
    try:
        iou = compare_pooled(first, second)
    except ValueError:  # the masks of these images were other ones
        return None
    jaccard = (mean_foreground(scores(counts)["iou"]).numpy() for counts in (first, second))
    return Comparison(iou, compare_means(*jaccard))


def points(found: Difference | None) -> str:
    """Return a difference in percentage points with its interval, as text."""
    if found is None:
        return "not the same seeds or images"
    low, high = (f"{100 * end:+.2f}" for end in found.interval)
    return f"{100 * found.difference:+.2f} ({low} … {high})"
