"""Several seeds of a recipe: parsing them, and the spread of their scores."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from egeunet.errors import EgeunetError, UsageError
from egeunet.files import read_json, write_json

SEEDS = "seeds.json"
SCORES = ("val_iou", "val_dice", "val_loss")


def split_seeds(settings: Sequence[str]) -> tuple[list[int], list[str]]:
    """Take `seeds=0-4` or `seeds=1,3,5` out of settings; return the seeds and the other settings.

    Raises:
        UsageError: If the seeds are not whole numbers, or `seed=` is given as well.
    """
    others = [one for one in settings if not one.startswith("seeds=")]
    texts = [one.removeprefix("seeds=") for one in settings if one.startswith("seeds=")]
    if texts and any(one.startswith("seed=") for one in others):
        raise UsageError("seed= and seeds= exclude each other: choose one.")
    return (parse_seeds(texts[-1]) if texts else []), others


def parse_seeds(text: str) -> list[int]:
    """Parse `0-4` or `1,3,5`.

    Raises:
        UsageError: If the seeds are not whole numbers, or one is named twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part.strip())
        if match is None:
            raise UsageError(f"seeds={text} is not valid: expected seeds=0-4 or seeds=1,3,5.")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds={text} names a seed twice, or none.")
    return seeds


def summarize_seeds(folder: Path, runs: Sequence[Path]) -> dict[str, Any]:
    """Write mean and standard deviation (n − 1) over runs of one recipe to `seeds.json`.

    Args:
        folder: Where the file goes.
        runs: Run folders.

    Returns:
        The content: `runs`, `selected_on`, and for the `selected` and the `last` epoch
        {score: {"mean": …, "std": …, "values": […]}}.

    Raises:
        EgeunetError: If a run has no valid `metrics.json`.
    """
    metrics = [read_json(run / "metrics.json") for run in runs]
    try:
        summary = {"runs": [run.name for run in runs], "selected_on": metrics[0]["selected_on"]}
        for epoch in ("selected", "last"):
            summary[epoch] = {}
            for name in SCORES:
                values = [one[epoch][name] for one in metrics]
                std = statistics.stdev(values) if len(values) > 1 else None
                summary[epoch][name] = {"mean": statistics.mean(values), "std": std}
                summary[epoch][name]["values"] = values
    except (KeyError, TypeError) as error:
        raise EgeunetError(f"A metrics.json in {folder} is not that of a training.") from error
    write_json(folder / SEEDS, summary)
    return summary


def describe_seeds(summary: dict[str, Any]) -> str:
    """Return one line about the summary, in percent."""
    parts = []
    for label, name in (("mIoU", "val_iou"), ("DSC", "val_dice")):
        score = summary["selected"][name]
        spread = "" if score["std"] is None else f" ± {100 * score['std']:.2f}"
        parts.append(f"{label} {100 * score['mean']:.2f}{spread} %")
    return f"{len(summary['runs'])} seeds, {summary['selected_on']} split: {', '.join(parts)}"
