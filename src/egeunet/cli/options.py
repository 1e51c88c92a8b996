"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from egeunet.errors import UsageError

WEIGHTS = "A run folder, an .egeu or .onnx file, a name or a URL#sha256=…; isic2018 by default."


def flag(name: str, text: str) -> Any:
    """Return an option without a value and, unlike typer's own, without a --no- form."""
    return typer.Option(name, help=text)


def output(text: str) -> Any:
    """Return the option --output, -o."""
    return typer.Option("--output", "-o", help=text)


Weights: TypeAlias = Annotated[str | None, typer.Option("--weights", "-w", help=WEIGHTS)]
Threshold: TypeAlias = Annotated[
    float | None,
    typer.Option(
        help="Pixels with this probability or more are in the mask. Default: from the weights."
    ),
]
Tta: TypeAlias = Annotated[
    bool, flag("--tta", "Average over four mirror images, at four times the cost.")
]
Overwrite: TypeAlias = Annotated[bool, flag("--overwrite", "Replace files that exist.")]
Json: TypeAlias = Annotated[bool, flag("--json", "Print JSON.")]


def check_absent(paths: Iterable[Path]) -> None:
    """Check that files do not exist, before any work is done for them.

    Raises:
        UsageError: One exists.
    """
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} exists; give --overwrite to replace it.")
