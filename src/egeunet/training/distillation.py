"""Earlier runs that a training learns from: weights to start with, and the masks of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from egeunet.data.cache import Arrays
from egeunet.data.loader import SOFT_STEPS, Loader
from egeunet.data.splits import Split
from egeunet.errors import UsageError
from egeunet.files import sha256_file
from egeunet.reporting import Reporter
from egeunet.training.config import Recipe
from egeunet.training.provenance import SELECTED, TRAINED, merge, seen_in, write_earlier
from egeunet.training.run import Run, load_run, network_options, weights_file


def pin_runs(recipe: Recipe) -> Recipe:
    """Return the recipe with the SHA-256 of the weights of every run it names.

    Raises:
        UsageError: If there are no such weights, or the recipe names others.
    """
    distill, start = recipe.distill, recipe.start
    if distill.teachers:
        expected = _several(distill.sha256) or (None,) * len(distill.teachers)
        if len(expected) != len(distill.teachers):
            raise UsageError("distill.sha256: give one for each teacher, or none.")
        pairs = zip(distill.teachers, expected, strict=True)
        found = tuple(_pin("distill.teacher", folder, sha256) for folder, sha256 in pairs)
        # A list of one teacher is the recipe with that teacher.
        distill = distill.model_copy(update={"sha256": found if len(found) > 1 else found[0]})
    if start.run:
        sha256 = _pin("start.run", start.run, start.sha256)
        start = start.model_copy(update={"sha256": sha256})
    return recipe.model_copy(update={"distill": distill, "start": start})


def _several(sha256: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (sha256,) if isinstance(sha256, str) else sha256 or ()


def _pin(setting: str, folder: Path, expected: str | None) -> str:
    weights = weights_file(folder)
    if not weights.is_file():
        raise UsageError(
            f"{setting}: {folder} is not a run folder with weights: train it first, name another, "
            f"or do without it ({setting}=null)."
        )
    found = sha256_file(weights)
    if expected not in (None, found):
        section = setting.partition(".")[0]
        raise UsageError(
            f"{weights} has the SHA-256 {found}, but {section}.sha256 is {expected}: name the run "
            f"that the recipe was made with, or leave {section}.sha256 out."
        )
    return found


def start_from(model: nn.Module, recipe: Recipe, dataset: str, split: Split) -> None:
    """Give a network the weights that its recipe starts from, if it names any.

    Args:
        model: The network of the recipe.
        recipe: Of the new run.
        dataset: The name of its dataset.
        split: Of its dataset.

    Raises:
        UsageError: If they are of another network, or know the answers of the validation or test
            part.
    """
    if recipe.start.run is None:
        return
    run = load_run(recipe.start.run)
    theirs, ours = (
        (one.system, one.data.num_classes, network_options(one)) for one in (run.recipe, recipe)
    )
    if theirs != ours:
        raise UsageError(
            f"start.run: {run.folder} holds {theirs[0]} of {theirs[1]} classes with options "
            f"{theirs[2]}, not {ours[0]} of {ours[1]} with {ours[2]}."
        )
    _check_innocence(run, recipe, dataset, split)
    model.load_state_dict(run.model.state_dict())


def open_teachers(recipe: Recipe, dataset: str, split: Split) -> list[nn.Module]:
    """Return the teachers' networks, in eval mode; none if the recipe has no teacher.

    Each takes images of the student's size and looks at them at its own.

    Args:
        recipe: Of the student.
        dataset: The name of the student's dataset.
        split: Of the student's dataset.

    Raises:
        UsageError: If a teacher draws classes, or knows the answers of the student's validation or
            test part.
    """
    if recipe.distill.teachers and recipe.data.num_classes > 1:
        raise UsageError("distill.teacher: only networks of one foreground can be distilled.")
    models = []
    for folder in recipe.distill.teachers:
        run = load_run(folder)
        classes, shape = run.recipe.data.num_classes, run.recipe.data.shape
        if classes > 1:
            raise UsageError(
                f"The teacher {run.folder} draws {classes} classes: take one of one foreground."
            )
        _check_innocence(run, recipe, dataset, split)
        models.append(run.model if shape == recipe.data.shape else _AtSize(run.model, shape))
    return models


class _AtSize(nn.Module):
    """A network that looks at images of any size as at those it was trained on."""

    def __init__(self, model: nn.Module, shape: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.shape = model, shape

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, 1, H, W)."""
        shown = F.interpolate(images, self.shape, mode="bilinear", antialias=True)
        return F.interpolate(self.model(shown), images.shape[-2:], mode="bilinear")


def describe_earlier(recipe: Recipe) -> None:
    """Write into the run folder which photos the runs that its recipe names know."""
    earlier = [run for run in (recipe.start.run, *recipe.distill.teachers) if run]
    if earlier:
        write_earlier(recipe.out, merge(*(load_run(run).seen for run in earlier)))


def _check_innocence(run: Run, recipe: Recipe, dataset: str, split: Split) -> None:
    """Refuse an earlier run that knows what the new one is scored on."""
    known = seen_in(run.seen, dataset)
    val, test = ({sample.id for sample in part} for part in (split.val, split.test))
    told = {id for id in val | test if known.get(id) == TRAINED}
    if recipe.data.protocol != "paper":  # which selects on its test part itself
        told |= {id for id in test if known.get(id) == SELECTED}
    if told:
        raise UsageError(
            f"{run.folder} was trained or selected on {len(told)} of the {len(val | test)} images "
            f"that this run is scored on, such as {min(told)}: take one of the same protocol."
        )


@torch.no_grad()
def draw_soft_masks(
    teachers: Sequence[nn.Module], arrays: Arrays, fabric: Fabric, reporter: Reporter
) -> NDArray[np.uint8]:
    """Return the teachers' masks of all samples, once for the whole training.

    The mean of all teachers and four mirror images, as they are and not as the student will see
    them: a teacher is at its best there, and a step of the student costs no more than without one.

    Args:
        teachers: Networks in eval mode, from images as the `Loader` gives them to one logit.
        arrays: The samples.
        fabric: Places and precision.
        reporter: Hears of the progress.

    Returns:
        uint8 (N, H, W), probabilities in steps of 1/127.
    """
    networks = [fabric.setup_module(teacher) for teacher in teachers]
    loader = Loader(arrays, device=fabric.device)
    masks: list[NDArray[np.uint8]] = []
    with reporter.bar("the teacher's masks", len(loader)) as bar:
        for batch in loader.epoch():
            views = [
                torch.sigmoid(network(batch.images.flip(axes)).float()).flip(axes)
                for network in networks
                for axes in ((), (2,), (3,), (2, 3))
            ]
            mean = torch.stack(views).mean(0)[:, 0]
            masks.append((mean * SOFT_STEPS).round().to(torch.uint8).cpu().numpy())
            bar.advance()
    return np.concatenate(masks)
