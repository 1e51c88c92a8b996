"""`egeunet batch`."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from egeunet.batch import SHARD_SIZE
from egeunet.cli.console import console_reporter, print_json
from egeunet.cli.options import Weights
from egeunet.errors import InterruptedRunError, needs_extra
from egeunet.notice import NOTICE


def batch(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Folders, globs, photos, tars, Parquet files; paths or s3://, gs://, az://, …",
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder for what is written; a path or URI.")
    ],
    weights: Weights = None,
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster, or `auto`; one of this machine by default."),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(min=1, help="The most workers, a core each; all cores by default."),
    ] = None,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Photos of a part of the output.")
    ] = SHARD_SIZE,
    masks: Annotated[bool, typer.Option("--masks", help="Also write each mask as PNG.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Segment an archive of many photos with Ray, on this machine or a cluster, into Parquet.

    Writes `parts/part-00000.parquet` and so on: a row per photo with its mask as run lengths, area,
    box, quality and the error of a photo that could not be segmented; and `summary.json`. After
    Ctrl-C, a crash or the loss of a machine the same command goes on; each photo is there once.
    The exit code is 1 if a photo could not be segmented. `egeunet predict` does one machine's
    folders without Ray.

    Research use only; not a medical device or a diagnosis.

    For example:

        egeunet batch photos/ -o segmented/

        egeunet batch s3://bucket/photos -o s3://bucket/masks --address auto
    """
    with needs_extra("batch"):
        from egeunet.batch.archive import segment_archive
    try:
        summary = segment_archive(
            inputs,
            output,
            weights=weights,
            address=address,
            actors=actors,
            shard_size=shard_size,
            masks=masks,
            reporter=console_reporter(),
        )
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            f"interrupted: what is in {output} stays, and the same command goes on.", signal.SIGINT
        ) from error
    if as_json:
        print_json({"notice": NOTICE, **asdict(summary)})
    else:
        rate = f" ({summary.photos_per_second:.0f}/s)" if summary.segmented else ""
        there = f", {summary.earlier} already there" if summary.earlier else ""
        done = summary.photos - summary.errors
        sys.stdout.write(f"{done} done{rate}, {summary.errors} failed{there}: {output}\n")
    if summary.errors:
        raise typer.Exit(1)
