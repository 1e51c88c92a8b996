"""`egeunet train`."""

from __future__ import annotations

from typing import Annotated

import typer

from egeunet.cli.options import flag


def train(
    recipe: Annotated[
        str, typer.Argument(help="Recipe: a YAML file, or the name of a shipped one.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings that override the recipe's."),
    ] = None,
    resume: Annotated[
        bool, flag("--resume", "Continue from the checkpoint in the run folder.")
    ] = False,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Seeds that train at a time; default: one per core.")
    ] = None,
) -> None:
    """Train a model and write a run folder with weights, curves and an ONNX file.

    For example:

        egeunet train egeunet-isic2018 data.root=isic2018 trainer.epochs=40 seed=3 out=runs/x

        egeunet train egeunet-isic2018 data.root=isic2018 seeds=0-4 out=runs/five

        egeunet train egeunet-isic2018 data.root=isic2018 devices=2 out=runs/two
    """
    import egeunet
    from egeunet.training.distributed import is_first

    folder = egeunet.train(recipe, *settings or (), resume=resume, at_once=at_once)
    if is_first():
        typer.echo(folder)
