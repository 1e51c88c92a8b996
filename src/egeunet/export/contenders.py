"""The ways to run a trained network that `egeunet benchmark` holds side by side."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from egeunet.errors import EgeunetError, UsageError
from egeunet.export.formats import FORMATS, export_run
from egeunet.files import sha256_file
from egeunet.inference.weights import find_weights
from egeunet.reporting import Reporter
from egeunet.training.checkpoint import WEIGHTS
from egeunet.training.run import load_run

Batch = NDArray[np.float32]
Runner = Callable[[Batch], Any]


@dataclass(frozen=True)
class Contender:
    """One way to run a network.

    Args:
        name: What it is called in the table.
        open: From a number of threads to a function of `image`, float32 (B, 3, H, W). In torch the
            number of threads belongs to the process and is set by who measures.
        file: Its weights; None for the published network, which is timed with its own first ones.
        probe: How a fresh process opens it: "torch" or "onnx", and a path.
        scored: Whether it has the trained weights.
    """

    name: str
    open: Callable[[int], Runner]
    file: Path | None = None
    probe: tuple[str, Path] | None = None
    scored: bool = True


def find_contenders(
    weights: str | Path, folder: Path, official: Path | None, reporter: Reporter
) -> list[Contender]:
    """List the ways to run some weights.

    Args:
        weights: A run folder: torch and every ONNX format of `model.onnx`; or an ONNX file: it.
        folder: Where exported files may be written.
        official: A checkout of the published code, to be timed as well.
        reporter: Hears of what had to be left out.

    Raises:
        UsageError: `official` is no such checkout.
    """
    found: list[Contender] = []
    if official:
        found += _official(official, folder)
    if not Path(weights).is_dir():
        path = find_weights(weights)
        return [*found, _onnx("ONNX", path)]
    run = load_run(weights)
    file = Path(weights) / WEIGHTS
    probe = ("torch", Path(weights))
    found.append(Contender("torch eager", lambda _: _torch(run.model), file, probe))
    compiled = _compile(run.model, run.recipe.data.shape, reporter)
    if compiled is not None:
        found.append(Contender("torch compiled", lambda _: _torch(compiled), file))
    names = [form.name for form in FORMATS if form.file.startswith("model")]
    for form in (form for form in FORMATS if form.name in names and form.file.startswith("model")):
        try:
            export_run(run, folder, [form.name])
        except EgeunetError as error:
            reporter.warn(str(error))
            continue
        kind = form.name.removeprefix("onnx-") if form.name != "onnx" else "float32"
        found.append(_onnx(f"ONNX {kind}", folder / form.file))
    return found


def _onnx(name: str, path: Path, scored: bool = True) -> Contender:
    def open_session(threads: int) -> Runner:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        return lambda images: session.run(None, {"image": images})[0]

    return Contender(name, open_session, path, ("onnx", path), scored)


def _torch(model: nn.Module) -> Runner:
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


def _official(checkout: Path, folder: Path) -> list[Contender]:
    model = _load_official(checkout)
    path = folder / f"official-{sha256_file(checkout / 'models' / 'egeunet.py')[:8]}.onnx"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, 256, 256),),
            path,
            dynamo=True,
            input_names=["image"],
            output_names=["probability"],
            external_data=False,
            verbose=False,
        )
    return [
        Contender("published, torch eager", lambda _: _torch(model), scored=False),
        _onnx("published, ONNX", path, scored=False),
    ]


def _load_official(checkout: Path) -> nn.Module:
    """Build the published network from its own code, without what it imports and never uses."""
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

    class Mask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            probability: torch.Tensor = self.model(image)[1]
            return probability

    return Mask().eval()


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


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
