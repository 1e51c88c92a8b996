"""`egeunet batch`."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from egeunet.batch import SHARD_SIZE
from egeunet.cli.console import print_json
from egeunet.cli.options import Json, Weights, flag, output
from egeunet.errors import InterruptedRunError, needs_extra
from egeunet.notice import NOTICE


def batch(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Folders, globs, images, tars, Parquet files; paths or s3://, gs://, az://, …",
        ),
    ],
    out: Annotated[str, output("Folder to write to; a path or URI.")],
    weights: Weights = None,
    address: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster, or `auto`; by default Ray on this machine."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of workers, one core each; by default all cores."),
    ] = None,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Number of images per Parquet file.")
    ] = SHARD_SIZE,
    masks: Annotated[bool, flag("--masks", "Also write masks as PNG.")] = False,
    as_json: Json = False,
) -> None:
    """Segment a large image archive with Ray, on this machine or a cluster, into Parquet.

    Writes `parts/part-00000.parquet` and so on, with a row per image: its mask as run lengths,
    area, box, quality, or the error if it could not be segmented; and `summary.json`. Run the same
    command again to resume after Ctrl-C, a crash or the loss of a machine; each image gets one row.
    The exit code is 1 if an image could not be segmented. For folders on one machine,
    `egeunet predict` does not need Ray.

    Research use only; not a medical device or a diagnosis.

    For example:

        egeunet batch images/ -o segmented/

        egeunet batch s3://bucket/images -o s3://bucket/masks --address auto
    """
    try:
        with needs_extra("batch"):
            from egeunet.batch.job import segment_archive

            summary = segment_archive(
                inputs,
                out,
                weights=weights,
                address=address,
                workers=workers,
                shard_size=shard_size,
                masks=masks,
            )
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            f"Interrupted: {out} keeps what is written; run the same command to resume.",
            signal.SIGINT,
        ) from error
    if as_json:
        print_json({"notice": NOTICE, **asdict(summary)})
    else:
        rate = f" ({summary.images_per_second:.0f} images/s)" if summary.segmented else ""
        skipped = f", {summary.skipped} done before" if summary.skipped else ""
        done = summary.images - summary.errors
        sys.stdout.write(f"{out}: {done} segmented{rate}, {summary.errors} failed{skipped}\n")
    if summary.errors:
        raise typer.Exit(1)
