"""The published EGE-UNet, built from a checkout of https://github.com/JCruan519/EGE-UNet."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from egeunet.errors import UsageError
from egeunet.exporting.backends import Backend, file_backend, torch_backend


def published_backends(checkout: Path, folder: Path, size: tuple[int, int]) -> list[Backend]:
    """List the published network in eager mode and as the framework's own exporter writes it.

    Args:
        checkout: Of the published code.
        folder: Where its ONNX file may be written.
        size: Height and width of its input.

    Raises:
        UsageError: It is no such checkout.
    """
    model = _Mask(load_published(checkout)).eval()
    path = folder / "official.onnx"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, *size),),
            path,
            dynamo=True,
            input_names=["image"],
            output_names=["probability"],
            external_data=False,
            verbose=False,
        )
    return [
        Backend("published, torch eager", partial(torch_backend, model), scored=False),
        file_backend("published, ONNX", path, scored=False),
    ]


def load_published(checkout: Path) -> nn.Module:
    """Build the published network from its own code, without what it imports and never uses.

    It gives five probability maps of its stages, and that of the mask.

    Raises:
        UsageError: It is no checkout of the published code.
    """
    path = checkout / "models" / "egeunet.py"
    if not path.is_file():
        raise UsageError(
            f"{checkout} is not a checkout of the published code: models/egeunet.py is missing."
        )
    spec = importlib.util.spec_from_file_location("published_egeunet", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _unused_imports(), contextlib.redirect_stdout(io.StringIO()):
        spec.loader.exec_module(module)
        model: nn.Module = module.EGEUNet().eval()
    return model


class _Mask(nn.Module):
    """The mask alone of what the published network gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        probability: torch.Tensor = self.model(image)[1]
        return probability


@contextlib.contextmanager
def _unused_imports() -> Iterator[None]:
    """Stand in for libraries that the published file names and does not need."""
    added = {}
    for name, attribute in (
        ("timm", None),
        ("timm.models", None),
        ("timm.models.layers", "trunc_normal_"),
        ("einops", "rearrange"),
    ):
        if name not in sys.modules:
            added[name] = ModuleType(name)
            if attribute:
                setattr(added[name], attribute, None)
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
