"""`egeunet train`."""

from __future__ import annotations

from typing import Annotated

import typer

from egeunet.cli.console import console_reporter


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe: a YAML file, or the name of one that is shipped.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace those of the recipe."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the run folder.")
    ] = False,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of several seeds, how many at a time; if not given, one per core, and all on a "
            "GPU.",
        ),
    ] = None,
) -> None:
    """Train a system and leave a run folder with weights, curves and an ONNX file.

    For example:

        egeunet train egeunet-isic2018 data.root=isic2018 trainer.epochs=40 seed=3 out=runs/x

        egeunet train egeunet-isic2018 data.root=isic2018 seeds=0-4 out=runs/five

        egeunet train egeunet-isic2018 data.root=isic2018 devices=2 out=runs/two
    """
    import egeunet
    from egeunet.training.distributed import is_first

    folder = egeunet.train(
        recipe, *settings or (), resume=resume, at_once=at_once, reporter=console_reporter()
    )
    if is_first():
        typer.echo(folder)
