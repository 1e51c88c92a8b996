"""`egeunet evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from egeunet.cli.console import print_json, print_table
from egeunet.cli.options import Json, Overwrite, flag, output


def evaluate(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_WEIGHTS",
            help="A run folder, an .egeu or .onnx file, or the name or URL of one.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Dataset name (see `egeunet data list`) or folder; the run's own by default."
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="paper (7:3, selected on test), holdout (70/10/20), or external (all images of "
            "--data not seen in training, as far as the weights say). By default the run's own; "
            "external for an exported file on another dataset than its own."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    last: Annotated[
        bool, flag("--last", "Score the last epoch of a run, not the selected one.")
    ] = False,
    tta: Annotated[
        bool, flag("--tta", "Average over four mirror images (exported files only).")
    ] = False,
    corruptions: Annotated[
        bool,
        flag(
            "--corruptions",
            "Also score synthetic hair, rulers, blur, noise, JPEG, uneven illumination, white "
            "balance and rotation at five severities, and groups by lesion size and skin tone: 41 "
            "times the work.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        output("Folder for metrics.json, per_image.csv and figures; RUN/evaluation by default."),
    ] = None,
    overwrite: Overwrite = False,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Append a row to this .jsonl file; pixel counts per image and the run's epochs go "
            "to per_image/ and history/ beside it."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Json = False,
) -> None:
    """Score a trained model on a dataset, with 95 % confidence intervals and the worst cases.

    Pooled scores are the paper's: one confusion matrix over all pixels. Intervals are bootstrapped
    over images. For an exported file the Dice estimates of its masks are scored too, and drawn as
    quality.png.

    For example:

        egeunet evaluate runs/x

        egeunet evaluate isic2018 --data isic2018 -o evaluation
    """
    import egeunet
    from egeunet.evaluation import robustness
    from egeunet.evaluation.evaluator import COLUMNS

    result = egeunet.evaluate(
        weights,
        data=data,
        protocol=protocol,
        split=split,
        last=last,
        tta=tta,
        corruptions=corruptions,
        device=device,
        out=out,
        overwrite=overwrite,
        record=record,
    )
    if as_json:
        print_json(result.to_dict())
    else:
        about = "{dataset}, protocol {protocol}, split {split}".format(**result.about)
        print_table(f"{weights}: {result.n} images of {about}", COLUMNS, result.table())
        if found := result.robustness:
            for title, columns, rows in robustness.tables(found):
                print_table(title, columns, rows)
