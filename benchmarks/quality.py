"""What tells failures best, of all that a pass or a few views give: chosen on validation alone.

    python benchmarks/quality.py isic2018

For each set of evidence the same logistic function is fitted and judged by cross-validation within
the validation part of the run (five folds, ten times over). A row is added to
research/results/quality_evidence.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egeunet.data.cache import load_arrays
from egeunet.data.loader import scale_batch
from egeunet.environment import environment
from egeunet.evaluation.failure_detection import auroc, fit_quality
from egeunet.evaluation.results_store import append_result
from egeunet.files import sha256_file
from egeunet.inference.quality import FAILURE, features
from egeunet.models.layers import resize
from egeunet.training.run import Run, load_run, open_split, weights_file

Values = NDArray[np.float64]
FOLDS, REPEATS = 5, 10
SETS = {
    "self-Dice": ("self",),
    "self-Dice, area": ("self", "area"),
    "stage masks with the mask": ("stages",),
    "stage masks with each other": ("pairs",),
    "entropy, area": ("entropy", "area"),
    "self-Dice, area, stage masks with the mask": ("self", "area", "stages"),
    "self-Dice, area, stage masks with each other": ("self", "area", "pairs"),
    "self-Dice, area, entropy": ("self", "area", "entropy"),
    "self-Dice, area, sharpness of the border": ("self", "area", "sharpness"),
}
VIEWS = {
    "four views: masks with each other": ("views",),
    "four views: self-Dice, area": ("self", "area"),
    "four views: self-Dice, area, masks with each other": ("self", "area", "views"),
}


def dice(first: Tensor, second: Tensor) -> float:
    """The Dice of two masks, 1 if both are empty."""
    total = int(first.sum() + second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def agreement(masks: list[Tensor]) -> float:
    """How far masks are from agreeing, as `evidence` writes the self-Dice."""
    return float(np.log(1.01 - np.mean([dice(*pair) for pair in itertools.combinations(masks, 2)])))


def look(logits: Tensor) -> dict[str, float]:
    """What the logits (H, W) of one mask say."""
    p = logits.sigmoid().double()
    own, area = features(p.numpy())
    entropy = -(p * (p + 1e-9).log() + (1 - p) * (1 - p + 1e-9).log()).mean()
    steep = torch.stack(torch.gradient(p)).norm(dim=0)
    sharpness = (steep**2).sum() / steep.sum()
    return {
        "self": own,
        "area": area,
        "entropy": float((entropy + 1e-3).log()),
        "sharpness": float((sharpness + 1e-3).log()),
    }


def collect(run: Run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run a network over its validation part: what one view gives, and what four give."""
    _, split = open_split(run.recipe.data)
    arrays = load_arrays(split.val, run.recipe.data.shape)
    stages: list[Tensor] = []
    for head in run.model.mask_heads:
        head.register_forward_hook(lambda _, __, given: stages.append(given))
    once, several = [], []
    for photo, truth in zip(arrays.images, arrays.masks, strict=True):
        image = scale_batch(torch.from_numpy(np.array(photo)[None]))
        views = [run.model(image.flip(axes)).flip(axes)[0, 0] for axes in ((), (2,), (3,), (2, 3))]
        mask, true = views[0] >= 0, torch.from_numpy(np.array(truth)) > 0
        at_full = [resize(stage, image.shape[2:])[0, 0] >= 0 for stage in stages[:5]]
        stages.clear()
        with_mask = np.mean([dice(stage, mask) for stage in at_full])
        score = {"stages": float(np.log(1.01 - with_mask)), "pairs": agreement([mask, *at_full])}
        once.append({**look(views[0]), **score, "dice": dice(mask, true)})
        mean = torch.stack(views).mean(dim=0)
        spread = agreement([view >= 0 for view in views])
        several.append({**look(mean), "views": spread, "dice": dice(mean >= 0, true)})
    return once, several


def judge(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, float]:
    """Cross-validate one set of evidence."""
    given = np.array([[row[name] for name in names] for row in rows])
    true = np.array([row["dice"] for row in rows])
    failed = true / (2 - true) < FAILURE
    found = []
    for seed in range(REPEATS):
        fold = np.empty(len(true), int)
        for kind in (failed, ~failed):  # each fold has its share of failures
            order = np.random.default_rng(seed).permutation(np.flatnonzero(kind))
            fold[order] = np.arange(len(order)) % FOLDS
        odds = np.empty(len(true))
        for part in range(FOLDS):
            first, *rest = fit_quality(given[fold != part], true[fold != part])
            odds[fold == part] = first + given[fold == part] @ rest
        expected = 1 / (1 + np.exp(-odds))
        found.append((auroc(expected, failed), np.corrcoef(expected, true)[0, 1]))
    means = np.mean(found, axis=0)
    return {"auroc": float(means[0]), "pearson": float(means[1])}


@torch.no_grad()
def main() -> None:
    """Judge every set of evidence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run of EGE-UNet or shipped weights, holdout")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("research/results/quality_evidence.jsonl")
    )
    options = parser.parse_args()
    run = load_run(options.run)
    once, several = collect(run)
    judged = {name: judge(once, names) for name, names in SETS.items()}
    judged |= {name: judge(several, names) for name, names in VIEWS.items()}
    for name, score in judged.items():
        print(f"{name:52} AUROC {score['auroc']:.3f}   r {score['pearson']:.3f}")
    row = {
        "dataset": run.dataset,
        "protocol": run.recipe.data.protocol,
        "split": "val",
        "weights_sha256": sha256_file(weights_file(options.run)),
        "n": len(once),
        "folds": FOLDS,
        "repeats": REPEATS,
        "features": judged,
    }
    append_result(options.output, {**row, **environment()})


if __name__ == "__main__":
    main()
