"""Several seeds of one recipe, and how far they lie apart."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from egeunet.errors import EgeunetError, UsageError
from egeunet.files import read_json
from egeunet.training.run import write_json

KEY = "seeds="
SUMMARY = "seeds.json"
SCORES = ("val_iou", "val_dice", "val_loss")


def split_seeds(settings: Sequence[str]) -> tuple[list[int], list[str]]:
    """Take `seeds=0-4` or `seeds=1,3,5` out of settings; return the seeds and the others.

    Raises:
        UsageError: The seeds are no whole numbers, or `seed=` is given as well.
    """
    others = [one for one in settings if not one.startswith(KEY)]
    texts = [one.removeprefix(KEY) for one in settings if one.startswith(KEY)]
    if not texts:
        return [], others
    if any(one.startswith("seed=") for one in others):
        raise UsageError("seed= and seeds= exclude each other: choose one.")
    return parse_seeds(texts[-1]), others


def parse_seeds(text: str) -> list[int]:
    """Read `0-4` or `1,3,5`.

    Raises:
        UsageError: The seeds are no whole numbers, or one is named twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise UsageError(f"seeds={text} names no seeds: expected seeds=0-4 or seeds=1,3,5.")
        first, last = int(match[1]), int(match[2] or match[1])
        seeds += range(first, last + 1)
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds={text} names a seed twice, or none.")
    return seeds


def summarise_seeds(folder: Path, runs: Sequence[Path]) -> dict[str, Any]:
    """Write `seeds.json`: mean and standard deviation (n − 1) over runs.

    Args:
        folder: Where to.
        runs: Run folders of one recipe.

    Returns:
        What was written: `runs`, `selected_on`, and for the `selected` and the `last` epoch
        {score: {"mean": …, "std": …, "values": […]}}.
    """
    metrics = [read_json(run / "metrics.json") for run in runs]
    try:
        summary: dict[str, Any] = {
            "runs": [run.name for run in runs],
            "selected_on": metrics[0]["selected_on"],
        }
        for epoch in ("selected", "last"):
            summary[epoch] = {}
            for name in SCORES:
                values = [one[epoch][name] for one in metrics]
                summary[epoch][name] = {
                    "mean": statistics.mean(values),
                    "std": statistics.stdev(values) if len(values) > 1 else None,
                    "values": values,
                }
    except (KeyError, TypeError) as error:
        raise EgeunetError(f"A metrics.json in {folder} is not that of a training.") from error
    write_json(folder / SUMMARY, summary)
    return summary


def describe_seeds(summary: dict[str, Any]) -> str:
    """Say the summary in one line, in percent."""
    parts = []
    for label, name in (("mIoU", "val_iou"), ("DSC", "val_dice")):
        score = summary["selected"][name]
        spread = "" if score["std"] is None else f" ± {100 * score['std']:.2f}"
        parts.append(f"{label} {100 * score['mean']:.2f}{spread} %")
    return f"{len(summary['runs'])} seeds, on the {summary['selected_on']} part: {', '.join(parts)}"
