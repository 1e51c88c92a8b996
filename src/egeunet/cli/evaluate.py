"""`egeunet evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from egeunet.cli.console import console_reporter, print_json, print_table


def evaluate(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_WEIGHTS", help="A run folder, an ONNX file, or the name or URL of one."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="A dataset by name (see `egeunet data list`) or a folder; the run's own if not "
            "given."
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="paper (7:3, selected on test), holdout (70/10/20), or external (all of --data "
            "that was not seen in training, as far as the weights say). If not given, the run's "
            "own; for an ONNX file on another dataset than its own, external."
        ),
    ] = None,
    part: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    last: Annotated[
        bool, typer.Option("--last", help="The last epoch of a run, not the selected one.")
    ] = False,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over four mirror images; ONNX files only.")
    ] = False,
    corruptions: Annotated[
        bool,
        typer.Option(
            "--corruptions",
            help="Also score hair, rulers, blur, noise, JPEG, light, colour and rotation at five "
            "strengths each, small and large lesions, light and dark photos: 41 times the work.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for metrics.json, per_image.csv and figures; RUN/evaluation if not given.",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="A .jsonl file of results to which a row is added; counts per image and the "
            "run's epochs go to per_image/ and history/ beside it."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score trained weights on a dataset, with 95 % intervals and the worst cases.

    Pooled scores are the paper's: one confusion matrix over all pixels. Intervals are bootstrapped
    over images. Of an ONNX file it also says how well the quality that it gives each mask tells
    failures, and draws that as quality.png.

    For example:

        egeunet evaluate runs/x

        egeunet evaluate isic2018 --data isic2018 -o evaluation
    """
    import egeunet
    from egeunet.evaluation.report import COLUMNS, table_rows
    from egeunet.evaluation.robustness import CORRUPTION_COLUMNS, GROUP_COLUMNS

    result = egeunet.evaluate(
        weights,
        data=data,
        protocol=protocol,
        part=part,
        last=last,
        tta=tta,
        corruptions=corruptions,
        device=device,
        out=output,
        record=record,
        reporter=console_reporter(),
    )
    if as_json:
        print_json(result.to_dict())
    else:
        about = "{dataset}, protocol {protocol}, part {part}".format(**result.about)
        print_table(f"{weights}: {result.n} images of {about}", COLUMNS, table_rows(result))
        if found := result.robustness:
            print_table("corrupted, by severity", CORRUPTION_COLUMNS, found.corruption_rows())
            print_table("in groups", GROUP_COLUMNS, found.group_rows())
