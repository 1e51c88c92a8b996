"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from egeunet.errors import UsageError

Weights: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        help="A run folder, an .egeu or .onnx file, a name or a URL#sha256=…; isic2018 by default.",
    ),
]

Overwrite: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", help="Replace files that exist.")
]


def check_absent(paths: Iterable[Path]) -> None:
    """Refuse to replace files, before any work is done for them.

    Raises:
        UsageError: One exists.
    """
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} exists; give --overwrite to replace it.")
