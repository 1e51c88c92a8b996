"""The names of the systems. A file in this folder that calls `register` is all a new one needs."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from egeunet.errors import UsageError

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class System:
    """A published network as this package knows it.

    Attributes:
        name: What `create_model` takes.
        build: Makes the network from `in_channels`, `num_classes` and the options of the system.
        paper: Where it was published.
        arxiv: The number of the paper on arxiv.org, where it is there.
        licence: Of the authors' public code; it says nothing about ours, which is our own writing.
        table: Parameters (M) and GFLOPs as Tables 1 and 2 of the EGE-UNet paper print them, where
            the system is a row of these.
        convert_official: Renames the tensors of a published checkpoint to ours, where there is one.
    """

    name: str
    build: Callable[..., nn.Module]
    paper: str
    arxiv: str | None = None
    licence: str = "no public code"
    table: tuple[str, str] | None = None
    convert_official: Callable[[StateDict], dict[str, Tensor]] | None = None


_SYSTEMS: dict[str, System] = {}


def register(
    name: str,
    build: Callable[..., nn.Module],
    *,
    paper: str,
    arxiv: str | None = None,
    licence: str = "no public code",
    table: tuple[str, str] | None = None,
    convert_official: Callable[[StateDict], dict[str, Tensor]] | None = None,
) -> None:
    """Make a system known by `name`; see `System` for the arguments."""
    _SYSTEMS[name] = System(name, build, paper, arxiv, licence, table, convert_official)


def list_models() -> list[str]:
    """Return the names of all systems, sorted."""
    return sorted(_systems())


def get_system(name: str) -> System:
    """Return the entry of a system.

    Raises:
        UsageError: If there is no system of that name; the message suggests the nearest one.
    """
    systems = _systems()
    if name not in systems:
        near = difflib.get_close_matches(name, systems, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(systems))}."
        raise UsageError(f"There is no system {name!r}: {hint}")
    return systems[name]


def create_model(
    name: str, in_channels: int = 3, num_classes: int = 1, **options: Any
) -> nn.Module:
    """Build a system with fresh weights drawn from torch's global generator.

    Args:
        name: A name of `list_models()`.
        in_channels: Channels of the input image.
        num_classes: 1 for a foreground probability (one logit), K > 1 for K classes of which class
            0 is the background (K logits).
        **options: What the system's constructor takes besides, such as `widths` for EGE-UNet.

    Returns:
        A module from float32 (B, in_channels, H, W) to logits (B, num_classes, H, W). In training
        mode the systems with deep supervision return `(logits, (stage5, …, stage1))`.

    Raises:
        UsageError: If the name, a number or an option is not one the system takes.
    """
    system = get_system(name)
    if in_channels < 1 or num_classes < 1:
        raise UsageError(
            f"in_channels and num_classes are at least 1, got {in_channels} and {num_classes}."
        )
    known = _options(system.build)
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}."
            raise UsageError(f"The system {name!r} has no option {option!r}: {hint}")
    return system.build(in_channels=in_channels, num_classes=num_classes, **options)


def _options(build: Callable[..., nn.Module]) -> list[str]:
    """The keywords a user may still set: what an ablation fixes is not among them."""
    fixed = build.keywords if isinstance(build, functools.partial) else {}
    taken = {"in_channels", "num_classes", *fixed}
    return [name for name in inspect.signature(build).parameters if name not in taken]


@functools.cache
def _systems() -> dict[str, System]:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    return _SYSTEMS
