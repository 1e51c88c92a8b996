"""Pieces of work timed in turns, so that they share whatever else the machine does."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def alternate(
    works: dict[str, Callable[[], Any]], repeats: int, warm: int = 1, settled: bool = False
) -> dict[str, dict[str, float]]:
    """Return the seconds of each piece of work, without the first `warm` turns.

    With `settled` each is done once more before it is timed, so that the processor's caches hold
    what is its own, as they do for who runs one thing alone.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + warm):
        for name, work in works.items():
            if settled:
                work()
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: spread(values[warm:]) for name, values in times.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most of some numbers."""
    middle = statistics.median(values)
    return {"median": middle, "min": min(values), "max": max(values), "n": len(values)}
