"""Training speed: the whole step, the loader alone, an epoch with both, evaluation; peak memory.

    python benchmarks/training.py --data isic2018 --official CHECKOUT --record speed.jsonl

With --official, a checkout of https://github.com/JCruan519/EGE-UNet, the published network runs in
turns with ours in the same process, and ratios are printed. Nothing of it is part of this package:
its file is imported as it lies there. Loss, loader and validation are written here after it: each
image is decoded, scaled, turned by torchvision and resized anew in the main process.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn
from torch.nn import functional as F

from egeunet.compat import import_torchvision

import_torchvision()
from published import load_published
from timing import alternate
from torchvision.transforms import functional

from egeunet.compat import keep_freed_memory
from egeunet.data.augmentation.geometry import Augmentation
from egeunet.data.cache import load_arrays
from egeunet.data.datasets import Sample, open_folder
from egeunet.data.loader import Loader
from egeunet.data.splits import split_dataset
from egeunet.environment import environment
from egeunet.evaluation.results_store import append_result
from egeunet.metrics.counts import PixelCounts
from egeunet.models import create_model, kernels
from egeunet.training.losses import STAGE_WEIGHTS, DeepSupervisionLoss

BATCH, SIZE = 8, 256
Step = Callable[[Tensor, Tensor], float]


def our_step(fast: bool) -> tuple[nn.Module, Step]:
    """The step of `egeunet train`; without `fast` the plain formulas."""
    model = create_model("egeunet").to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss_of = DeepSupervisionLoss()
    usable = kernels.usable

    def step(images: Tensor, masks: Tensor) -> float:
        kernels.usable = usable if fast else lambda *_: False
        optimizer.zero_grad()
        loss = loss_of(model(images), masks)
        loss.backward()
        optimizer.step()
        kernels.usable = usable
        return loss.item()

    return model, step


def official_step(checkout: Path) -> tuple[nn.Module, Step]:
    """The published step: eager, BCE + Dice on six probability maps."""
    model = load_published(checkout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(images: Tensor, masks: Tensor) -> float:
        optimizer.zero_grad()
        loss = official_loss(*model(images), masks)
        loss.backward()
        optimizer.step()
        return loss.item()

    return model, step


def official_loss(stages: tuple[Tensor, ...], output: Tensor, masks: Tensor) -> Tensor:
    """The published loss of six probability maps."""

    def term(p: Tensor, y: Tensor) -> Tensor:
        p, y = p.flatten(1), y.flatten(1)
        dice = (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)
        return F.binary_cross_entropy(p, y) + 1 - dice.mean()

    loss = term(output, masks)
    for weight, stage in zip(STAGE_WEIGHTS, stages, strict=True):
        loss = loss + weight * term(stage, masks)
    return loss


@torch.no_grad()
def official_validation(model: nn.Module, samples: list[Sample]) -> None:
    """The published validation: image by image, all maps kept, one confusion matrix at the end."""
    model.eval()
    losses, outputs, truths = [], [], []
    for images, masks in published_batches(samples, train=False, batch=1):
        stages, output = model(images)
        losses.append(official_loss(stages, output, masks).item())
        outputs.append(output.squeeze(1).numpy())
        truths.append(masks.squeeze(1).numpy())
    said = np.where(np.array(outputs).reshape(-1) >= 0.5, 1, 0)
    confusion_matrix(np.where(np.array(truths).reshape(-1) >= 0.5, 1, 0), said)
    model.train()


@torch.no_grad()
def our_validation(model: nn.Module, loader: Loader) -> None:
    """The validation after each epoch of `egeunet train`."""
    model.eval()
    loss_of, counts, total = DeepSupervisionLoss(), PixelCounts(1), torch.zeros(())
    for batch in loader.epoch():
        logits = model(batch.images)
        total += loss_of(logits, batch.masks) * len(batch.ids)
        counts.update(logits, batch.masks)
    counts.pooled()
    model.train()


def published_batches(
    samples: list[Sample], train: bool, batch: int = BATCH
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in the way of the published loader, operation by operation."""
    for start in range(0, len(samples), batch):
        pairs = [published_sample(sample, train) for sample in samples[start : start + batch]]
        images, masks = zip(*pairs, strict=True)
        yield torch.stack(images).float(), torch.stack(masks).float()


def published_sample(sample: Sample, train: bool) -> tuple[Tensor, Tensor]:
    """Decode, scale, flip, rotate and resize in float64, one image at a time."""
    image = np.array(Image.open(sample.image).convert("RGB"))
    mask = np.expand_dims(np.array(Image.open(sample.mask).convert("L")), axis=2) / 255
    image = (image - 157.561) / 26.706
    image = (image - image.min()) / (image.max() - image.min()) * 255
    pair = [torch.tensor(array).permute(2, 0, 1) for array in (image, mask)]
    if train and random.random() < 0.5:
        pair = [functional.hflip(part) for part in pair]
    if train and random.random() < 0.5:
        pair = [functional.vflip(part) for part in pair]
    if train and random.random() < 0.5:
        angle = random.uniform(0, 360)
        pair = [functional.rotate(part, angle) for part in pair]
    one, other = (functional.resize(part, [SIZE, SIZE]) for part in pair)
    return one, other


def peak_memory(*words: str) -> float:
    """Peak memory in MB of a fresh process that trains three steps."""
    command = [sys.executable, __file__, "--steps-only", *words]
    return float(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def train_three_steps(official: Path | None) -> None:
    """Train three steps and print the peak memory of this process in MB."""
    _, step = official_step(official) if official else our_step(fast=True)
    for _ in range(3):
        step(torch.rand(BATCH, 3, SIZE, SIZE) * 255, torch.ones(BATCH, 1, SIZE, SIZE))
    # Not getrusage, which also counts the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1e3)


def main() -> None:
    """Time everything, print it and, with --record, keep it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="a dataset folder")
    parser.add_argument("--official", type=Path, help="a checkout of the published code")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--epoch-images", type=int, default=400, help="images of the timed epoch")
    parser.add_argument("--record", type=Path, help="a .jsonl file to add the row to")
    parser.add_argument("--steps-only", action="store_true", help="only print the peak memory")
    arguments = parser.parse_args()
    if arguments.steps_only:
        train_three_steps(arguments.official)
        return
    if arguments.data is None:
        parser.error("--data is needed")

    keep_freed_memory()  # as `egeunet train` does; the published code in this process gains too
    torch.manual_seed(0)
    steps = {"ours": our_step(fast=True), "ours, plain formulas": our_step(fast=False)}
    if arguments.official:
        steps["published"] = official_step(arguments.official)
    images = torch.rand(BATCH, 3, SIZE, SIZE) * 255
    images = images.contiguous(memory_format=torch.channels_last)
    masks = (torch.rand(BATCH, 1, SIZE, SIZE) > 0.5).float()

    def bind(step: Step, images: Tensor) -> Callable[[], float]:
        return lambda: step(images, masks)

    row: dict[str, Any] = {
        "benchmark": "training",
        "batch": BATCH,
        "epoch_images": arguments.epoch_images,
        "threads": torch.get_num_threads(),
    }
    row["step"] = alternate(
        {
            name: bind(step, images.contiguous() if name == "published" else images)
            for name, (_, step) in steps.items()
        },
        arguments.repeats,
        warm=3,
    )

    split = split_dataset(open_folder(arguments.data), "paper")
    train, test = (list(part)[: arguments.epoch_images] for part in (split.train, split.test))
    arrays, test_arrays = load_arrays(train), load_arrays(test)
    loader = Loader(arrays, batch_size=BATCH, augmentation=Augmentation())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loading = {"ours": lambda: [None for _ in loader.epoch()]}
    if arguments.official:
        loading["published"] = lambda: [None for _ in published_batches(train, True)]
    row["loader"] = alternate(loading, 3, warm=1)
    for timing in row["loader"].values():
        timing["images_per_second"] = len(train) / timing["median"]
    torch.set_num_threads(threads)

    model, step = steps["ours"]
    works = {"ours": lambda: [step(batch.images, batch.masks) for batch in loader.epoch()]}
    if arguments.official:
        published, published_step = steps["published"]
        works["published"] = lambda: [published_step(*b) for b in published_batches(train, True)]
    row["epoch"] = alternate(works, 3, warm=1)

    validation = Loader(test_arrays, batch_size=BATCH)
    works = {"ours": lambda: our_validation(model, validation)}
    if arguments.official:
        works["published"] = lambda: official_validation(published, test)
    row["evaluation"] = alternate(works, 2, warm=1)

    for part in ("step", "loader", "epoch", "evaluation"):
        print(f"{part}:")
        for name, timing in row[part].items():
            ratio = row[part].get("published", timing)["median"] / timing["median"]
            row[part][name]["times_published"] = ratio
            print(f"  {name:22} {timing['median'] * 1e3:9.1f} ms   {ratio:5.2f} × published")
    row["peak_mb"] = {"ours": peak_memory()}
    if arguments.official:
        row["peak_mb"]["published"] = peak_memory("--official", str(arguments.official))
    print("peak memory of a process that trains:", row["peak_mb"])
    if arguments.record:
        append_result(arguments.record, {**row, **environment()})


if __name__ == "__main__":
    main()
