"""Earlier runs that a recipe names: their SHA-256, initial weights, and what they have seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from egeunet.data.splits import Split
from egeunet.errors import UsageError
from egeunet.files import sha256_file
from egeunet.training.config import Recipe
from egeunet.training.provenance import SELECTED, TRAINED, merge, seen_in, write_earlier
from egeunet.training.run import Run, load_run, model_options, weights_file


def pin_runs(recipe: Recipe) -> Recipe:
    """Return the recipe with the SHA-256 of the weights of every run it names.

    Raises:
        UsageError: If a run has no weights, or others than the recipe records.
    """
    distill, start = recipe.distill, recipe.start
    if distill.teachers:
        found = _pin("distill.teacher", distill.teachers, distill.sha256)
        # A list of one teacher is the recipe with that teacher.
        distill = distill.model_copy(update={"sha256": found if len(found) > 1 else found[0]})
    if start.run:
        (sha256,) = _pin("start.run", [start.run], start.sha256)
        start = start.model_copy(update={"sha256": sha256})
    return recipe.model_copy(update={"distill": distill, "start": start})


def _pin(
    setting: str, folders: Sequence[Path], expected: str | tuple[str, ...] | None
) -> tuple[str, ...]:
    key = f"{setting.partition('.')[0]}.sha256"
    recorded = (expected,) if isinstance(expected, str) else expected or (None,) * len(folders)
    if len(recorded) != len(folders):
        raise UsageError(f"{key}: give one for each teacher, or none.")
    found = []
    for folder, sha256 in zip(folders, recorded, strict=True):
        file = weights_file(folder)
        if not file.is_file():
            raise UsageError(
                f"{setting}: {folder} is not a run folder with weights: train it first, name "
                f"another, or leave it out ({setting}=null)."
            )
        found.append(sha256_file(file))
        if sha256 not in (None, found[-1]):
            raise UsageError(
                f"{file} has the SHA-256 {found[-1]}, but {key} is {sha256}: name the run that the "
                f"recipe was made with, or leave {key} out."
            )
    return tuple(found)


def load_initial_weights(model: nn.Module, recipe: Recipe, dataset: str, split: Split) -> None:
    """Load the weights of `start.run` into a model, if the recipe names a run.

    Args:
        model: The model of the recipe.
        recipe: Recipe of the new run.
        dataset: Name of its dataset.
        split: Split of its dataset.

    Raises:
        UsageError: If they are of another model, or see `check_unseen`.
    """
    if recipe.start.run is None:
        return
    run = load_run(recipe.start.run)
    theirs, ours = (
        (one.model, one.data.num_classes, model_options(one)) for one in (run.recipe, recipe)
    )
    if theirs != ours:
        raise UsageError(
            f"start.run: {run.folder} holds {theirs[0]} with {theirs[1]} classes and options "
            f"{theirs[2]}, not {ours[0]} with {ours[1]} and {ours[2]}."
        )
    check_unseen(run, recipe, dataset, split)
    model.load_state_dict(run.model.state_dict())


def check_unseen(run: Run, recipe: Recipe, dataset: str, split: Split) -> None:
    """Refuse an earlier run that has seen images which the new run is scored on.

    Raises:
        UsageError: If it was trained on images of the validation or test split, or selected on
            images of the test split.
    """
    known = seen_in(run.seen, dataset)
    val, test = ({sample.id for sample in part} for part in (split.val, split.test))
    leaked = {id for id in val | test if known.get(id) == TRAINED}
    if recipe.data.protocol != "paper":  # which selects on its test split itself
        leaked |= {id for id in test if known.get(id) == SELECTED}
    if leaked:
        raise UsageError(
            f"{run.folder} was trained or selected on {len(leaked)} of the {len(val | test)} "
            f"images that this run is scored on, such as {min(leaked)}: use one of the same "
            "protocol."
        )


def record_earlier(recipe: Recipe) -> None:
    """Write into the run folder which images the runs that the recipe names have seen."""
    earlier = [run for run in (recipe.start.run, *recipe.distill.teachers) if run]
    if earlier:
        write_earlier(recipe.out, merge(*(load_run(run).seen for run in earlier)))
