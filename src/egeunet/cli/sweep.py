"""`egeunet sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from egeunet.cli.console import console_reporter, print_table
from egeunet.errors import UsageError

if TYPE_CHECKING:
    from egeunet.experiments import Job


def sweep(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES... [KEY=VALUE]...",
            help="Experiment files, and settings for every run, such as data.root=FOLDER.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder of the run folders.")] = Path("runs/sweep"),
    record: Annotated[
        Path, typer.Option(help="The .jsonl file of results to which rows are added.")
    ] = Path("results/runs.jsonl"),
    at_once: Annotated[
        int | None,
        typer.Option(min=1, help="How many runs at a time; one per core if not given."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what is done and what is to run.")
    ] = False,
) -> None:
    """Train and score every run of experiment files that the results do not hold yet.

    It may be stopped at any time; the same command goes on. Each run is scored as soon as it is
    trained: under `paper` with the selected and the last epoch, under `holdout` once.

    For example:

        egeunet sweep experiments/table1-isic2018.yaml --dry-run

        egeunet sweep experiments/*.yaml trainer.epochs=40
    """
    from egeunet.environment import count_cores
    from egeunet.experiments import plan
    from egeunet.experiments import sweep as run

    files = [word for word in words if "=" not in word]
    if not files:
        raise UsageError("No experiment file was given, such as experiments/table2.yaml.")
    jobs = plan(files, *(word for word in words if "=" in word), out=out, record=record)
    left = [job for job in jobs if job.missing and not job.lacks]
    print_table("Plan", ("run", "state", "epochs", "time"), [_row(job) for job in jobs])
    reporter = console_reporter()
    seconds = sum(job.seconds or 0 for job in left) / min(at_once or count_cores(), len(left) or 1)
    unknown = sum(job.seconds is None for job in left)
    reporter.info(
        f"{sum(not job.missing for job in jobs)} of {len(jobs)} runs are done; those that can be "
        "run take about "
        f"{_time(seconds)}" + (f" and {unknown} runs of unknown time" if unknown else "")
    )
    if not dry_run:
        run(jobs, record=record, at_once=at_once, reporter=reporter)


def _row(job: Job) -> tuple[str, ...]:
    time = "unknown" if job.seconds is None else _time(job.seconds)
    return (
        job.recipe.out.name,
        job.state,
        str(job.recipe.trainer.epochs),
        time if job.missing else "",
    )


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
