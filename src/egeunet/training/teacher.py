"""The teacher of a distillation: a run whose masks are a further target."""

from __future__ import annotations

from torch import nn

from egeunet.data.splits import Split
from egeunet.errors import UsageError
from egeunet.files import sha256_file
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
    run = load_run(recipe.distill.teacher)
    theirs, ours = run.recipe.data, recipe.data
    if (theirs.shape, theirs.num_classes) != (ours.shape, ours.num_classes):
        raise UsageError(
            f"The teacher {run.folder} draws {theirs.num_classes} classes at {theirs.shape}, not "
            f"{ours.num_classes} at {ours.shape}: set data.size and data.num_classes as there."
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
    return run.model.requires_grad_(False)
