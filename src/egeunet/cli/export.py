"""`egeunet export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from egeunet.cli.console import print_json, print_table
from egeunet.cli.options import Json, Overwrite, check_absent, output


def export(
    run: Annotated[Path, typer.Argument(help="A run folder, or a name such as isic2018.")],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            help="engine, engine-fp16, onnx, onnx-dynamic or onnx-fp16; may be repeated.",
        ),
    ] = None,
    out: Annotated[Path | None, output("Folder to write to; by default the run folder.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a trained model in other formats, each checked against torch on images.

    By default onnx and, of EGE-UNet with one class, engine; training writes both to its run folder.
    onnx is two files: model.onnx, the network alone, and photo.onnx, from an image of any size to
    its probability. A file that does not compute what torch computes is not kept.

    For example:

        egeunet export runs/x -f engine-fp16 -f onnx -o exported/
    """
    import egeunet
    from egeunet.exporting.formats import DEFAULT, FORMATS

    names = formats or DEFAULT
    if not overwrite:
        check_absent((out or run) / form.file for form in FORMATS if form.name in names)
    files = egeunet.export(run, out, formats=names)
    if as_json:
        rows = [
            {"path": str(one.path), "bytes": one.path.stat().st_size, **one.parity.to_dict()}
            for one in files
        ]
        print_json(rows)
        return
    print_table(
        f"Compared with torch on {files[0].parity.images} images ({files[0].parity.of})",
        ["file", "KB", "largest difference", "mask IoU"],
        [
            [
                one.path,
                f"{one.path.stat().st_size / 1000:.0f}",
                f"{one.parity.difference:.1e}",
                f"{one.parity.iou:.4f}",
            ]
            for one in files
        ],
    )
