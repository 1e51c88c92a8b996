"""Recipes in YAML: loading, overriding with `key=value`, flattening."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from egeunet.errors import UsageError
from egeunet.files import read_text
from egeunet.training.config import Recipe

MAX_YAML_BYTES = 1 << 17
MAX_YAML_DEPTH = 20
MAX_YAML_SCALAR = 4000  # characters; Python refuses longer integers with a ValueError


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe and override single settings.

    Args:
        path: YAML file, run folder, or name of a shipped recipe.
        overrides: `key=value` with a dotted key and a YAML value, such as `trainer.epochs=4`.

    Raises:
        UsageError: If there is no such file, or a key or value is invalid; for a misspelt key the
            message suggests the nearest valid one.
    """
    file = _find(path)
    content = read_yaml(file) or {}
    if not isinstance(content, dict):
        raise UsageError(f"{file} is not a recipe: expected settings as `key: value`.")
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise UsageError(f"{override!r} is not a setting: expected key=value.")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise UsageError(f"{override[:80]!r} is not valid YAML: {error}.") from error
        _assign(content, key.split("."), value)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        known = list(flatten(Recipe()))
        raise UsageError(f"{file}: {explain_mistake(error, known)}") from error


def read_yaml(file: Path) -> Any:
    """Read a YAML file of at most 128 KiB; see `parse_yaml`.

    Raises:
        UsageError: If it cannot be read, is too large or is not valid YAML.
    """
    try:
        return parse_yaml(read_text(file, MAX_YAML_BYTES))
    except ValueError as error:
        raise UsageError(f"{file} is not a valid YAML file: {error}.") from error


def parse_yaml(text: str) -> Any:
    """Parse YAML whose size is bounded before anything is built from it.

    Refused are more than 20 levels of nesting, values longer than 4,000 characters, and aliases,
    which can expand without end or contain themselves.

    Raises:
        ValueError: If it is refused or not YAML; the message is one line.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("aliases are not supported")  # noqa: TRY004
            if depth > MAX_YAML_DEPTH:
                raise ValueError(f"it is nested more than {MAX_YAML_DEPTH} levels deep")
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_YAML_SCALAR:
                raise ValueError(f"a value is longer than {MAX_YAML_SCALAR} characters")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Return every setting by its dotted key, with values of JSON types."""

    def flat(value: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(value, dict) or not value:
            return {prefix: value}
        join = f"{prefix}." if prefix else ""
        return {k: v for key in value for k, v in flat(value[key], f"{join}{key}").items()}

    return flat(recipe.model_dump(mode="json"))


def recipe_folder() -> Path:
    """Return the folder of the shipped recipes."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def _find(path: str | Path) -> Path:
    given = Path(path)
    if given.is_dir() and (given / "recipe.yaml").is_file():
        return given / "recipe.yaml"
    if given.is_file():
        return given
    shipped = {file.stem: file for file in recipe_folder().glob("*.yaml")}
    name = given.name.removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped are {', '.join(sorted(shipped))}."
    raise UsageError(f"Unknown recipe {str(path)[:80]!r}: {hint}")


def _assign(content: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = content.setdefault(key, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{'.'.join(keys)!r} is invalid: {key!r} is not a group of settings.")
        content = inner
    content[keys[-1]] = value


def explain_mistake(error: ValidationError, known: Sequence[str]) -> str:
    """Return the first mistake as one sentence; `known` keys are suggested for a misspelt one."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])[:80]
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}."
        return f"unknown setting {key!r}: {hint}"
    message = first["msg"].removeprefix("Value error, ")  # of our own checks
    return f"{key}: {message}, got {reprlib.repr(first['input'])}."
