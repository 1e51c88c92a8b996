"""Names of the models; a file in this folder that calls `register` adds one."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from egeunet.errors import UsageError

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class ModelInfo:
    """A registered model.

    Attributes:
        name: The name `create_model` takes.
        build: Constructor or function with the keywords `in_channels`, `num_classes` and the
            model's own options.
        paper: Authors, short title, venue and year.
        arxiv: Number of the paper on arxiv.org, if it is there.
        licence: Licence of the authors' public code; the code here is our own.
        table: Parameters (M) and GFLOPs as printed in Tables 1 and 2 of the EGE-UNet paper; None
            for other models.
        convert_official: Function that renames the tensors of a published checkpoint to ours, if
            checkpoints were published.
    """

    name: str
    build: Callable[..., nn.Module]
    paper: str
    arxiv: str | None = None
    licence: str = "no public code"
    table: tuple[str, str] | None = None
    convert_official: Callable[[StateDict], dict[str, Tensor]] | None = None


_MODELS: dict[str, ModelInfo] = {}


def register(name: str, build: Callable[..., nn.Module], **info: Any) -> None:
    """Register a model; see `ModelInfo` for the arguments."""
    _MODELS[name] = ModelInfo(name, build, **info)


def list_models() -> list[str]:
    """Return the names of all models, sorted."""
    return sorted(_load_all())


def model_info(name: str) -> ModelInfo:
    """Return the entry of a model.

    Raises:
        UsageError: Unknown name; the message suggests the nearest one.
    """
    models = _load_all()
    if name not in models:
        raise UsageError(f"Unknown model {name!r}: {_suggest(name, sorted(models))}")
    return models[name]


def create_model(
    name: str, in_channels: int = 3, num_classes: int = 1, **options: Any
) -> nn.Module:
    """Create a model with random weights, drawn from torch's global generator.

    Args:
        name: A name of `list_models()`.
        in_channels: Channels of the input image.
        num_classes: 1 for one foreground logit; K > 1 for K logits, class 0 being the background.
        **options: Further arguments of the model's constructor, such as `widths` of EGE-UNet.

    Returns:
        A module from float32 images (B, in_channels, H, W), min-max scaled to 0…255 each, to logits
        (B, num_classes, H, W). In training mode, models with deep supervision return
        `(logits, (stage5, …, stage1))`.

    Raises:
        UsageError: Unknown name or option, or a number below 1.
    """
    info = model_info(name)
    if in_channels < 1 or num_classes < 1:
        raise UsageError(
            f"in_channels and num_classes must be at least 1, got {in_channels} and {num_classes}."
        )
    # What an ablation fixes is no option of it.
    fixed = info.build.keywords if isinstance(info.build, functools.partial) else {}
    taken = {"in_channels", "num_classes", *fixed}
    known = [key for key in inspect.signature(info.build).parameters if key not in taken]
    for option in options:
        if option not in known:
            raise UsageError(f"{name} has no option {option!r}: {_suggest(option, known)}")
    return info.build(in_channels=in_channels, num_classes=num_classes, **options)


def _suggest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known) or 'none'}."


@functools.cache
def _load_all() -> dict[str, ModelInfo]:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    return _MODELS
