"""Run folders: what a training writes, and reading it back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from egeunet.data.datasets import Dataset, open_dataset, open_folder
from egeunet.data.splits import Split, format_list, parse_list, shipped_list, split_dataset
from egeunet.environment import environment
from egeunet.errors import EgeunetError, UsageError
from egeunet.files import atomic_write, read_json, read_text, write_json
from egeunet.inference.weights import find_shipped
from egeunet.models.registry import create_model
from egeunet.training.checkpoints import (
    LAST,
    PREVIOUS,
    WEIGHTS,
    first_line,
    load_checkpoint,
    load_weights,
)
from egeunet.training.config import DataSettings, Recipe
from egeunet.training.history import read_history
from egeunet.training.provenance import Seen, merge, read_earlier, seen_of
from egeunet.training.recipe import flatten, load_recipe

SPLIT, ENVIRONMENT = "split.txt", "environment.json"


@dataclass(frozen=True)
class Run:
    """A trained model.

    Attributes:
        folder: Run folder.
        recipe: Settings of the training.
        dataset: Name of the dataset it was trained on.
        model: The model in eval mode, on the CPU.
        epoch: Epoch of its weights, counted from 1.
        seconds: Duration of the training.
    """

    folder: Path
    recipe: Recipe
    dataset: str
    model: nn.Module
    epoch: int
    seconds: float

    @property
    def parts(self) -> dict[str, str]:
        """Id → split of the samples it was trained and selected on; see `read_parts`."""
        if (self.folder / SPLIT).is_file():
            return read_parts(self.folder)
        return shipped_list(self.dataset, self.recipe.data.protocol)

    @property
    def seen(self) -> Seen:
        """Images that it and the runs it learned from were trained or selected on."""
        return merge(seen_of(self.dataset, self.parts), read_earlier(self.folder))


def check_finished(run: Run) -> None:
    """Refuse a run that has epochs left.

    Raises:
        UsageError: If it has.
    """
    done, epochs = len(read_history(run.folder)), run.recipe.trainer.epochs
    if done < epochs:
        raise UsageError(
            f"{run.folder} has {done} of its {epochs} epochs: finish it with `egeunet train "
            f"{run.folder / 'recipe.yaml'} --resume`, or evaluate it without recording the result."
        )


def read_environment(folder: Path) -> dict[str, Any]:
    """Return machine, versions and command recorded when a run began; empty if none are."""
    file = folder / ENVIRONMENT
    return read_json(file) if file.is_file() else {}


def weights_file(run: Path) -> Path:
    """Return the safetensors file of a run folder, or of shipped weights by their name."""
    return find_shipped(run, ".safetensors") or run / WEIGHTS


def load_run(folder: str | Path, *, last: bool = False) -> Run:
    """Load a run folder.

    Args:
        folder: Run folder, or name of shipped weights.
        last: Load the weights of the last epoch instead of the selected one.

    Raises:
        UsageError: If it is not a run folder.
        EgeunetError: If its files are missing or damaged.
    """
    folder = Path(folder)
    file = weights_file(folder)
    if file.name == WEIGHTS:
        if not (folder / "recipe.yaml").is_file():
            raise UsageError(f"{folder} is not a run folder: it has no recipe.yaml.")
        recipe = load_recipe(folder / "recipe.yaml")
        state, metadata = load_weights(file)
    else:
        state, metadata = load_weights(file)
        recipe = Recipe.model_validate_json(metadata["recipe"])
    try:
        epoch, dataset = int(metadata["epoch"]), metadata["dataset"]
    except (KeyError, ValueError) as error:
        raise EgeunetError(
            f"{file} was not written by `egeunet train`: its metadata has no epoch or dataset."
        ) from error
    if last:
        checkpoint = load_checkpoint(folder)
        if checkpoint is None:
            raise EgeunetError(f"{folder} has no checkpoint: the training has not saved any.")
        file, state = folder / LAST, checkpoint["average"] or checkpoint["model"]
        epoch = checkpoint["epoch"]
    try:
        with torch.random.fork_rng(devices=[]):
            model = create_model(
                recipe.model, num_classes=recipe.data.num_classes, **model_options(recipe)
            )
        model.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError, MemoryError) as error:
        raise EgeunetError(
            f"{file} does not fit the model of {folder / 'recipe.yaml'} ({first_line(error)}): use "
            "a run folder whose files belong together."
        ) from error
    seconds = sum(row["seconds"] for row in read_history(folder))
    return Run(folder, recipe, dataset, model.eval(), epoch, seconds)


def model_options(recipe: Recipe) -> dict[str, Any]:
    """Return the options of a model whose weights are replaced at once: none are downloaded."""
    return {key: value for key, value in recipe.options.items() if key != "pretrained"}


def open_split(data: DataSettings) -> tuple[Dataset, Split]:
    """Open the dataset that a recipe names and split it by its protocol.

    Raises:
        UsageError: If the recipe names neither a dataset nor a folder.
    """
    if data.name:
        dataset = open_dataset(data.name, data.root)
    elif data.root:
        dataset = open_folder(data.root)
    else:
        raise UsageError("No data: set data.name (see `egeunet data list`) or data.root=FOLDER.")
    return dataset, split_dataset(dataset, data.protocol)


def read_parts(folder: Path) -> dict[str, str]:
    """Return id → split of the samples a run was trained and selected on, as it recorded them.

    Raises:
        EgeunetError: If the file is damaged.
    """
    try:
        return parse_list(read_text(folder / SPLIT))
    except ValueError as error:
        raise EgeunetError(f"{folder / SPLIT} is not the split of a training ({error}).") from error


def check_folder(recipe: Recipe, resume: bool) -> Path:
    """Return the run folder of a recipe if this training may write to it.

    Raises:
        UsageError: If it holds a run and `resume` is off, or a run with other settings.
    """
    folder = recipe.out
    recorded = folder / "recipe.yaml"
    if not recorded.exists() or not _has_checkpoint(folder):  # a run that never began
        return folder
    if not resume:
        raise UsageError(
            f"{folder} already holds a run: add --resume to continue it, or choose another "
            "out=FOLDER."
        )
    before = load_recipe(recorded)
    if before.hash() != recipe.hash():
        old, new = flatten(before), flatten(recipe)
        changed = [key for key in old | new if old.get(key) != new.get(key)]
        differences = ", ".join(f"{k}: {old.get(k)} there, {new.get(k)} here" for k in changed)
        raise UsageError(
            f"{folder} was trained with other settings ({differences}): resume with the same ones, "
            "or choose another out=FOLDER."
        )
    return folder


def _has_checkpoint(folder: Path) -> bool:
    return any((folder / name).exists() for name in (LAST, PREVIOUS, WEIGHTS))


def check_split(folder: Path, split: Split) -> None:
    """Refuse to resume a run whose images have changed.

    Raises:
        UsageError: If an image was added, is missing, or is in another split.
    """
    if not (folder / SPLIT).is_file() or not _has_checkpoint(folder):
        return
    before, now = read_parts(folder), split.split_of()
    changed = sorted(id for id in before.keys() | now.keys() if before.get(id) != now.get(id))
    if changed:
        raise UsageError(
            f"{len(changed)} images, such as {changed[0]}, were added, removed or moved to another "
            f"split since {folder} was begun: restore them, or choose another out=FOLDER."
        )


def record_setup(recipe: Recipe, dataset: Dataset, split: Split) -> None:
    """Write recipe, split and environment to the run folder; a resumed run keeps its environment.

    Raises:
        EgeunetError: If the folder cannot be written.
    """
    folder = recipe.out
    try:
        with atomic_write(folder / SPLIT) as temporary:
            text = format_list(dataset, recipe.data.protocol, 0, split)
            temporary.write_text(text, encoding="utf-8")
        if not (folder / ENVIRONMENT).exists() or not _has_checkpoint(folder):
            write_json(folder / ENVIRONMENT, environment())
        recipe.write(folder / "recipe.yaml")
    except OSError as error:
        raise EgeunetError(f"Cannot write the run folder {folder}: {error}.") from error
