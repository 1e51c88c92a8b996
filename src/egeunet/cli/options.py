"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

Weights: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        help="A run folder, an .onnx file, a name or a URL#sha256=…; isic2018 by default.",
    ),
]
