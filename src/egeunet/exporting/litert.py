"""LiteRT, formerly TensorFlow Lite (`model.tflite`), for Android, iOS and the web."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from egeunet.errors import needs_extra

if TYPE_CHECKING:
    from egeunet.exporting.formats import Writer
    from egeunet.exporting.runtimes import Batch, Network
    from egeunet.training.run import Run


def convert(run: Run) -> Writer:
    """Convert for images (1, 3, H, W); the metadata is appended as a ZIP file, `egeunet.json`."""
    import torch

    from egeunet.exporting.rewrite import for_mobile

    with needs_extra("litert"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter's dependencies
        import litert_torch
        from litert_torch.backend import inline_consts

    # The converter recognizes constants by their addresses. It frees some while it runs, and takes
    # others that come to lie there for them: the file then computes something else.
    constants: Any = inline_consts._ConstantFingerprint
    kept = []
    from_tensor = constants.from_tensor

    def keep(tensor: torch.Tensor) -> Any:
        kept.append(tensor)
        return from_tensor(tensor)

    size = run.recipe.data.shape
    model = for_mobile(run.model, size)
    with warnings.catch_warnings(), _quiet(), patch.object(constants, "from_tensor", keep):
        warnings.simplefilter("ignore")
        converted = litert_torch.convert(model, (torch.zeros(1, 3, *size),))

    def write(path: Path, metadata: Mapping[str, str]) -> None:
        with _quiet():
            converted.export(str(path))
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("egeunet.json", json.dumps(dict(metadata)))

    return write


def _quiet() -> contextlib.redirect_stdout[Any]:
    """Keep the progress of the converter out of standard output, which may be JSON."""
    return contextlib.redirect_stdout(sys.stderr)


def open_network(path: Path, threads: int) -> Network:
    """Open a file in LiteRT's interpreter."""
    from egeunet.exporting.runtimes import one_by_one

    with needs_extra("litert"):
        from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def run(image: Batch) -> Batch:
        interpreter.set_tensor(source, image)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return one_by_one(run)
