"""`egeunet export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
            help="engine, engine-fp16, onnx, onnx-dynamic, onnx-fp16, openvino, "
            "litert, executorch, ncnn or coreml; may be repeated.",
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
    from egeunet.exporting.runtimes import file_size

    names = formats or DEFAULT
    if not overwrite:
        check_absent((out or run) / form.file for form in FORMATS if form.name in names)
    files = egeunet.export(run, out, formats=names)
    rows: list[dict[str, Any]] = [
        {"path": str(one.path), "bytes": file_size(one.path)}
        | (one.parity.to_dict() if one.parity else {})
        for one in files
    ]
    if as_json:
        print_json(rows)
        return
    compared = next((row for row in rows if "of" in row), None)
    print_table(
        f"Compared with torch on {compared['images']} images ({compared['of']})"
        if compared
        else "Not compared with torch",
        ["file", "KB", "largest difference", "mask IoU"],
        [
            [
                row["path"],
                f"{row['bytes'] / 1000:.0f}",
                f"{row['difference']:.1e}" if "of" in row else "not run",
                f"{row['iou']:.4f}" if "of" in row else "not run",
            ]
            for row in rows
        ],
    )
