"""Training speed: the whole step, the loader alone, an epoch with both, evaluation.

    python benchmarks/training.py --data isic2018 --official CHECKOUT --record results/speed.jsonl

With --official, a checkout of https://github.com/JCruan519/EGE-UNet, the published network runs in
turns with ours in the same process, and ratios are printed. Nothing of it is part of this package:
its file is imported as it lies there, and two names that it imports but does not use (einops,
timm's trunc_normal_) are replaced by empty ones. Loss and loader are written here after it: each
image is decoded, scaled, turned by torchvision and resized anew, in the main process.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from egeunet.compat import mend_torchvision

mend_torchvision()
from torchvision.transforms import functional

from egeunet.data.augment import Augmentation
from egeunet.data.cache import load_arrays
from egeunet.data.datasets import Sample, open_folder
from egeunet.data.loader import Loader
from egeunet.data.splits import split_dataset
from egeunet.environment import environment
from egeunet.evaluation.report import append_result
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
        loss = loss_of(model(images), masks).total
        loss.backward()
        optimizer.step()
        kernels.usable = usable
        return loss.item()

    return model, step


def official_network(checkout: Path) -> nn.Module:
    """The published network, from the file in the checkout."""
    for name in ("einops", "timm", "timm.models", "timm.models.layers"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["einops"].rearrange = None
    sys.modules["timm.models.layers"].trunc_normal_ = None
    path = checkout / "models" / "egeunet.py"
    spec = importlib.util.spec_from_file_location("official_egeunet", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EGEUNet()


def official_step(checkout: Path) -> tuple[nn.Module, Step]:
    """The published step: eager, BCE + Dice on six probability maps."""
    model = official_network(checkout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def term(p: Tensor, y: Tensor) -> Tensor:
        p, y = p.flatten(1), y.flatten(1)
        dice = (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)
        return F.binary_cross_entropy(p, y) + 1 - dice.mean()

    def step(images: Tensor, masks: Tensor) -> float:
        optimizer.zero_grad()
        stages, output = model(images)
        loss = term(output, masks)
        for weight, stage in zip(STAGE_WEIGHTS, stages, strict=True):
            loss = loss + weight * term(stage, masks)
        loss.backward()
        optimizer.step()
        return loss.item()

    return model, step


def published_batches(samples: list[Sample], train: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in the way of the published loader, operation by operation."""
    for start in range(0, len(samples), BATCH):
        pairs = [published_sample(sample, train) for sample in samples[start : start + BATCH]]
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


def seconds(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(works: dict[str, Callable[[], Any]], repeats: int, warm: int) -> dict[str, dict]:
    """Time several pieces of work in turns, so that they share whatever else the machine does."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + warm):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {
        name: {
            "median": statistics.median(values[warm:]),
            "min": min(values[warm:]),
            "max": max(values[warm:]),
            "n": repeats,
        }
        for name, values in times.items()
    }


def main() -> None:
    """Time everything, print it and, with --record, keep it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a dataset folder")
    parser.add_argument("--official", type=Path, help="a checkout of the published code")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--epoch-images", type=int, default=400, help="images of the timed epoch")
    parser.add_argument("--record", type=Path, help="a .jsonl file to add the row to")
    arguments = parser.parse_args()

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
    loader = Loader(arrays, batch_size=BATCH, augmentation=Augmentation(), workers=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = Loader(arrays, batch_size=BATCH, augmentation=Augmentation())
    loading = {"ours": lambda: [None for _ in alone.epoch()]}
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
    row["epoch"] = alternate(works, 2, warm=0)

    @torch.inference_mode()
    def score(network: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        network.eval()
        for images, _ in batches:
            network(images)
        network.train()

    def ours() -> Iterator[tuple[Tensor, Tensor]]:
        evaluation = Loader(test_arrays, batch_size=BATCH, workers=1)
        return ((batch.images, batch.masks) for batch in evaluation.epoch())

    works = {"ours": lambda: score(model, ours())}
    if arguments.official:
        works["published"] = lambda: score(published, published_batches(test, False))
    row["evaluation"] = alternate(works, 2, warm=0)

    for part in ("step", "loader", "epoch", "evaluation"):
        print(f"{part}:")
        for name, timing in row[part].items():
            ratio = row[part].get("published", timing)["median"] / timing["median"]
            row[part][name]["times_published"] = ratio
            print(f"  {name:22} {timing['median'] * 1e3:9.1f} ms   {ratio:5.2f} × published")
    if arguments.record:
        append_result(arguments.record, {**row, **environment()})


if __name__ == "__main__":
    main()
