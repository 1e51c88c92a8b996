"""The teacher of a distillation: a run whose masks are a further target."""

from __future__ import annotations

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from egeunet.data.cache import Arrays
from egeunet.data.loader import SOFT_STEPS, Loader
from egeunet.data.splits import Split
from egeunet.errors import UsageError
from egeunet.files import sha256_file
from egeunet.reporting import Reporter
from egeunet.training.checkpoint import WEIGHTS
from egeunet.training.recipe import Recipe
from egeunet.training.run import load_run, shared_parts


def pin_teacher(recipe: Recipe) -> Recipe:
    """Return the recipe with the SHA-256 of its teacher's weights, if it has a teacher.

    Raises:
        UsageError: If there are no such weights, or the recipe names others.
    """
    settings = recipe.distill
    if settings.teacher is None:
        return recipe
    weights = settings.teacher / WEIGHTS
    if not weights.is_file():
        raise UsageError(f"distill.teacher: {settings.teacher} is not a run folder with weights.")
    found = sha256_file(weights)
    if settings.sha256 not in (None, found):
        raise UsageError(
            f"{weights} has the SHA-256 {found}, but distill.sha256 is {settings.sha256}: name the "
            "run that the recipe was made with, or leave distill.sha256 out."
        )
    pinned = settings.model_copy(update={"sha256": found})
    return recipe.model_copy(update={"distill": pinned})


def open_teacher(recipe: Recipe, dataset: str, split: Split) -> nn.Module | None:
    """Return the teacher's network, frozen, in eval mode; None if the recipe has no teacher.

    Args:
        recipe: Of the student.
        dataset: The name of the student's dataset.
        split: Of the student's dataset.

    Raises:
        UsageError: If the teacher draws other masks, or knows the answers of the student's
            validation or test part.
    """
    if recipe.distill.teacher is None:
        return None
    if recipe.data.num_classes > 1:
        raise UsageError("distill.teacher: only networks of one foreground can be distilled.")
    run = load_run(recipe.distill.teacher)
    theirs, ours = run.recipe.data, recipe.data
    if (theirs.shape, theirs.num_classes) != (ours.shape, 1):
        raise UsageError(
            f"The teacher {run.folder} draws {theirs.num_classes} classes at {theirs.shape}, not "
            f"one foreground at {ours.shape}: set data.size as there, or take another."
        )
    learned_from = {"train"}
    if theirs.protocol == "paper" and ours.protocol != "paper":
        learned_from.add("test")  # its checkpoint was selected there
    known = shared_parts(run, dataset)
    held = {sample.id for sample in (*split.val, *split.test)}
    told = sorted(id for id in held if known.get(id) in learned_from)
    if told:
        raise UsageError(
            f"The teacher {run.folder} was trained or selected on {len(told)} of the {len(held)} "
            f"images that this run is scored on, such as {told[0]}: take one of the same protocol."
        )
    return run.model


@torch.no_grad()
def draw_soft_masks(
    teacher: nn.Module, arrays: Arrays, fabric: Fabric, reporter: Reporter
) -> NDArray[np.uint8]:
    """Return a teacher's masks of all samples, once for the whole training.

    The mean over four mirror images of each, as they are and not as the student will see them: the
    teacher is at its best there, and a step of the student costs no more than without one.

    Args:
        teacher: A network in eval mode, from images as the `Loader` gives them to one logit.
        arrays: The samples.
        fabric: Places and precision.
        reporter: Hears of the progress.

    Returns:
        uint8 (N, H, W), probabilities in steps of 1/127.
    """
    network = fabric.setup_module(teacher)
    loader = Loader(arrays, device=fabric.device)
    masks: list[NDArray[np.uint8]] = []
    with reporter.bar("the teacher's masks", len(loader)) as bar:
        for batch in loader.epoch():
            views = [
                torch.sigmoid(network(batch.images.flip(axes)).float()).flip(axes)
                for axes in ((), (2,), (3,), (2, 3))
            ]
            mean = torch.stack(views).mean(0)[:, 0]
            masks.append((mean * SOFT_STEPS).round().to(torch.uint8).cpu().numpy())
            bar.advance()
    return np.concatenate(masks)
