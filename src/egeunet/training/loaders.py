"""The loaders of a training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from egeunet.data.augmentation.geometry import Augmentation
from egeunet.data.cache import Arrays, load_arrays
from egeunet.data.loader import Loader
from egeunet.data.splits import Split
from egeunet.reporting import Reporter
from egeunet.training.config import Recipe
from egeunet.training.distillation import draw_soft_masks, open_teachers
from egeunet.training.distributed import Ranks


def make_loaders(
    recipe: Recipe, dataset: str, split: Split, ranks: Ranks, reporter: Reporter
) -> tuple[Loader, Loader]:
    """Return this process' part of the training and the validation samples.

    Args:
        recipe: What to load, and the teachers whose masks go with the training samples, if any.
        dataset: The name of the dataset.
        split: Its parts.
        ranks: The processes that share the samples.
        reporter: Hears of the progress.

    Raises:
        EgeunetError: If the data are unusable, or the teacher is.
    """
    device, num_classes = ranks.fabric.device, recipe.data.num_classes

    teachers = open_teachers(recipe, dataset, split)
    arrays, val_arrays = (
        load_arrays(samples, recipe.data.shape, num_classes) for samples in (split.train, split.val)
    )
    soft = draw_soft_masks(teachers, arrays, ranks.fabric, reporter) if teachers else None

    def make(
        part: Arrays, augmentation: Augmentation | None, soft: NDArray[np.uint8] | None
    ) -> Loader:
        return Loader(
            part,
            num_classes=num_classes,
            batch_size=recipe.trainer.batch_size,
            augmentation=augmentation,
            seed=recipe.seed,
            device=device,
            workers=0 if device.type == "cuda" else recipe.workers,
            soft=soft,
            rank=ranks.rank,
            ranks=ranks.size,
        )

    return make(arrays, _augmentation(recipe), soft), make(val_arrays, None, None)


def _augmentation(recipe: Recipe) -> Augmentation:
    settings = recipe.augmentation
    angle = None
    if settings.angle == "once":
        angle = float(np.random.default_rng(recipe.seed).uniform(0, 360))
    return Augmentation(**settings.model_dump(exclude={"angle"}), angle=angle)
