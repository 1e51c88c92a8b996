"""Teachers of a training, and their soft masks of the training samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from egeunet.data.cache import Arrays
from egeunet.data.loader import SOFT_STEPS, Loader
from egeunet.data.splits import Split
from egeunet.errors import UsageError
from egeunet.progress import track
from egeunet.training.config import Recipe
from egeunet.training.init_from import check_unseen
from egeunet.training.run import load_run

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def load_teachers(recipe: Recipe, dataset: str, split: Split) -> list[nn.Module]:
    """Return the teachers' models in eval mode; none if the recipe has no teacher.

    Each takes images of the student's size and resizes them to its own.

    Args:
        recipe: Recipe of the student.
        dataset: Name of its dataset.
        split: Split of its dataset.

    Raises:
        UsageError: If student or teacher has several classes, or see `check_unseen`.
    """
    if recipe.distill.teachers and recipe.data.num_classes > 1:
        raise UsageError("distill.teacher: only models with one foreground class have a teacher.")
    models: list[nn.Module] = []
    for folder in recipe.distill.teachers:
        run = load_run(folder)
        classes, shape = run.recipe.data.num_classes, run.recipe.data.shape
        if classes > 1:
            raise UsageError(
                f"The teacher {run.folder} has {classes} classes: use one with one foreground."
            )
        check_unseen(run, recipe, dataset, split)
        models.append(run.model if shape == recipe.data.shape else _Resized(run.model, shape))
    return models


class _Resized(nn.Module):
    """A model that resizes images to the size it was trained on, and its logits back."""

    def __init__(self, model: nn.Module, shape: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.shape = model, shape

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, 1, H, W)."""
        resized = F.interpolate(images, self.shape, mode="bilinear", antialias=True)
        return F.interpolate(self.model(resized), images.shape[-2:], mode="bilinear")


@torch.no_grad()
def predict_soft_masks(
    teachers: Sequence[nn.Module], arrays: Arrays, fabric: Fabric
) -> NDArray[np.uint8]:
    """Return the teachers' mean probabilities over four mirrored views, once for all epochs.

    Args:
        teachers: Models in eval mode, from images as the `Loader` yields them to one logit.
        arrays: Samples, without augmentation.
        fabric: Device and precision.

    Returns:
        uint8 (N, H, W), in steps of 1/127.
    """
    models = [fabric.setup_module(teacher) for teacher in teachers]
    loader = Loader(arrays, device=fabric.device)
    masks: list[NDArray[np.uint8]] = []
    for batch in track(loader.epoch(), "teacher masks", len(loader)):
        views = [
            torch.sigmoid(model(batch.images.flip(axes)).float()).flip(axes)
            for model in models
            for axes in ((), (2,), (3,), (2, 3))
        ]
        mean = torch.stack(views).mean(0)[:, 0]
        masks.append((mean * SOFT_STEPS).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(masks)
