"""Lists of runs: what is to be trained and scored, what of it is done, and doing the rest."""

from __future__ import annotations

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
from egeunet.evaluation.report import read_results
from egeunet.evaluation.series import recipe_of
from egeunet.models.registry import get_system
from egeunet.reporting import Reporter
from egeunet.training.config import DataSettings, Recipe, Settings
from egeunet.training.init_from import pin_runs
from egeunet.training.launcher import (
    default_at_once,
    parse_seeds,
    split_seeds,
    train_side_by_side,
)
from egeunet.training.recipe import explain_mistake, load_recipe, read_yaml
from egeunet.training.run import open_split, read_history

EPOCHS_SCORED = {"paper": ("selected", "last"), "holdout": ("selected",)}
"""Protocol: which weights of a run are scored. `holdout` reads the test part once."""

_SET_BY_FILES = {
    "seed": "give seeds=0-4 or seeds=3",
    "system": "name systems in the experiment file",
    "out": "every run has a folder of its own, below --out",
}


class Experiment(Settings):
    """An entry of an experiment file: every system with every seed."""

    recipe: str = Field(description="A YAML file, or the name of a recipe that is shipped")
    systems: tuple[str, ...] = Field((), description="Names of `egeunet models`; the recipe's own")
    dataset: str | None = Field(None, description="A name of `egeunet data list`; the recipe's own")
    protocol: Protocol | None = Field(None, description="The recipe's own")
    seeds: int | str = Field(0, description="One, or several as 0-4 or 1,3")
    settings: tuple[str, ...] = Field((), description="key=value that replace those of the recipe")
    part: Literal["val", "test"] = Field(
        "test", description="What is scored; val for trials that choices are made by"
    )


@dataclass(frozen=True)
class Job:
    """A run that an experiment wants.

    Attributes:
        recipe: How, with its run folder.
        part: Of the dataset, that is scored.
        missing: Of which weights ("selected", "last") there is no row of results yet.
        lacks: What is wrong with the earlier runs it learns from, a sentence; empty if nothing.
        epochs_done: Epochs that its run folder has already.
        seconds: How long the rest of the training takes if it is as fast as the runs of this
            system on such a machine were; None where there were none.
    """

    recipe: Recipe
    part: str
    missing: tuple[str, ...]
    lacks: str
    epochs_done: int
    seconds: float | None

    @property
    def state(self) -> str:
        """What happens to it, in two words."""
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
    record: str | Path = "results/runs.jsonl",
) -> list[Job]:
    """Return every run that experiment files name, each once, with what is left of it.

    A run is done when the `.jsonl` files beside `record` have its rows: the same recipe, dataset,
    protocol, part and weights. Where the earlier runs that it learns from are not here, rows that
    learned from any will do.

    Args:
        files: YAML files, each a list of `Experiment`.
        *settings: `key=value` for every run, such as `data.root=FOLDER` or `trainer.epochs=40`; and
            `seeds=0-1` in place of those in the files.
        out: The folder of the run folders.
        record: The file of results.

    Raises:
        UsageError: If a file, name or setting is wrong.
    """
    rows = read_results(Path(record).parent)
    done, paces = {key for row in rows for key in _row_keys(row)}, _paces(rows)
    jobs: dict[str, Job] = {}
    for recipe, part, lacks in _recipes(files, settings, Path(out)):
        dataset = recipe.data.name or open_split(recipe.data)[0].name
        protocol = recipe.data.protocol
        wanted = (_of_any(recipe) if lacks else recipe).hash()
        missing = tuple(
            weights
            for weights in EPOCHS_SCORED[protocol]
            if (wanted, dataset, protocol, part, weights) not in done
        )
        epochs = len(read_history(recipe.out))
        pace = paces.get((recipe.system, dataset))
        seconds = None if pace is None else pace * (recipe.trainer.epochs - epochs)
        job = Job(recipe, part, missing, lacks, epochs, seconds)
        jobs.setdefault(f"{recipe.hash()} {dataset} {part}", job)
    return list(jobs.values())


def sweep(
    jobs: Sequence[Job],
    *,
    record: str | Path = "results/runs.jsonl",
    at_once: int | None = None,
    reporter: Reporter | None = None,
) -> list[Path]:
    """Train and score what is left of a plan.

    Runs that were interrupted go on; each is scored, and its rows are on disk, as soon as it is
    trained. A run that fails stops no other, nor does one whose earlier run is not there.

    Args:
        jobs: Of `plan`.
        record: The file that rows are added to; see `egeunet.api.evaluate`.
        at_once: How many trainings at a time; one per core by default.
        reporter: Hears of the progress.

    Returns:
        The run folders of what was left.

    Raises:
        InterruptedRunError, EgeunetError: As
            `egeunet.training.launcher.train_side_by_side`.
    """
    reporter = reporter or Reporter()
    for job in jobs:
        if job.missing and job.lacks:
            reporter.warn(f"{job.recipe.out.name} is left out. {job.lacks}")
    left: dict[Path, list[Job]] = {}  # a training may be scored on several parts
    for job in _with_data([job for job in jobs if job.missing and not job.lacks], reporter):
        left.setdefault(job.recipe.out, []).append(job)
    if not left:
        return []

    def score(folder: Path) -> None:
        for job in left[folder]:
            for weights in job.missing:
                found = evaluate(
                    folder,
                    part=job.part,
                    last=weights == "last",
                    device=job.recipe.device,
                    out=folder / f"evaluation-{job.part}-{weights}",
                    record=record,
                )
                reporter.info(
                    f"{folder.name}: mIoU {found.pooled['iou']:.2%}, DSC "
                    f"{found.pooled['dice']:.2%} on {found.n} images of {job.part}, {weights} epoch"
                )

    recipes = [job.recipe for job, *_ in left.values()]
    return train_side_by_side(
        recipes,
        resume=True,
        at_once=at_once or min(default_at_once(recipes), count_cores()),  # a GPU takes not all
        finished=score,
    )


def _with_data(jobs: Sequence[Job], reporter: Reporter) -> list[Job]:
    """Return the jobs whose data are here, and say which are left out.

    Raises:
        EgeunetError: If none would be left.
    """
    errors = {data: _cannot_open(data) for data in {job.recipe.data for job in jobs}}
    kept = [job for job in jobs if not errors[job.recipe.data]]
    for job in jobs:
        if error := errors[job.recipe.data]:
            if not kept:
                raise error
            reporter.warn(f"{job.recipe.out.name} is left out. {error}")
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
    """Yield what is trained, the part it is scored on, and what is wrong with its earlier runs."""
    seeds, settings = split_seeds(settings)
    for word in settings:
        if remedy := _SET_BY_FILES.get(word.partition("=")[0]):
            raise UsageError(f"{word} cannot be set for every run: {remedy}.")
    for file in map(Path, files):
        for entry in _read(file):
            named = {"data.name": entry.dataset, "data.protocol": entry.protocol}
            fixed = [f"{key}={value}" for key, value in named.items() if value]
            for system in entry.systems or (None,):
                for seed in seeds or parse_seeds(str(entry.seeds)):
                    words = [*entry.settings, *fixed, *settings, f"seed={seed}"]
                    recipe = load_recipe(
                        entry.recipe, [*words, *([f"system={system}"] if system else [])]
                    )
                    if entry.part == "val" and recipe.data.protocol == "paper":
                        raise UsageError(
                            f"{file}: the protocol paper has no validation part to score: leave "
                            "out `part: val`, or set `protocol: holdout`."
                        )
                    recipe, lacks = _pin(recipe)
                    yield recipe.model_copy(update={"out": out / _name(recipe)}), entry.part, lacks


def _pin(recipe: Recipe) -> tuple[Recipe, str]:
    try:
        return pin_runs(recipe), ""
    except UsageError as error:
        return recipe, str(error)


def _read(file: Path) -> list[Experiment]:
    content = read_yaml(file)
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        raise UsageError(f"{file} is no list of experiments: expected entries as `- recipe: NAME`.")
    entries = []
    for number, one in enumerate(content, 1):
        try:
            entry = Experiment.model_validate(one)
        except ValidationError as error:
            mistake = explain_mistake(error, list(Experiment.model_fields))
            raise UsageError(f"{file}, entry {number}: {mistake}") from error
        for system in entry.systems:
            get_system(system)
        if entry.dataset:
            get_info(entry.dataset)
        entries.append(entry)
    return entries


def _name(recipe: Recipe) -> str:
    """What a run folder is called: readable, and another one for another recipe."""
    data = recipe.data.name or (recipe.data.root.name if recipe.data.root else "data")
    return "-".join(
        (
            *(data, recipe.data.protocol, recipe.system, str(recipe.trainer.epochs)),
            *(f"seed{recipe.seed}", recipe.hash()[:6]),
        )
    )


def _row_keys(row: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    scored = [row.get(key) for key in ("dataset", "protocol", "part", "weights_epoch")]
    recipe = recipe_of(row)  # hashed anew: a later version may know more settings
    if recipe is None:
        yield (row.get("recipe_hash"), *scored)
    else:
        yield (recipe.hash(), *scored)
        yield (_of_any(recipe).hash(), *scored)


def _of_any(recipe: Recipe) -> Recipe:
    """Return a recipe that learns from the same kinds of earlier runs, whichever they were."""
    distill, start = recipe.distill, recipe.start
    if distill.teacher or distill.sha256:
        distill = distill.model_copy(update={"sha256": "any"})
    if start.run or start.sha256:
        start = start.model_copy(update={"sha256": "any"})
    return recipe.model_copy(update={"distill": distill, "start": start})


def _paces(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Seconds of an epoch of (system, dataset) in runs on a machine such as this, the median."""
    here = environment()
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        trained_with = row.get("trained_with") or row
        alike = all(trained_with.get(key) == here[key] for key in ("cpu", "cores", "gpu"))
        if alike and recipe_of(row) and "train_seconds" in row:
            pace = row["train_seconds"] / row["epochs"]
            found.setdefault((row["system"], row["dataset"]), []).append(pace)
    return {key: statistics.median(values) for key, values in found.items()}
