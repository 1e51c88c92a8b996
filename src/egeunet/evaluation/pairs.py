"""Two series compared on the images and seeds that both have."""

from __future__ import annotations

from pathlib import Path

from egeunet.evaluation.counts_file import read_counts
from egeunet.evaluation.series import Series
from egeunet.evaluation.statistics import PairedDifference, paired_difference
from egeunet.metrics.counts import Counts


def compare(mine: Series, theirs: Series, folder: Path) -> PairedDifference | None:
    """Return what mine does better than theirs.

    Pixels are counted over the seeds that both have.

    Args:
        mine: A series whose rows name their counts per image.
        theirs: Another.
        folder: Where the results lie; the names are relative to it.

    Returns:
        None where they have no seed in common, or were not scored on the same images and masks.
    """
    seeds = [
        seed
        for seed in sorted(mine.rows.keys() & theirs.rows.keys())
        if "per_image" in mine.rows[seed] and "per_image" in theirs.rows[seed]
    ]
    found = [
        [read_counts(folder / one.rows[seed]["per_image"]) for seed in seeds]
        for one in (mine, theirs)
    ]
    if len({ids for read in found for ids, _ in read}) != 1:
        return None
    a, b = (
        Counts(*(sum(parts) for parts in zip(*(counts for _, counts in read), strict=True)))
        for read in found
    )
    try:
        return paired_difference(a, b)
    except ValueError:  # the masks of these images were other ones
        return None


def points(found: PairedDifference | None) -> str:
    """Write a difference of pooled IoU in points with its interval."""
    if found is None:
        return "not the same seeds or images"
    low, high = (f"{100 * end:+.2f}" for end in found.interval)
    return f"{100 * found.difference:+.2f} ({low} … {high})"
