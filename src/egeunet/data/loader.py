"""Load training and validation batches from the cached arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egeunet.data.augmentation.artifacts import degrade, synthetic_hair, to_bytes, to_floats
from egeunet.data.augmentation.color import recolor
from egeunet.data.augmentation.geometry import Augmentation, extremes, transform
from egeunet.data.cache import Arrays
from egeunet.inference.prefetch import prefetch_map

SOFT_STEPS = 127  # of a teacher's probability: seven bits, beside the mask's one


@dataclass(frozen=True)
class Batch:
    """The input of one training step.

    Attributes:
        ids: Ids of the samples, in order.
        images: float32 (B, 3, H, W), each min–max normalized to 0…255.
        masks: float32 (B, 1, H, W) of 0 and 1, or int64 class indices (B, H, W).
        soft: float32 (B, 1, H, W), a teacher's probabilities with the geometry of the masks; None
            without a teacher.
    """

    ids: tuple[str, ...]
    images: Tensor
    masks: Tensor
    soft: Tensor | None = None


def scale_batch(images: Tensor) -> Tensor:
    """Scale uint8 (B, H, W, 3) to float32 (B, 3, H, W), each image min–max to 0…255.

    The same values as `egeunet.inference.preprocess.min_max_normalize`, for a batch on any device.
    """
    low, factor = extremes(images)
    return ((images.float() - low) * factor).permute(0, 3, 1, 2)


@dataclass(eq=False)
class Loader:
    """Load batches: the same seed, epoch and step give the same batch in any run.

    Args:
        arrays: The samples.
        num_classes: Decides the form of the masks; see `Batch`.
        batch_size: Samples per batch; the last batch of an epoch may be smaller.
        augmentation: None gives the samples unchanged, in order.
        seed: Seed of the order and the augmentation.
        device: Device of the batches.
        workers: Threads that prepare batches in advance; 0 prepares each when it is requested.
        soft: uint8 (N, H, W), a teacher's foreground probabilities in steps of 1/127; only with
            binary masks.
        rank: Rank of this process. With augmentation each rank gets its rows of every batch, with
            the same augmentation as on one process; a batch that cannot be divided (the last of an
            epoch) goes to all ranks. Without, whole batches are dealt out in turn.
        ranks: Number of processes.
    """

    arrays: Arrays
    _: KW_ONLY
    num_classes: int = 1
    batch_size: int = 8
    augmentation: Augmentation | None = None
    seed: int = 0
    device: torch.device | str = "cpu"
    workers: int = 0
    soft: NDArray[np.uint8] | None = None
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        self._angle = None
        if self.augmentation and self.augmentation.angle == "once":
            self._angle = float(np.random.default_rng(self.seed).uniform(0, 360))
        # On the CPU these are the mapped files; another device holds all bytes, so that nothing is
        # copied to it during an epoch.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            self._images = torch.from_numpy(self.arrays.images).to(self.device)
            self._masks = torch.from_numpy(self.arrays.masks).to(self.device)
        if self.soft is not None:  # one byte holds both, so that they get the same geometry
            self._masks = self._masks | torch.from_numpy(self.soft).to(self.device) << 1

    def __len__(self) -> int:
        return len(self._steps(0))

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, starting at step `start`."""

        def prepare(step: int) -> Batch:
            return self._batch(order[step], np.random.default_rng((self.seed, number, step)))

        order, steps = self._order(number), self._steps(start)
        if not self.workers:
            return map(prepare, steps)
        return prefetch_map(prepare, steps, threads=self.workers, limit=self.workers + 1)

    def ids(self, number: int, step: int) -> tuple[str, ...]:
        """Return the ids of the samples of a step, over all ranks."""
        return tuple(self.arrays.ids[index] for index in self._order(number)[step])

    def _steps(self, start: int) -> range:
        end = -(-len(self.arrays.ids) // self.batch_size)
        return range(start, end) if self.augmentation else range(start + self.rank, end, self.ranks)

    def _order(self, number: int) -> list[NDArray[np.int64]]:
        """Return the indices of the samples of each step of an epoch."""
        order: NDArray[np.int64] = np.arange(len(self.arrays.ids))
        if self.augmentation:
            order = np.random.default_rng((self.seed, number)).permutation(order)
        return np.split(order, range(self.batch_size, len(order), self.batch_size))

    def _batch(self, chosen: NDArray[np.int64], generator: np.random.Generator) -> Batch:
        index = torch.from_numpy(chosen).to(self.device)
        images, masks = (array.index_select(0, index) for array in (self._images, self._masks))
        maps = None
        if (augmentation := self.augmentation) is not None:
            count = len(chosen)
            rows = self._rows(count)
            maps = augmentation.sample_maps(self.arrays.aspects[chosen], generator, self._angle)
            maps = maps[rows]
            for place in np.flatnonzero(generator.random(count) < augmentation.hair):
                hairy = synthetic_hair(generator, to_floats(images[place].cpu().numpy()))
                images[place] = torch.from_numpy(to_bytes(hairy))
            curves = augmentation.sample_colors(count, generator)
            seeds = generator.integers(1 << 32, size=count)[rows]
            chosen, images, masks = chosen[rows], images[rows], masks[rows]
            if curves is not None:
                images = recolor(images, curves[rows])
            if augmentation.light or augmentation.camera:
                degraded = [
                    degrade(
                        np.random.default_rng(seed), image, augmentation.light, augmentation.camera
                    )
                    for seed, image in zip(seeds, images.cpu().numpy(), strict=True)
                ]
                images = torch.from_numpy(np.stack(degraded)).to(self.device)
        images, masks = transform(images, masks, maps)
        soft = None
        if self.soft is not None:
            soft, masks = (masks >> 1).unsqueeze(1) / SOFT_STEPS, masks & 1
        return Batch(
            ids=tuple(self.arrays.ids[index] for index in chosen),
            images=images,
            masks=masks.unsqueeze(1).float() if self.num_classes == 1 else masks.long(),
            soft=soft,
        )

    def _rows(self, count: int) -> slice:
        """Return the rows of this rank in a batch of `count` samples."""
        if count % self.ranks:
            return slice(count)
        size = count // self.ranks
        return slice(self.rank * size, (self.rank + 1) * size)
