"""`egeunet report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from egeunet.cli.console import console_reporter
from egeunet.errors import UsageError


def report(
    results: Annotated[
        Path, typer.Option(help="The folder of .jsonl files that evaluate and sweep record.")
    ] = Path("results"),
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder for the page, tables and figures.")
    ] = Path("docs/report"),
    runs: Annotated[
        Path | None,
        typer.Option(help="A folder of run folders, whose masks are drawn (Figure 4)."),
    ] = None,
    photo: Annotated[
        list[str] | None, typer.Option(help="With --runs: the id of a photo to draw; repeatable.")
    ] = None,
) -> None:
    """Write the paper's tables and figures, ours beside the paper's, from the rows of results.

    Goals, Tables 1 and 2, protocol effects, trials, significance, quality and robustness (Markdown,
    CSV, LaTeX); Figure 1, training curves, quality, robustness and, with --runs, Figure 4 (PNG).
    What was not run says so.

    For example:

        egeunet report --runs runs/sweep --photo ISIC_0000000
    """
    from egeunet.evaluation.publish import write_report

    if not results.is_dir():
        raise UsageError(f"There is no folder {results}: name that of the recorded results.")
    if photo and runs is None:
        raise UsageError("--photo names what --runs draws: give both.")
    written = write_report(results, output, runs=runs, photos=photo or ())
    console_reporter().info(f"written to {output}: {len(written)} files")
    typer.echo(output / "README.md")
