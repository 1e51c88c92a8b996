"""`egeunet predict`."""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from egeunet.cli.console import print_json
from egeunet.cli.options import Json, Overwrite, Threshold, Tta, Weights, flag, output
from egeunet.errors import UsageError
from egeunet.notice import NOTICE
from egeunet.progress import bar

if TYPE_CHECKING:
    from egeunet.inference.segmenter import Segmenter

logger = logging.getLogger(__name__)


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|FOLDER|GLOB|URL",
            help="Images, folders, glob patterns or URLs; - reads one image from a pipe.",
        ),
    ],
    out: Annotated[Path, output("Folder to write to; - writes one mask to a pipe.")],
    weights: Weights = None,
    overlay: Annotated[bool, flag("--overlay", "Also write images with their mask drawn.")] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Include subfolders, and keep them.")
    ] = False,
    skip_existing: Annotated[
        bool, flag("--skip-existing", "Skip images that already have a mask.")
    ] = False,
    overwrite: Overwrite = False,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Images segmented at a time. Default: one per core, at most 8."),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="ONNX Runtime execution provider, such as cuda, coreml, nnapi, openvino or "
            "webgpu; may be repeated, in order of preference. Falls back to the CPU.",
        ),
    ] = None,
    threshold: Threshold = None,
    tta: Tta = False,
    largest_component: Annotated[
        bool, flag("--largest-component", "Keep only the mask's largest component.")
    ] = False,
    fill_holes: Annotated[bool, flag("--fill-holes", "Fill the holes of the mask.")] = False,
    as_json: Json = False,
) -> None:
    """Segment images: write masks, overlays, and a table of area, box and quality.

    Writes `NAME_mask.png` for each image at its own size (`NAME.jpg_mask.png` where two images
    share a name), with --overlay also `NAME_overlay.jpg`, and `predictions.csv` and
    `predictions.json`. A file that cannot be segmented is reported and skipped; the exit code is
    then 1. `quality` is the estimated Dice score of a mask, and `review` marks masks that a person
    should check. An unmarked mask can still be wrong.

    Research use only; not a medical device or a diagnosis.

    For example:

        egeunet predict images/ -o masks/ --overlay

        egeunet predict - -o - < image.jpg > mask.png
    """
    from egeunet.inference.paths import find_images, find_other_files
    from egeunet.inference.segmenter import Segmenter

    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing exclude each other: choose one.")
    open_segmenter = partial(
        Segmenter,
        weights,
        threads=threads,
        providers=provider,
        threshold=threshold,
        tta=tta,
        largest_component=largest_component,
        fill_holes=fill_holes,
    )
    if str(out) == "-":
        sources = [] if images == ["-"] else list(find_images(images, recursive))
        _predict_to_pipe(open_segmenter(), sources, overlay, as_json)
        return
    if "-" in images:
        raise UsageError("An image from a pipe has no name: write its mask with `predict - -o -`.")

    from egeunet.inference.folder import is_done, mask_options, plan, run_jobs
    from egeunet.inference.predictions import TABLE, check_options, open_table, read_rows

    jobs = plan(images, out, recursive, overlay)
    others = [path for path in find_other_files(images, recursive) if path.stem != Path(TABLE).stem]
    if others:
        logger.info("%d other files were left out, such as %s", len(others), others[0])
    before = read_rows(out)
    segmenter = open_segmenter()
    if not overwrite:
        check_options(out, before, mask_options(segmenter))
    skipped = 0
    if skip_existing:
        wanted = [job for job in jobs if not is_done(job, before)]
        skipped = len(jobs) - len(wanted)
        jobs = wanted
    elif not overwrite:
        existing = [path for job in jobs for path in job.existing]
        if existing:
            raise UsageError(
                f"{existing[0]} exists ({len(existing)} such files): replace them with "
                "--overwrite, or skip them with --skip-existing."
            )

    rows = {}
    interrupted = False
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    try:
        with (
            open_table(out) as add,
            bar("segmenting", len(jobs)) as advance,
            closing(run_jobs(segmenter, jobs, out, keep_existing=skip_existing)) as stream,
        ):
            for row in stream:
                add(row)
                rows[row["name"]] = row
                if row["error"]:
                    logger.warning("%s%s", "" if row["mask"] else "skipped: ", row["error"])
                advance()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        signal.signal(signal.SIGTERM, previous)

    failed = sum(row["error"] is not None for row in rows.values())
    if as_json:
        print_json(list(rows.values()))
    else:
        left = f", {skipped} already there" if skipped else ""
        done = len(rows) - failed
        flagged = sum(bool(row.get("review")) for row in rows.values())
        review = f", {flagged} to review" if flagged else ""
        sys.stdout.write(f"{done} done, {failed} failed{review}{left}: {out}\n")
    logger.info(NOTICE)
    if interrupted:
        logger.warning("interrupted: run the same command with --skip-existing to continue.")
        raise typer.Exit(130)
    if failed:
        raise typer.Exit(1)


def _predict_to_pipe(
    segmenter: Segmenter, sources: list[str | Path], overlay: bool, as_json: bool
) -> None:
    """Write one image's mask, overlay or measurements to stdout; without a source, of stdin."""
    if len(sources) > 1:
        raise UsageError(f"A pipe takes one image, not {len(sources)}: name a folder with -o.")
    result = segmenter(sources[0] if sources else sys.stdin.buffer)
    if as_json:
        print_json(result.to_dict())
    else:
        image = result.overlay() if overlay else result.mask_image()
        image.save(sys.stdout.buffer, "PNG")
