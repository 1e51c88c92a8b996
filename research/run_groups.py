"""Group rows of results into runs that differ in their seed alone."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from egeunet.training.config import WHERE, Recipe
from egeunet.training.recipe import flatten, load_recipe, recipe_folder
from research.paper import TITLES

PAPER_EPOCHS = Recipe().trainer.epochs
_FEW = 2  # changes that are written out in a label
_FREE = {
    *("model", "seed", "data.name", "data.root", "data.protocol", "trainer.epochs"),
    *("trainer.preview_every", "distill.teacher", "start.run", *WHERE),
}
"""Settings that have a key of their own, or do not decide the result."""
_EARLIER = {"distill.teacher": "distill.sha256", "start.run": "start.sha256"}
"""Settings that name an earlier run, and those that hold the checksum of its weights."""


class Terms(NamedTuple):
    """What comparable runs have in common; `size` as `RunGroup.size`."""

    dataset: str
    protocol: str
    epochs: int
    size: str

    def name(self, kind: str) -> str:
        """Return the stem of a file about them."""
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
class RunGroup:
    """Runs that differ in their seed alone, scored in one way.

    Attributes:
        model: The trained model.
        changes: Settings that differ from the paper's, by dotted keys.
        epochs: The budget.
        dataset: The dataset they were scored on.
        protocol: The protocol.
        split: The split they were scored on.
        weights_epoch: "selected" or "last".
        rows: The latest row of each seed.
    """

    model: str
    changes: dict[str, Any]
    epochs: int
    dataset: str
    protocol: str
    split: str
    weights_epoch: str
    rows: dict[int, dict[str, Any]]

    @property
    def label(self) -> str:
        """The model as the paper calls it, and what differs from the paper's recipe."""
        return label_of(self.model, self.changes)

    @property
    def size(self) -> str:
        """Side of the images, or height and width as "192x256"; empty for the paper's."""
        size = self.changes.get("data.size", "")
        return "x".join(map(str, size)) if isinstance(size, (list, tuple)) else str(size)

    def score(self, name: str) -> Spread:
        """Return the spread of a pooled score, such as "iou", over the seeds."""
        values = [100 * row["pooled"][name] for row in self.rows.values()]
        std = statistics.stdev(values) if len(values) > 1 else None
        return Spread(statistics.fmean(values), std, len(values))


def recipe_of(row: Mapping[str, Any]) -> Recipe | None:
    """Return the recipe of the run of a row; None if it is not of a run that could be repeated."""
    if not {"recipe", "model", "seed", "epochs", "pooled"} <= row.keys():
        return None
    try:
        recipe = Recipe.model_validate({**row["recipe"], "model": row["model"]})
    except ValidationError:  # settings that this version does not have
        return None
    trainer = recipe.trainer.model_copy(update={"epochs": row["epochs"]})
    return recipe.model_copy(update={"seed": row["seed"], "trainer": trainer})


def changes_of(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that differ from the paper's, without model, data, seed and budget."""
    papers = flatten(Recipe())
    return {
        key: value
        for key, value in flatten(recipe).items()
        if key not in _FREE and value != papers.get(key)
    }


def label_of(model: str, changes: Mapping[str, Any]) -> str:
    """Return the title of a model and the name of its shipped recipe.

    The weights it learned from follow, by the beginning of their SHA-256. Without a shipped recipe,
    or with few differences from the paper's, the settings that differ are written out.
    """
    title = TITLES.get(model, model)
    if len(changes) > _FEW and (name := _shipped_names().get(_shape(model, changes))):
        earlier = {key: value for key, value in changes.items() if key in _EARLIER.values()}
        return ", ".join([title, f"recipe {name}", *texts_of(earlier)])
    return ", ".join([title, *texts_of(changes)])


def texts_of(changes: Mapping[str, Any]) -> list[str]:
    """Return settings as they are written, and only the beginning of checksums."""
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
        names[_shape(recipe.model, {**changes_of(recipe), **earlier})] = file.stem
    return names


def _shape(model: str, changes: Mapping[str, Any]) -> str:
    """Changes without checksums: a recipe names earlier runs, which everyone trains anew."""
    known = {key: key in _EARLIER.values() or value for key, value in changes.items()}
    return json.dumps([model, known], sort_keys=True)


def group_runs(rows: Iterable[Mapping[str, Any]]) -> list[RunGroup]:
    """Group rows that differ in nothing but the seed.

    Of one seed the latest row counts. Rows that are not of a run, do not say of which epoch the
    weights are, or were scored on other data or under another protocol than the run was trained
    for, are left out.
    """
    found: dict[str, RunGroup] = {}
    for row in rows:
        recipe = recipe_of(row)
        if recipe is None or "weights_epoch" not in row:
            continue
        # A folder has no name in the recipe, and older rows do not say more.
        home = row.get("trained_on") or recipe.data.name or row["dataset"]
        if (home, recipe.data.protocol) != (row["dataset"], row["protocol"]):
            continue
        group = RunGroup(
            model=recipe.model,
            changes=changes_of(recipe),
            epochs=recipe.trainer.epochs,
            dataset=row["dataset"],
            protocol=row["protocol"],
            split=row["split"],
            weights_epoch=row["weights_epoch"],
            rows={},
        )
        key = json.dumps(vars(group), sort_keys=True)
        found.setdefault(key, group).rows[recipe.seed] = dict(row)
    return list(found.values())


def comparable(groups: Iterable[RunGroup], column: str) -> list[tuple[Terms, list[RunGroup]]]:
    """Collect groups that may be compared: same data, protocol, budget and image size.

    Args:
        groups: Those of the test split with the selected weights are taken,
        column: if every row names its file of this kind: "per_image" or "history".

    Returns:
        Their terms and the groups, by label; the paper's budget first.
    """
    found: dict[Terms, list[RunGroup]] = {}
    for one in sorted(
        groups, key=lambda one: (one.dataset, one.protocol, by_budget(one), one.label)
    ):
        taken = (one.split, one.weights_epoch) == ("test", "selected")
        if taken and all(column in row for row in one.rows.values()):
            terms = Terms(one.dataset, one.protocol, one.epochs, one.size)
            found.setdefault(terms, []).append(one)
    return list(found.items())


def by_budget(group: RunGroup) -> tuple[bool, int]:
    """Sort key: the paper's budget first, then the longest."""
    return group.epochs != PAPER_EPOCHS, -group.epochs
