"""Train every model for 30 steps on ISIC 2018, then predict one photo: does it learn, how fast?

    python benchmarks/models.py --data ../shared/data/isic2018 [egeunet malunet …]

One row per model is added to zoo_steps.jsonl. All see the same 240 photos of the holdout
training part in the same order, augmented as in the paper, under its optimiser (AdamW, lr 1e-3) and
loss, from random weights. 30 steps show that a model learns, not how good it is.

Running means of batch normalization lag behind weights that move this fast, so that several models
would mark nothing; before the photo is predicted they are taken anew over 32 photos of training.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from egeunet.data.augmentation.geometry import Augmentation
from egeunet.data.cache import Arrays, load_arrays
from egeunet.data.datasets import open_folder
from egeunet.data.loader import Loader, scale_batch
from egeunet.data.splits import split_dataset
from egeunet.environment import environment
from egeunet.evaluation.predictors import torch_predictor
from egeunet.evaluation.results_store import append_result
from egeunet.metrics.counts import count_pixels, predict_classes
from egeunet.models import create_model, list_models
from egeunet.training.losses import DeepSupervisionLoss, cross_entropy_dice

PHOTOS = 240
SETTLED_ON = 32
SEED = 42


def measure(name: str, train: Arrays, test: Arrays, steps: int, batch: int) -> dict[str, Any]:
    """Return losses, seconds per step and the IoU on the one photo of `test`."""
    torch.manual_seed(SEED)
    model = create_model(name).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    loss = DeepSupervisionLoss()
    loader = Loader(train, batch_size=batch, augmentation=Augmentation(), seed=SEED)
    losses, outputs, seconds = [], [], []
    for _, data in zip(range(steps), loader.epoch(), strict=False):
        start = time.perf_counter()
        optimizer.zero_grad()
        output = model(data.images)
        total = loss(output, data.masks)
        total.backward()
        optimizer.step()
        losses.append(total.item())
        logits = output[0] if isinstance(output, tuple) else output
        outputs.append(cross_entropy_dice(logits, data.masks).item())
        seconds.append(time.perf_counter() - start)
    settle(model, train)
    prediction = predict_classes(torch_predictor(model)(test.images))
    tp, fp, fn, _ = (int(count) for count in count_pixels(prediction, torch.tensor(test.masks)))
    return {
        "loss_first": losses[:5],
        "loss_last": losses[-5:],
        "output_loss_first5": statistics.fmean(outputs[:5]),
        "output_loss_last5": statistics.fmean(outputs[-5:]),
        "step_seconds_median": statistics.median(seconds[1:]),
        "step_seconds_min": min(seconds[1:]),
        "step_seconds_max": max(seconds[1:]),
        "photo": test.ids[0],
        "photo_iou": tp / max(1, tp + fp + fn),
    }


@torch.no_grad()
def settle(model: nn.Module, train: Arrays) -> None:
    """Take the statistics of batch normalisation anew, as means over batches of 8."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    if norms:
        for start in range(0, SETTLED_ON, 8):
            images = np.array(train.images[start : start + 8])
            model.train()(scale_batch(torch.from_numpy(images)))


def main() -> None:
    """Measure the models named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--data", type=Path, required=True, help="the folder of ISIC 2018")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--shared", action="store_true", help="others compute here meanwhile")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("research/results/zoo_steps.jsonl")
    )
    options = parser.parse_args()
    split = split_dataset(open_folder(options.data), "holdout")
    train = load_arrays(split.train[:PHOTOS])
    test = load_arrays(split.test[:1])
    for name in options.models or list_models():
        row = {
            "model": name,
            "dataset": "isic2018",
            "protocol": "holdout",
            "recipe": "AdamW lr 1e-3, weight decay 1e-2, BCE + Dice, 256×256",
            "seed": SEED,
            "steps": options.steps,
            "statistics_settled_on": SETTLED_ON,
            "batch_size": options.batch,
            "threads": torch.get_num_threads(),
            "shared": options.shared,
            **measure(name, train, test, options.steps, options.batch),
        }
        append_result(options.output, {**row, **environment()})
        print(
            f"{name:22} loss {row['output_loss_first5']:.3f} → {row['output_loss_last5']:.3f}   "
            f"{row['step_seconds_median']:.2f} s a step   IoU of one photo {row['photo_iou']:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
