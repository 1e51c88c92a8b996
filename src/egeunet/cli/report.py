"""`egeunet report`: figures made of the paper's numbers and of `results/`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from egeunet.cli.console import console_reporter

app = typer.Typer(
    name="report",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Draw figures from the paper's numbers and from results.",
)


@app.callback()
def _report() -> None:
    pass  # with a callback the name of an only command is not left out


@app.command()
def figure1(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="An image file: .png, .svg or .pdf.")
    ] = Path("figure1.png"),
    results: Annotated[
        Path, typer.Option(help="The folder of .jsonl files that `egeunet evaluate` records.")
    ] = Path("results"),
) -> None:
    """Draw parameters against mIoU on ISIC 2018, coloured by MACs, as in the paper's Figure 1.

    Circles are Table 1 of the paper. Diamonds are runs of your own: rows of the results with
    protocol paper, scored on the test part, averaged over seeds.

    For example:

        egeunet report figure1 -o figure1.svg
    """
    from egeunet.evaluation import figure1 as drawing
    from egeunet.evaluation.figures import save_figure

    measured = drawing.result_points(results)
    save_figure(drawing.figure1([*drawing.paper_points(), *measured]), output)
    console_reporter().info(
        f"written to {output}: {len(measured)} measured here, the others from the paper"
    )
