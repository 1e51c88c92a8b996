"""`egeunet report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDERS...",
            help="Run folders, folders of these, or .jsonl files of `egeunet evaluate --record`.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the page, scores.csv and figures.")
    ] = Path("report"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing report.")
    ] = False,
) -> None:
    """Compare evaluated models: scores with 95 % intervals, paired differences, training curves.

    For example:

        egeunet evaluate runs/a && egeunet evaluate runs/b

        egeunet report runs -o report
    """
    from egeunet.errors import UsageError
    from egeunet.evaluation.report import find_evaluations, write_report

    if (output / "README.md").exists() and not overwrite:
        raise UsageError(
            f"{output} already has a report in it: choose another folder or give --overwrite."
        )
    found = [one for source in sources for one in find_evaluations(source)]
    for path in write_report(found, output):
        typer.echo(path)
