"""Train and score the runs of experiment files that results do not hold yet."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from egeunet.api import evaluate
from egeunet.data.datasets import get_info
from egeunet.data.splits import Protocol
from egeunet.environment import count_cores, environment
from egeunet.errors import EgeunetError, UsageError
from egeunet.evaluation.results_store import read_results
from egeunet.models.registry import model_info
from egeunet.training.config import DataSettings, Recipe, Settings
from egeunet.training.history import read_history
from egeunet.training.init_from import pin_runs
from egeunet.training.launcher import default_at_once, train_side_by_side
from egeunet.training.recipe import explain_mistake, load_recipe, read_yaml
from egeunet.training.run import open_split
from egeunet.training.seeds import parse_seeds, split_seeds
from research.run_groups import recipe_of

_logger = logging.getLogger("egeunet.research")

RECORD = Path(__file__).parent / "results" / "runs.jsonl"
EPOCHS_SCORED = {"paper": ("selected", "last"), "holdout": ("selected",)}
"""Protocol: which weights of a run are scored."""

_SET_BY_FILES = {
    "seed": "give seeds=0-4 or seeds=3",
    "model": "list models in the experiment file",
    "out": "every run has a folder of its own, below --out",
}


class Experiment(Settings):
    """An entry of an experiment file: every model with every seed."""

    recipe: str = Field(description="A YAML file or the name of a shipped recipe")
    models: tuple[str, ...] = Field((), description="Names of `egeunet models`; the recipe's own")
    dataset: str | None = Field(None, description="A name of `egeunet data list`; the recipe's own")
    protocol: Protocol | None = Field(None, description="The recipe's own")
    seeds: int | str = Field(0, description="One, or several as 0-4 or 1,3")
    settings: tuple[str, ...] = Field((), description="key=value that override the recipe")
    split: Literal["val", "test"] = Field(
        "test", description="The split that is scored; val for trials that inform choices"
    )


@dataclass(frozen=True)
class Job:
    """A run of an experiment.

    Attributes:
        recipe: Its recipe, with its run folder.
        split: The split that is scored.
        missing: The weights ("selected", "last") without a row of results yet.
        lacks: What is wrong with the earlier runs it learns from, a sentence; empty if nothing.
        epochs_done: Finished epochs in its run folder.
        seconds: Estimated time of the rest of the training, from runs of this model on such a
            machine; None without any.
    """

    recipe: Recipe
    split: str
    missing: tuple[str, ...]
    lacks: str
    epochs_done: int
    seconds: float | None

    @property
    def state(self) -> str:
        """What is left to do, in two words."""
        if not self.missing:
            return "done"
        if self.lacks:
            return "waits for an earlier run"
        if self.epochs_done >= self.recipe.trainer.epochs:
            return "to score"
        return f"from epoch {self.epochs_done + 1}" if self.epochs_done else "to run"


def plan(
    files: Sequence[str | Path],
    *settings: str,
    out: str | Path = "runs/sweep",
    record: str | Path = RECORD,
) -> list[Job]:
    """Return every run of experiment files, each once, with what is left to do.

    A run is done if the `.jsonl` files beside `record` have its rows: the same recipe, dataset,
    protocol, split and weights. If the earlier runs it learns from are missing, rows that learned
    from any will do.

    Args:
        files: YAML files, each a list of `Experiment`.
        *settings: `key=value` for every run, such as `data.root=FOLDER` or `trainer.epochs=40`; and
            `seeds=0-1` instead of those in the files.
        out: Folder for the run folders.
        record: The file of results.

    Raises:
        UsageError: If a file, name or setting is wrong.
    """
    rows = read_results(Path(record).parent)
    done, paces = {key for row in rows for key in _row_keys(row)}, _paces(rows)
    jobs: dict[str, Job] = {}
    for recipe, split, lacks in _recipes(files, settings, Path(out)):
        dataset = recipe.data.name or open_split(recipe.data)[0].name
        protocol = recipe.data.protocol
        wanted = (_of_any(recipe) if lacks else recipe).hash()
        missing = tuple(
            weights
            for weights in EPOCHS_SCORED[protocol]
            if (wanted, dataset, protocol, split, weights) not in done
        )
        epochs = len(read_history(recipe.out))
        pace = paces.get((recipe.model, dataset))
        seconds = None if pace is None else pace * (recipe.trainer.epochs - epochs)
        job = Job(recipe, split, missing, lacks, epochs, seconds)
        jobs.setdefault(f"{recipe.hash()} {dataset} {split}", job)
    return list(jobs.values())


def sweep(
    jobs: Sequence[Job],
    *,
    record: str | Path = RECORD,
    at_once: int | None = None,
) -> list[Path]:
    """Train and score what is left of a plan.

    Interrupted runs resume. Each run is scored and recorded as soon as it is trained. A run that
    fails, or whose earlier run is missing, does not stop the others.

    Args:
        jobs: From `plan`.
        record: The file that rows are appended to; see `egeunet.api.evaluate`.
        at_once: Number of trainings at a time; one per core by default.

    Returns:
        The run folders of what was left.

    Raises:
        InterruptedRunError, EgeunetError: As
            `egeunet.training.launcher.train_side_by_side`.
    """
    for job in jobs:
        if job.missing and job.lacks:
            _logger.warning("Skipping %s. %s", job.recipe.out.name, job.lacks)
    left: dict[Path, list[Job]] = {}  # a training may be scored on several splits
    for job in _with_data([job for job in jobs if job.missing and not job.lacks]):
        left.setdefault(job.recipe.out, []).append(job)
    if not left:
        return []

    def score(folder: Path) -> None:
        for job in left[folder]:
            for weights in job.missing:
                found = evaluate(
                    folder,
                    split=job.split,
                    last=weights == "last",
                    device=job.recipe.device,
                    out=folder / f"evaluation-{job.split}-{weights}",
                    overwrite=True,
                    record=record,
                )
                _logger.info(
                    "%s: mIoU %.2f %%, DSC %.2f %% on %d %s images, %s epoch",
                    *(folder.name, 100 * found.pooled["iou"], 100 * found.pooled["dice"]),
                    *(found.n, job.split, weights),
                )

    recipes = [job.recipe for job, *_ in left.values()]
    return train_side_by_side(
        recipes,
        resume=True,
        at_once=at_once or min(default_at_once(recipes), count_cores()),  # a GPU takes not all
        finished=score,
    )


def _with_data(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs whose data are available, and warn of the others.

    Raises:
        EgeunetError: If none would be left.
    """
    errors = {data: _cannot_open(data) for data in {job.recipe.data for job in jobs}}
    kept = [job for job in jobs if not errors[job.recipe.data]]
    for job in jobs:
        if error := errors[job.recipe.data]:
            if not kept:
                raise error
            _logger.warning("Skipping %s. %s", job.recipe.out.name, error)
    return kept


def _cannot_open(data: DataSettings) -> EgeunetError | None:
    try:
        open_split(data)
    except EgeunetError as error:
        return error
    return None


def _recipes(
    files: Sequence[str | Path], settings: Sequence[str], out: Path
) -> Iterator[tuple[Recipe, str, str]]:
    """Yield recipe, scored split, and what is wrong with the earlier runs of the recipe."""
    seeds, settings = split_seeds(settings)
    for word in settings:
        if remedy := _SET_BY_FILES.get(word.partition("=")[0]):
            raise UsageError(f"{word} cannot be set for every run: {remedy}.")
    for file in map(Path, files):
        for entry in _read(file):
            named = {"data.name": entry.dataset, "data.protocol": entry.protocol}
            fixed = [f"{key}={value}" for key, value in named.items() if value]
            for model in entry.models or (None,):
                for seed in seeds or parse_seeds(str(entry.seeds)):
                    words = [*entry.settings, *fixed, *settings, f"seed={seed}"]
                    recipe = load_recipe(
                        entry.recipe, [*words, *([f"model={model}"] if model else [])]
                    )
                    if entry.split == "val" and recipe.data.protocol == "paper":
                        raise UsageError(
                            f"{file}: the protocol paper has no validation split to score: leave "
                            "out `split: val`, or set `protocol: holdout`."
                        )
                    recipe, lacks = _pin(recipe)
                    yield recipe.model_copy(update={"out": out / _name(recipe)}), entry.split, lacks


def _pin(recipe: Recipe) -> tuple[Recipe, str]:
    try:
        return pin_runs(recipe), ""
    except UsageError as error:
        return recipe, str(error)


def _read(file: Path) -> list[Experiment]:
    content = read_yaml(file)
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        raise UsageError(
            f"{file} is not a list of experiments: expected entries such as `- recipe: NAME`."
        )
    entries = []
    for number, one in enumerate(content, 1):
        try:
            entry = Experiment.model_validate(one)
        except ValidationError as error:
            mistake = explain_mistake(error, list(Experiment.model_fields))
            raise UsageError(f"{file}, entry {number}: {mistake}") from error
        for model in entry.models:
            model_info(model)
        if entry.dataset:
            get_info(entry.dataset)
        entries.append(entry)
    return entries


def _name(recipe: Recipe) -> str:
    """Return a readable name of a run folder that is unique to the recipe."""
    data = recipe.data.name or (recipe.data.root.name if recipe.data.root else "data")
    return "-".join(
        (
            *(data, recipe.data.protocol, recipe.model, str(recipe.trainer.epochs)),
            *(f"seed{recipe.seed}", recipe.hash()[:6]),
        )
    )


def _row_keys(row: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    scored = [row.get(key) for key in ("dataset", "protocol", "split", "weights_epoch")]
    recipe = recipe_of(row)  # hashed again: a later version may know more settings
    if recipe is None:
        yield (row.get("recipe_hash"), *scored)
    else:
        yield (recipe.hash(), *scored)
        yield (_of_any(recipe).hash(), *scored)


def _of_any(recipe: Recipe) -> Recipe:
    """Return the recipe with unknown earlier runs of the same kinds."""
    distill, start = recipe.distill, recipe.start
    if distill.teacher or distill.sha256:
        distill = distill.model_copy(update={"sha256": "any"})
    if start.run or start.sha256:
        start = start.model_copy(update={"sha256": "any"})
    return recipe.model_copy(update={"distill": distill, "start": start})


def _paces(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Return the median seconds per epoch of (model, dataset) on machines like this one."""
    here = environment()
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        trained_with = row.get("trained_with") or row
        alike = all(trained_with.get(key) == here[key] for key in ("cpu", "cores", "gpu"))
        if alike and recipe_of(row) and "train_seconds" in row:
            pace = row["train_seconds"] / row["epochs"]
            found.setdefault((row["model"], row["dataset"]), []).append(pace)
    return {key: statistics.median(values) for key, values in found.items()}
