"""Backends that run a trained model, for `egeunet benchmark`."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from egeunet.engine.model import EngineModel
from egeunet.errors import EgeunetError

if TYPE_CHECKING:
    from torch import nn

    from egeunet.training.run import Run

_LOG = logging.getLogger(__name__)

Batch = NDArray[np.float32]
Runner = Callable[[Batch], Any]


@dataclass(frozen=True)
class Backend:
    """One way to run a model.

    Args:
        name: Name in the table.
        open: Function from a number of threads to a function of `image`, float32 (B, 3, H, W).
        file: File of the weights, or None.
        probe: How a new process opens it, "torch", "onnx" or "engine" and a path; None to skip
            that.
        scored: Whether to score it on the dataset.
    """

    name: str
    open: Callable[[int], Runner]
    file: Path | None = None
    probe: tuple[str, Path] | None = None
    scored: bool = True


def onnx_backend(name: str, path: Path, scored: bool = True) -> Backend:
    """Run an ONNX file from `image` to its first output, on the CPU."""

    def open_session(threads: int) -> Runner:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait for more work would take the cores from whoever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        return lambda images: session.run(None, {"image": images})[0]

    return Backend(name, open_session, path, ("onnx", path), scored)


def engine_backend(name: str, path: Path) -> Backend:
    """Run an .egeu file in the engine: the images of a batch in as many threads as are given."""

    def open_model(threads: int) -> Runner:
        model = EngineModel(path.read_bytes(), str(path))
        if threads == 1:
            return model
        pool = ThreadPoolExecutor(threads)
        return lambda images: np.concatenate([*pool.map(model, np.split(images, len(images)))])

    return Backend(name, open_model, path, ("engine", path))


def run_backends(run: Run, folder: Path) -> list[Backend]:
    """Return the backends of a trained run: torch, torch compiled and each exported format.

    Args:
        run: A trained run.
        folder: Folder for the exported files.
    """
    from egeunet.exporting.formats import FORMATS, write_format
    from egeunet.exporting.parity import make_reference
    from egeunet.training.run import weights_file

    file = weights_file(run.folder)
    found = [Backend("torch eager", partial(torch_backend, run.model), file, ("torch", run.folder))]
    compiled = _compile(run.model, run.recipe.data.shape)
    if compiled is not None:
        found.append(Backend("torch compiled", partial(torch_backend, compiled), file))
    reference = make_reference(run)
    for form in FORMATS:
        if not form.file.startswith("model"):  # the others take another input
            continue
        try:
            write_format(form, run, folder, reference)
        except EgeunetError as error:
            _LOG.warning(str(error))
            continue
        kind = "float16" if form.name.endswith("fp16") else "float32"
        if form.file.endswith(".egeu"):
            found.append(engine_backend(f"engine {kind}", folder / form.file))
        else:
            found.append(onnx_backend(f"ONNX {kind}", folder / form.file))
    return found


@contextlib.contextmanager
def keep_threads() -> Iterator[None]:
    """Restore the number of torch threads after the block."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def torch_backend(model: nn.Module, threads: int) -> Runner:
    """Run a model in torch with a number of threads."""
    import torch

    torch.set_num_threads(threads)  # of the whole process: see `keep_threads`

    def run(images: Batch) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(images))

    return run


def _compile(model: nn.Module, size: tuple[int, int]) -> nn.Module | None:
    """Return the compiled model; None if torch.compile does not work here."""
    import torch

    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            compiled: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
            compiled(torch.zeros(1, 3, *size))
    except Exception as error:
        # What a missing or broken compiler raises is the compiler's own affair.
        _LOG.warning(f"torch.compile does not work here: {str(error).splitlines()[0]}")
        return None
    return compiled
