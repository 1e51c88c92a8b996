"""`egeunet predict`."""

from __future__ import annotations

import signal
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from egeunet.cli.console import console_reporter, print_json
from egeunet.cli.options import Weights
from egeunet.errors import UsageError
from egeunet.notice import NOTICE

if TYPE_CHECKING:
    from egeunet.inference.segmenter import Segmenter


def predict(
    photos: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTO|FOLDER|GLOB",
            help="Photos, folders or glob patterns; - reads one photo from a pipe.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for what is written; - writes one to a pipe."),
    ],
    weights: Weights = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the photo with the mask drawn over it.")
    ] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also look into subfolders, and keep them.")
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Leave out what is done; write no file that exists."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace masks that exist.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Photos worked on at a time; one per core by default, 8 at most."),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="cuda, coreml, nnapi, openvino, webgpu, … where ONNX Runtime has it; may be "
            "repeated, the CPU is last.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability from which a pixel is lesion; the weights' own by default."),
    ] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over four mirror images: four times the work.")
    ] = False,
    largest_component: Annotated[
        bool, typer.Option("--largest-component", help="Keep the mask's largest piece alone.")
    ] = False,
    fill_holes: Annotated[
        bool, typer.Option("--fill-holes", help="Add what the mask surrounds.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the measurements as JSON to stdout.")
    ] = False,
) -> None:
    """Segment photos: masks, overlays, and a table of area, box, confidence and quality.

    Writes `NAME_mask.png` for each photo at its own size (`NAME.jpg_mask.png` where two photos
    share a name), with --overlay also `NAME_overlay.jpg`, and `predictions.csv` and
    `predictions.json`. A file that cannot be segmented is reported and skipped; the exit code is
    then 1. `quality` is the Dice score to be expected of a mask and `review` whether a person
    surely should look at it, where the weights say so; a mask without it may be wrong as well.

    Research use only; not a medical device or a diagnosis.

    For example:

        egeunet predict photos/ -o masks/ --overlay

        egeunet predict - -o - < photo.jpg > mask.png
    """
    from egeunet.inference.paths import find_photos, other_files
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
    if str(output) == "-":
        paths = [] if photos == ["-"] else find_photos(photos, recursive)
        _predict_to_pipe(open_segmenter(), paths, overlay, as_json)
        return
    if "-" in photos:
        raise UsageError("A photo from a pipe has no name to write to: use `predict - -o -`.")

    from egeunet.inference.folder import is_done, mask_options, plan, run_jobs
    from egeunet.inference.predictions import TABLE, check_options, open_table, read_rows

    reporter = console_reporter()
    jobs = plan(photos, output, recursive, overlay, reporter)
    others = [path for path in other_files(photos, recursive) if path.stem != Path(TABLE).stem]
    if others:
        reporter.info(f"{len(others)} other files were left out, such as {others[0]}")
    before = read_rows(output)
    segmenter = open_segmenter()
    if not overwrite:
        check_options(output, before, mask_options(segmenter))
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
                "--overwrite, or leave out what is done with --skip-existing."
            )

    rows = {}
    interrupted = False
    ended = signal.signal(signal.SIGTERM, signal.default_int_handler)  # in good order, as Ctrl-C
    try:
        with (
            open_table(output) as add,
            reporter.bar("segmenting", len(jobs)) as bar,
            closing(run_jobs(segmenter, jobs, output, keep_existing=skip_existing)) as stream,
        ):
            for row in stream:
                add(row)
                rows[row["name"]] = row
                if row["error"]:
                    reporter.warn(f"{'' if row['mask'] else 'skipped: '}{row['error']}")
                bar.advance()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        signal.signal(signal.SIGTERM, ended)

    failed = sum(row["error"] is not None for row in rows.values())
    if as_json:
        print_json(list(rows.values()))
    else:
        left = f", {skipped} already there" if skipped else ""
        done = len(rows) - failed
        marked = sum(bool(row.get("review")) for row in rows.values())
        look = f", {marked} to review" if marked else ""
        sys.stdout.write(f"{done} done, {failed} failed{look}{left}: {output}\n")
    reporter.info(NOTICE)
    if interrupted:
        reporter.warn("interrupted: the same command with --skip-existing goes on.")
        raise typer.Exit(130)
    if failed:
        raise typer.Exit(1)


def _predict_to_pipe(segmenter: Segmenter, paths: list[Path], overlay: bool, as_json: bool) -> None:
    """Write one photo's mask, overlay or measurements to stdout; without a path it is on stdin."""
    if len(paths) > 1:
        raise UsageError(f"A pipe takes one photo, not {len(paths)}: name a folder with -o.")
    result = segmenter(paths[0] if paths else sys.stdin.buffer)
    if as_json:
        print_json(result.to_dict())
    else:
        image = result.overlay() if overlay else result.mask_image()
        image.save(sys.stdout.buffer, "PNG")
