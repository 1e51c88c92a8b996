"""The one table of formats: what `egeunet export` can write, and how."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from egeunet.errors import ParityError, UsageError
from egeunet.exporting.onnx import core_graph, describe, dynamic_graph, photo_graph
from egeunet.exporting.parity import (
    Parity,
    Reference,
    compare_core,
    compare_photo,
    make_reference,
)
from egeunet.exporting.quality import fit_run
from egeunet.exporting.quantize import store_half, store_int6
from egeunet.files import atomic_write, check_folder
from egeunet.inference.quality import DiceEstimator
from egeunet.progress import track
from egeunet.training.run import Run


@dataclass(frozen=True)
class Format:
    """One file that `egeunet export` can write.

    Args:
        name: What it is asked for by; several files may belong to one name.
        file: What it is called in the run folder.
        title: What it is.
        build: Makes the graph.
        compare: Measures how near the file comes to the network.
        difference: The largest difference with which a file is kept.
        iou: The smallest IoU with which it is kept.
    """

    name: str
    file: str
    title: str
    build: Callable[[Run], onnx.ModelProto]
    compare: Callable[[Reference, Path], Parity] = compare_core
    difference: float = 1e-3
    iou: float = 0.995


FORMATS = (
    Format(
        "onnx",
        "model.onnx",
        "float32: image (B, 3, 256, 256) to logits; what `Segmenter` runs",
        core_graph,
    ),
    Format(
        "onnx",
        "photo.onnx",
        "float32: a photo of any size to its probability, pre- and postprocessing inside",
        photo_graph,
        compare_photo,
        difference=0.1,  # at the rim of a shrinking photo; see the mask
    ),
    Format(
        "onnx-dynamic",
        "dynamic.onnx",
        "float32: as model.onnx for any height and width in steps of 32, from 64 on",
        dynamic_graph,
    ),
    Format(
        "onnx-fp16",
        "model-fp16.onnx",
        "as model.onnx with weights stored in float16: half the size, the same speed",
        lambda run: store_half(core_graph(run)),
        difference=math.inf,  # single pixels may differ by much where a deviation is divided by
        iou=0.99,
    ),
    Format(
        "onnx-int6",
        "model-int6.onnx",
        "as model.onnx with weights stored as six-bit integers: a third of the size, as fast",
        lambda run: store_int6(core_graph(run)),
        difference=math.inf,
        iou=0.95,
    ),
)

NAMES = tuple(dict.fromkeys(form.name for form in FORMATS))


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
    run: Run,
    folder: Path | None = None,
    formats: Sequence[str] = ("onnx",),
) -> list[Exported]:
    """Export a trained model; a file is kept only if it computes the same as torch.

    Args:
        run: The trained model.
        folder: Output folder; the run folder by default.
        formats: Names of `FORMATS`.

    Raises:
        UsageError: If a format is unknown, or `folder` is a file.
        ParityError: If a file differs from torch by more than its format allows; it is not kept.
    """
    for name in formats:
        if name not in NAMES:
            raise UsageError(f"Unknown format {name!r}: expected one of {', '.join(NAMES)}.")
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
    model = form.build(run)
    with atomic_write(folder / form.file) as temporary:
        onnx.save(model, temporary)
        parity = form.compare(reference, temporary)
        wrong = []
        if not parity.difference <= form.difference:
            at_most = f"at most {form.difference:.0e}"
            wrong.append(f"differs from torch by {parity.difference:.1e} ({at_most})")
        if not parity.iou >= form.iou:
            wrong.append(f"has masks of IoU {parity.iou:.4f} with torch's (at least {form.iou})")
        if wrong:
            fault = " and ".join(wrong)
            raise ParityError(f"{form.file} of {run.folder} {fault}: it was not kept.")
        entries = {one.key: one.value for one in model.metadata_props}
        entries |= describe(run, format=form.name, parity=json.dumps(parity.to_dict()))
        if quality:
            entries["quality"] = quality.to_json()
        onnx.helper.set_model_props(model, entries)
        onnx.save(model, temporary)
    return Exported(folder / form.file, parity)
