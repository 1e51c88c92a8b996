"""The export formats, and the export that keeps only files that compute what torch computes."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from egeunet.engine.library import load_engine
from egeunet.errors import ParityError, UsageError
from egeunet.exporting import coreml, executorch, litert, ncnn, openvino
from egeunet.exporting.engine import has_engine, pack
from egeunet.exporting.onnx import core_graph, describe, dynamic_graph, photo_graph, serialize
from egeunet.exporting.parity import Parity, Reference, compare, make_reference
from egeunet.exporting.quality import fit_run
from egeunet.files import atomic_write, check_folder
from egeunet.inference.quality import DiceEstimator
from egeunet.progress import track
from egeunet.training.run import Run

_LOG = logging.getLogger(__name__)

Writer: TypeAlias = Callable[[Path, Mapping[str, str]], None]
"""Writes a file with metadata, and the files that belong to it beside it."""


@dataclass(frozen=True)
class Format:
    """A file that `egeunet export` can write.

    Args:
        name: Name of the format; a name may stand for several files.
        file: Name of the file.
        title: What the file holds.
        build: Converts a trained model.
        platform: `sys.platform` where its runtime exists, if it is one alone; elsewhere the file is
            kept without a check.
        difference: Largest difference from torch (see `Parity`) with which a file is kept.
        iou: Smallest mean IoU of the masks with which a file is kept.
    """

    name: str
    file: str
    title: str
    build: Callable[[Run], Writer]
    platform: str | None = None
    difference: float = 1e-3
    iou: float = 0.995


def _file(make: Callable[[Mapping[str, str]], bytes]) -> Writer:
    """Return the writer of a file from the function that makes its bytes of metadata."""

    def write(path: Path, metadata: Mapping[str, str]) -> None:
        path.write_bytes(make(metadata))

    return write


FORMATS = (
    Format(
        "engine",
        "model.egeu",
        "float32, for the C engine: what `Segmenter` runs where the engine runs the model",
        lambda run: _file(partial(pack, run)),
    ),
    Format(
        "engine-fp16",
        "model-fp16.egeu",
        "as model.egeu with weights stored in float16: half the size",
        lambda run: _file(partial(pack, run, half=True)),
        difference=math.inf,  # single pixels may differ by much, where a small deviation divides
        iou=0.99,
    ),
    Format(
        "onnx",
        "model.onnx",
        "float32: images (B, 3, 256, 256) to logits, for ONNX Runtime",
        lambda run: _file(partial(serialize, core_graph(run))),
    ),
    Format(
        "onnx",
        "photo.onnx",
        "float32: an image of any size to its probability, pre- and postprocessing inside",
        lambda run: _file(partial(serialize, photo_graph(run))),
        difference=0.1,  # at the border of an image that shrinks; the masks are compared too
    ),
    Format(
        "onnx-dynamic",
        "dynamic.onnx",
        "float32: as model.onnx for any height and width in steps of 32, from 64 on",
        lambda run: _file(partial(serialize, dynamic_graph(run))),
    ),
    Format(
        "onnx-fp16",
        "model-fp16.onnx",
        "as model.onnx with weights stored in float16: half the size, the same speed",
        lambda run: _file(partial(serialize, core_graph(run), half=True)),
        difference=math.inf,
        iou=0.99,
    ),
    Format(
        "openvino",
        "model.xml",
        "float32, with model.bin: for OpenVINO",
        openvino.convert,
    ),
    Format(
        "litert",
        "model.tflite",
        "float32: for LiteRT (TensorFlow Lite) on Android, iOS and the web",
        litert.convert,
    ),
    Format(
        "executorch",
        "model.pte",
        "float32: for ExecuTorch on Android and iOS",
        executorch.convert,
    ),
    Format(
        "ncnn",
        "model.ncnn.param",
        "float32, with model.ncnn.bin: for ncnn",
        ncnn.convert,
    ),
    Format(
        "coreml",
        "model.mlpackage",
        "float16: for Core ML on iOS and macOS",
        coreml.convert,
        platform="darwin",
        difference=math.inf,
        iou=0.99,
    ),
)
NAMES = tuple(dict.fromkeys(form.name for form in FORMATS))
DEFAULT = ("engine", "onnx")


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Args:
        path: The file.
        parity: Its measured difference from the model in torch; None if its runtime does not exist
            on this platform.
    """

    path: Path
    parity: Parity | None


def export_run(
    run: Run, folder: Path | None = None, formats: Sequence[str] | None = None
) -> list[Exported]:
    """Export a trained model; a file is kept only if it computes the same as torch.

    Args:
        run: The trained model.
        folder: Output folder; the run folder by default.
        formats: Names of `FORMATS`; by default `DEFAULT`, without the engine for models or
            installations without it.

    Raises:
        UsageError: If a format is unknown or not for this model, or `folder` is a file.
        ParityError: If a file differs from torch by more than its format allows; it is not kept.
    """
    for name in formats or ():
        if name not in NAMES:
            raise UsageError(f"Unknown format {name!r}: expected one of {', '.join(NAMES)}.")
    if formats is None:
        engine = has_engine(run) and load_engine() is not None
        formats = [name for name in DEFAULT if engine or name != "engine"]
    check_folder(folder or run.folder)
    reference = make_reference(run)
    wanted = [form for form in FORMATS if form.name in formats]
    quality = fit_run(run)
    return [
        write_format(form, run, folder or run.folder, reference, quality)
        for form in track(wanted, "exporting", len(wanted))
    ]


def write_format(
    form: Format,
    run: Run,
    folder: Path,
    reference: Reference,
    quality: DiceEstimator | None = None,
) -> Exported:
    """Write one format to a folder; the errors are those of `export_run`."""
    write = form.build(run)
    entries = describe(run, format=form.name)
    if quality:
        entries["quality"] = quality.to_json()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as name:
        path = Path(name) / form.file
        parity = None
        if form.platform in (None, sys.platform):
            write(path, {})
            parity = compare(reference, path)
            _check(form, parity, run)
            entries["parity"] = json.dumps(parity.to_dict())
        else:
            _LOG.warning(f"{form.file} was not compared with torch: it runs on macOS only")
        write(path, entries)
        for part in sorted(path.parent.iterdir()):
            _keep(part, folder / part.name)
    return Exported(folder / form.file, parity)


def _check(form: Format, parity: Parity, run: Run) -> None:
    wrong = []
    if not parity.difference <= form.difference:
        at_most = f"at most {form.difference:.0e}"
        wrong.append(f"differs from torch by {parity.difference:.1e} ({at_most})")
    if not parity.iou >= form.iou:
        wrong.append(f"has masks of IoU {parity.iou:.4f} with torch's (at least {form.iou})")
    if wrong:
        fault = " and ".join(wrong)
        raise ParityError(f"{form.file} of {run.folder} {fault}: it was not kept.")


def _keep(source: Path, target: Path) -> None:
    """Move a file, or the folder that a Core ML package is, in the place of the one before."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        source.replace(target)
    else:
        with atomic_write(target) as temporary:
            source.replace(temporary)
