"""`egeunet report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from egeunet.cli.options import Overwrite, check_absent, output


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDERS...",
            help="Run folders, folders of these, or .jsonl files of `egeunet evaluate --record`.",
        ),
    ],
    out: Annotated[Path, output("Folder for the page, scores.csv and figures.")] = Path("report"),
    overwrite: Overwrite = False,
) -> None:
    """Compare evaluated models: scores with 95 % intervals, paired differences, training curves.

    For example:

        egeunet evaluate runs/a && egeunet evaluate runs/b

        egeunet report runs -o report
    """
    from egeunet.evaluation.report import find_evaluations, write_report

    if not overwrite:
        check_absent([out / "README.md"])
    found = [one for source in sources for one in find_evaluations(source)]
    for path in write_report(found, out):
        typer.echo(path)
