"""Batches for the network out of the arrays of the cache."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egeunet.data.augmentation.camera import disturb
from egeunet.data.augmentation.color import recolour
from egeunet.data.augmentation.geometry import Augmentation, extremes, transform
from egeunet.data.cache import Arrays
from egeunet.data.synthetic.artifacts import hairy

SOFT_STEPS = 127  # of a teacher's probability: seven bits, beside the mask's one


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    Attributes:
        ids: Which samples, in order.
        images: float32 (B, 3, H, W), each scaled min–max to 0…255.
        masks: float32 (B, 1, H, W) of 0 and 1, or int64 class indices (B, H, W).
        soft: float32 (B, 1, H, W), a teacher's probabilities, moved as the masks are; None if there
            is no teacher.
    """

    ids: tuple[str, ...]
    images: Tensor
    masks: Tensor
    soft: Tensor | None = None


def scale_batch(images: Tensor) -> Tensor:
    """Scale uint8 (B, H, W, 3) to float32 (B, 3, H, W), each image min–max to 0…255.

    The same values as `egeunet.inference.preprocess.scale`, for a batch on any device.
    """
    low, factor = extremes(images)
    return ((images.float() - low) * factor).permute(0, 3, 1, 2)


class Loader:
    """Draws batches; the same seed, epoch and step give the same batch at any time, in any run.

    Args:
        arrays: The samples.
        num_classes: Decides the form of the masks; see `Batch`.
        batch_size: Samples per batch; the last one of an epoch may be smaller.
        augmentation: None takes the samples in order and as they are.
        seed: Start of all random numbers.
        device: Where the batches shall be.
        workers: Threads that prepare batches ahead; 0 prepares each when it is asked for.
        soft: uint8 (N, H, W), a teacher's probabilities of the foreground in steps of 1/127; the
            masks have to be of one foreground.
        rank: Which of several processes this loader is for. With augmentation each of them gets its
            part of every batch, drawn as the whole is; one that cannot be divided (the last of an
            epoch) goes to all as a whole. Without, whole batches are dealt out in turn.
        ranks: How many processes there are.
    """

    def __init__(
        self,
        arrays: Arrays,
        *,
        num_classes: int = 1,
        batch_size: int = 8,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        workers: int = 0,
        soft: NDArray[np.uint8] | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.arrays = arrays
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.device = torch.device(device)
        self.workers = workers
        self.rank, self.ranks = rank, ranks
        # On the CPU these are the mapped files themselves; another device holds the bytes whole,
        # so that nothing is copied to it during an epoch.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self._images = torch.from_numpy(arrays.images).to(self.device)
            self._masks = torch.from_numpy(arrays.masks).to(self.device)
        # A byte has room for both, so that what moves a mask moves them together.
        self._soft = soft is not None
        if soft is not None:
            self._masks = self._masks | torch.from_numpy(soft).to(self.device) << 1

    def __len__(self) -> int:
        return len(self._steps(0))

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from step `start` on."""
        order = self._order(number)

        def prepare(step: int) -> Batch:
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            return self._batch(chosen, np.random.default_rng((self.seed, number, step)))

        steps = self._steps(start)
        return _ahead(prepare, steps, self.workers) if self.workers else map(prepare, steps)

    def ids(self, number: int, step: int) -> tuple[str, ...]:
        """Return which samples a step of an epoch is made of, on all ranks."""
        chosen = self._order(number)[step * self.batch_size : (step + 1) * self.batch_size]
        return tuple(self.arrays.ids[index] for index in chosen)

    def _steps(self, start: int) -> range:
        end = -(-len(self.arrays.ids) // self.batch_size)
        return range(start, end) if self.augmentation else range(start + self.rank, end, self.ranks)

    def _order(self, number: int) -> NDArray[np.int64]:
        order: NDArray[np.int64] = np.arange(len(self.arrays.ids))
        if self.augmentation:
            order = np.random.default_rng((self.seed, number)).permutation(order)
        return order

    def _batch(self, chosen: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        index = torch.from_numpy(chosen).to(self.device)
        images, masks = (part.index_select(0, index) for part in (self._images, self._masks))
        maps = None
        if self.augmentation:
            own = self._part(len(chosen))
            maps = self.augmentation.draw(self.arrays.aspects[chosen], generator)[own]
            for place in np.flatnonzero(generator.random(len(chosen)) < self.augmentation.hair):
                images[place] = torch.from_numpy(hairy(generator, images[place].cpu().numpy()))
            colours = self.augmentation.draw_colours(len(chosen), generator)
            seeds = generator.integers(1 << 32, size=len(chosen))[own]
            chosen, images, masks = chosen[own], images[own], masks[own]
            images = recolour(images, colours[own]) if colours else images
            images = _photographed(images, self.augmentation, seeds)
        images, masks = transform(images, masks, maps)
        soft = None
        if self._soft:
            soft, masks = (masks >> 1).unsqueeze(1) / SOFT_STEPS, masks & 1
        return Batch(
            ids=tuple(self.arrays.ids[index] for index in chosen),
            images=images,
            masks=masks.unsqueeze(1).float() if self.num_classes == 1 else masks.long(),
            soft=soft,
        )

    def _part(self, count: int) -> slice:
        """The rows of this rank in a batch of so many samples."""
        if count % self.ranks:
            return slice(count)
        rows = count // self.ranks
        return slice(self.rank * rows, (self.rank + 1) * rows)


def _photographed(images: Tensor, augmentation: Augmentation, seeds: NDArray[np.int64]) -> Tensor:
    """Images uint8 (B, H, W, 3) as worse light and cameras might have taken them."""
    light, camera = augmentation.light, augmentation.camera
    if not (light or camera):
        return images
    photos = [
        disturb(np.random.default_rng(seed), photo, light, camera)
        for seed, photo in zip(seeds, images.cpu().numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(photos)).to(images.device)


def _ahead(prepare: Callable[[int], Batch], steps: range, workers: int) -> Iterator[Batch]:
    """Yield `prepare(step)` in order while threads work on the next ones."""
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Batch]] = deque()
    try:
        for step in steps:
            waiting.append(pool.submit(prepare, step))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
