"""The export formats, and the export that keeps only files that compute what torch computes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from egeunet.engine.library import load_engine
from egeunet.errors import ParityError, UsageError
from egeunet.exporting.engine import has_engine, pack
from egeunet.exporting.onnx import core_graph, describe, dynamic_graph, photo_graph, serialize
from egeunet.exporting.parity import Parity, Reference, compare, make_reference
from egeunet.exporting.quality import fit_run
from egeunet.files import atomic_write, check_folder
from egeunet.inference.quality import DiceEstimator
from egeunet.progress import track
from egeunet.training.run import Run

Writer: TypeAlias = Callable[[Mapping[str, str]], bytes]
"""From metadata to the bytes of a file."""


@dataclass(frozen=True)
class Format:
    """A file that `egeunet export` can write.

    Args:
        name: Name of the format; a name may stand for several files.
        file: Name of the file.
        title: What the file holds.
        build: Converts a trained model.
        difference: Largest difference from torch (see `Parity`) with which a file is kept.
        iou: Smallest mean IoU of the masks with which a file is kept.
    """

    name: str
    file: str
    title: str
    build: Callable[[Run], Writer]
    difference: float = 1e-3
    iou: float = 0.995


FORMATS = (
    Format(
        "engine",
        "model.egeu",
        "float32, for the C engine: what `Segmenter` runs where the engine runs the model",
        lambda run: partial(pack, run),
    ),
    Format(
        "engine-fp16",
        "model-fp16.egeu",
        "as model.egeu with weights stored in float16: half the size",
        lambda run: partial(pack, run, half=True),
        difference=math.inf,  # single pixels may differ by much, where a small deviation divides
        iou=0.99,
    ),
    Format(
        "onnx",
        "model.onnx",
        "float32: images (B, 3, 256, 256) to logits, for ONNX Runtime",
        lambda run: partial(serialize, core_graph(run)),
    ),
    Format(
        "onnx",
        "photo.onnx",
        "float32: an image of any size to its probability, pre- and postprocessing inside",
        lambda run: partial(serialize, photo_graph(run)),
        difference=0.1,  # at the border of an image that shrinks; the masks are compared too
    ),
    Format(
        "onnx-dynamic",
        "dynamic.onnx",
        "float32: as model.onnx for any height and width in steps of 32, from 64 on",
        lambda run: partial(serialize, dynamic_graph(run)),
    ),
    Format(
        "onnx-fp16",
        "model-fp16.onnx",
        "as model.onnx with weights stored in float16: half the size, the same speed",
        lambda run: partial(serialize, core_graph(run), half=True),
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
        parity: Its measured difference from the model in torch.
    """

    path: Path
    parity: Parity


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
    parity = compare(reference, write({}), form.file)
    wrong = []
    if not parity.difference <= form.difference:
        at_most = f"at most {form.difference:.0e}"
        wrong.append(f"differs from torch by {parity.difference:.1e} ({at_most})")
    if not parity.iou >= form.iou:
        wrong.append(f"has masks of IoU {parity.iou:.4f} with torch's (at least {form.iou})")
    if wrong:
        fault = " and ".join(wrong)
        raise ParityError(f"{form.file} of {run.folder} {fault}: it was not kept.")
    entries = describe(run, format=form.name, parity=json.dumps(parity.to_dict()))
    if quality:
        entries["quality"] = quality.to_json()
    with atomic_write(folder / form.file) as temporary:
        temporary.write_bytes(write(entries))
    return Exported(folder / form.file, parity)
