"""The ways to run a trained network that take torch, and the published network."""

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
from typing import Any

import torch
from torch import nn

from egeunet.errors import EgeunetError, UsageError
from egeunet.export.backends import Batch, Contender, Runner, onnx_contender
from egeunet.export.formats import FORMATS, write_format
from egeunet.export.parity import make_reference
from egeunet.reporting import Reporter
from egeunet.training.run import Run, weights_file


def run_contenders(run: Run, folder: Path, reporter: Reporter) -> list[Contender]:
    """List the ways to run a trained system: torch, and every ONNX format of the network alone.

    Args:
        run: The trained system.
        folder: Where exported files may be written.
        reporter: Hears of what had to be left out.
    """
    file = weights_file(run.folder)
    found = [Contender("torch eager", partial(_torch, run.model), file, ("torch", run.folder))]
    compiled = _compile(run.model, run.recipe.data.shape, reporter)
    if compiled is not None:
        found.append(Contender("torch compiled", partial(_torch, compiled), file))
    reference = make_reference(run, reporter)
    for form in FORMATS:
        if not form.file.startswith("model"):  # the others take another input
            continue
        try:
            write_format(form, run, folder, reference)
        except EgeunetError as error:
            reporter.warn(str(error))
            continue
        kind = "float32" if form.name == "onnx" else form.name.removeprefix("onnx-")
        found.append(onnx_contender(f"ONNX {kind}", folder / form.file))
    return found


@contextlib.contextmanager
def keep_threads() -> Iterator[None]:
    """Give torch the number of threads back that it had."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _torch(model: nn.Module, threads: int) -> Runner:
    torch.set_num_threads(threads)  # of the whole process: see `keep_threads`

    def run(images: Batch) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(images))

    return run


def _compile(model: nn.Module, size: tuple[int, int], reporter: Reporter) -> nn.Module | None:
    """Compile a network, if this machine can."""
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            compiled: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
            compiled(torch.zeros(1, 3, *size))
    except Exception as error:
        # What a missing or broken compiler raises is the compiler's own affair.
        reporter.warn(f"torch.compile does not work here: {str(error).splitlines()[0]}")
        return None
    return compiled


def official_contenders(checkout: Path, folder: Path, size: tuple[int, int]) -> list[Contender]:
    """List the published network in eager mode and as the framework's own exporter writes it.

    Args:
        checkout: Of the published code.
        folder: Where its ONNX file may be written.
        size: Height and width of its input.

    Raises:
        UsageError: It is no such checkout.
    """
    model = _Mask(load_official(checkout)).eval()
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
        Contender("published, torch eager", partial(_torch, model), scored=False),
        onnx_contender("published, ONNX", path, scored=False),
    ]


def load_official(checkout: Path) -> nn.Module:
    """Build the published network from its own code, without what it imports and never uses.

    It gives five probability maps of its stages, and that of the mask.

    Raises:
        UsageError: It is no checkout of the published code.
    """
    path = checkout / "models" / "egeunet.py"
    if not path.is_file():
        raise UsageError(f"{checkout} is no checkout of the published code: no models/egeunet.py.")
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
