"""Backends that run a trained model, for `egeunet benchmark`."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egeunet.errors import EgeunetError
from egeunet.exporting.runtimes import Batch, open_network

if TYPE_CHECKING:
    from torch import nn

    from egeunet.training.run import Run

_LOG = logging.getLogger(__name__)

Runner = Callable[[Batch], Any]


@dataclass(frozen=True)
class Backend:
    """One way to run a model.

    Args:
        name: Name in the table.
        open: Function from a number of threads to a function of `image`, float32 (B, 3, H, W).
        file: File of the weights, or None.
        probe: What a new process opens, a run folder or an exported file; None to skip that.
        iou: Mean IoU of its masks with those of torch, or None.
        scored: Whether to score it on the dataset.
    """

    name: str
    open: Callable[[int], Runner]
    file: Path | None = None
    probe: Path | None = None
    iou: float | None = None
    scored: bool = True


def file_backend(name: str, path: Path, iou: float | None = None, scored: bool = True) -> Backend:
    """Run an exported file in its runtime, on the CPU."""
    return Backend(name, partial(open_network, path), path, path, iou, scored)


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
    found = [Backend("torch eager", partial(torch_backend, run.model), file, run.folder)]
    compiled = _compile(run.model, run.recipe.data.shape)
    if compiled is not None:
        found.append(Backend("torch compiled", partial(torch_backend, compiled), file))
    reference = make_reference(run)
    for form in FORMATS:
        if not form.file.startswith("model"):  # the others take another input
            continue
        try:
            exported = write_format(form, run, folder, reference)
        except EgeunetError as error:
            _LOG.warning(str(error))
            continue
        if exported.parity:  # else its runtime is on other platforms only
            kind = "float16" if form.name.endswith("fp16") else "float32"
            names = {".egeu": f"engine {kind}", ".onnx": f"ONNX {kind}"}
            name = names.get(exported.path.suffix, form.name)
            found.append(file_backend(name, exported.path, exported.parity.iou))
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
