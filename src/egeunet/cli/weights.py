"""`egeunet weights`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from egeunet.cli.console import print_json, print_table
from egeunet.cli.options import Json
from egeunet.errors import UsageError


def weights(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Print the card of these weights.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the shipped weights, or print the card of one.

    Weights are under the terms of the data that they were trained on. The score is the pooled Dice
    of the validation split. A card has the scores of the test split with intervals, and the
    intended use.

    For example:

        egeunet weights isic2018
    """
    from egeunet.inference.weights import list_shipped

    files = list_shipped()
    if name and name not in files:
        raise UsageError(f"There are no weights {name!r}: expected one of {', '.join(files)}.")
    if name and not as_json:
        sys.stdout.write(files[name].with_suffix(".md").read_text(encoding="utf-8"))
        return
    rows = [_row(one, file) for one, file in files.items() if name in (None, one)]
    if as_json:
        print_json(rows)
        return
    columns = ["name", "trained on", "terms of the data", "DSC, validation", "SHA-256"]
    cells = [
        [row[key] for key in ("name", "dataset", "data_licence")]
        + [f"{row['scores']['val_dice']:.2%}", row["sha256"]]
        for row in rows
    ]
    print_table("Weights in the package", columns, cells)


def _row(name: str, file: Path) -> dict[str, Any]:
    from egeunet.files import sha256_file
    from egeunet.inference.segmenter import Segmenter

    metadata = Segmenter(file).metadata
    return {
        "name": name,
        "model": metadata.model,
        "dataset": metadata.dataset,
        "protocol": metadata.protocol,
        "data_licence": metadata.data_licence,
        "scores": dict(metadata.scores),
        "scores_on": metadata.scores_on,
        "intended_use": metadata.intended_use,
        "sha256": sha256_file(file),
    }
