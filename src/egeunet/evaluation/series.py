"""Rows of results put together: runs that differ in their seed alone, and never any others."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from egeunet.evaluation.paper import TITLES
from egeunet.training.config import WHERE, Recipe
from egeunet.training.recipe import flatten, load_recipe, recipe_folder

PAPER_EPOCHS = Recipe().trainer.epochs
_FEW = 2  # changes that stand in a label as they are
_FREE = {
    *("system", "seed", "data.name", "data.root", "data.protocol", "trainer.epochs"),
    *("trainer.preview_every", "distill.teacher", "start.run", *WHERE),
}
"""Settings that are a key of their own, or that do not decide the result."""
_EARLIER = {"distill.teacher": "distill.sha256", "start.run": "start.sha256"}
"""Settings that name an earlier run, and those that say which weights it had."""


class Terms(NamedTuple):
    """What runs have in common that may be compared; `size` as `Series.size`."""

    dataset: str
    protocol: str
    epochs: int
    size: str

    def name(self, kind: str) -> str:
        """Return what a file of some kind about them is called."""
        return "-".join([kind, *(str(value) for value in self if value)])


class Spread(NamedTuple):
    """A score in percent: mean and sample standard deviation over n seeds (None for one)."""

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std:.2f}"
        return f"{self.mean:.2f}{spread}"


@dataclass(frozen=True)
class Series:
    """Runs that differ in their seed alone, scored in one way.

    Attributes:
        system: What was trained.
        changes: Settings that are not the paper's, by their dotted keys.
        epochs: The budget.
        dataset: Where it was scored.
        protocol: How.
        part: On which part.
        weights_epoch: "selected" or "last".
        rows: The latest row of each seed.
    """

    system: str
    changes: dict[str, Any]
    epochs: int
    dataset: str
    protocol: str
    part: str
    weights_epoch: str
    rows: dict[int, dict[str, Any]]

    @property
    def label(self) -> str:
        """The system as the paper calls it, and what was not done as in the paper."""
        return label_of(self.system, self.changes)

    @property
    def size(self) -> str:
        """Side of the images, or height and width as "192x256"; empty where it is the paper's."""
        size = self.changes.get("data.size", "")
        return "x".join(map(str, size)) if isinstance(size, (list, tuple)) else str(size)

    def score(self, name: str) -> Spread:
        """Return the spread of a pooled score, such as "iou", over the seeds."""
        values = [100 * row["pooled"][name] for row in self.rows.values()]
        std = statistics.stdev(values) if len(values) > 1 else None
        return Spread(statistics.fmean(values), std, len(values))


def recipe_of(row: Mapping[str, Any]) -> Recipe | None:
    """Return how the run of a row was trained; None where the row is of no run we could repeat."""
    if not {"recipe", "system", "seed", "epochs", "pooled"} <= row.keys():
        return None
    try:
        recipe = Recipe.model_validate({**row["recipe"], "system": row["system"]})
    except ValidationError:  # settings that this version does not have
        return None
    trainer = recipe.trainer.model_copy(update={"epochs": row["epochs"]})
    return recipe.model_copy(update={"seed": row["seed"], "trainer": trainer})


def changes_of(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that are not the paper's; system, data, seed and budget are no change."""
    papers = flatten(Recipe())
    return {
        key: value
        for key, value in flatten(recipe).items()
        if key not in _FREE and value != papers.get(key)
    }


def label_of(system: str, changes: Mapping[str, Any]) -> str:
    """Return what the paper calls a system, and the recipe that comes with the package.

    With it the weights that the run learned from, by the beginning of their SHA-256. Where there is
    no such recipe, or little differs from the paper's, the settings that do.
    """
    title = TITLES.get(system, system)
    if len(changes) > _FEW and (name := _shipped_names().get(_shape(system, changes))):
        earlier = {key: value for key, value in changes.items() if key in _EARLIER.values()}
        return ", ".join([title, f"recipe {name}", *texts_of(earlier)])
    return ", ".join([title, *texts_of(changes)])


def texts_of(changes: Mapping[str, Any]) -> list[str]:
    """Return settings as they are written; of a checksum the beginning."""
    found = []
    for key, value in changes.items():
        if key in _EARLIER.values():
            sums = [value] if isinstance(value, str) else value
            text = "+".join(one[:8] for one in sums)
        else:
            text = value if isinstance(value, str) else json.dumps(value)
        found.append(f"{key}={text}")
    return found


@functools.cache
def _shipped_names() -> dict[str, str]:
    names = {}
    for file in sorted(recipe_folder().glob("*.yaml")):
        recipe = load_recipe(file)
        content = flatten(recipe)
        earlier = {to: True for key, to in _EARLIER.items() if content[key] is not None}
        names[_shape(recipe.system, {**changes_of(recipe), **earlier})] = file.stem
    return names


def _shape(system: str, changes: Mapping[str, Any]) -> str:
    """Changes without the checksums: a recipe names earlier runs, and everyone trains their own."""
    known = {key: key in _EARLIER.values() or value for key, value in changes.items()}
    return json.dumps([system, known], sort_keys=True)


def collect(rows: Iterable[Mapping[str, Any]]) -> list[Series]:
    """Put rows together that differ in nothing but the seed.

    Of one seed a later row replaces an earlier one. Rows that are not of a run, do not say of which
    epoch the weights were, or are of other data or another protocol than the run was trained for,
    belong to no series.
    """
    found: dict[str, Series] = {}
    for row in rows:
        recipe = recipe_of(row)
        if recipe is None or "weights_epoch" not in row:
            continue
        # A folder of one's own has no name in the recipe, and older rows say no more.
        home = row.get("trained_on") or recipe.data.name or row["dataset"]
        if (home, recipe.data.protocol) != (row["dataset"], row["protocol"]):
            continue
        series = Series(
            system=recipe.system,
            changes=changes_of(recipe),
            epochs=recipe.trainer.epochs,
            dataset=row["dataset"],
            protocol=row["protocol"],
            part=row["part"],
            weights_epoch=row["weights_epoch"],
            rows={},
        )
        key = json.dumps(vars(series), sort_keys=True)
        found.setdefault(key, series).rows[recipe.seed] = dict(row)
    return list(found.values())


def comparable(series: Iterable[Series], column: str) -> list[tuple[Terms, list[Series]]]:
    """Put series together that may be compared.

    Args:
        series: Those of the test part with the selected weights are taken,
        column: if every row names its file of this kind: "per_image" or "history".

    Returns:
        Their terms and the series, by label; the paper's budget first.
    """
    groups: dict[Terms, list[Series]] = {}
    for one in sorted(
        series, key=lambda one: (one.dataset, one.protocol, by_budget(one), one.label)
    ):
        taken = (one.part, one.weights_epoch) == ("test", "selected")
        if taken and all(column in row for row in one.rows.values()):
            terms = Terms(one.dataset, one.protocol, one.epochs, one.size)
            groups.setdefault(terms, []).append(one)
    return list(groups.items())


def by_budget(series: Series) -> tuple[bool, int]:
    """Sort key: the paper's budget first, then the longest."""
    return series.epochs != PAPER_EPOCHS, -series.epochs
