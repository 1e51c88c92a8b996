"""`python -m research`: sweeps, the report, generated pages and cards of shipped weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from egeunet.cli.console import configure_logging, prepare_streams, print_table
from egeunet.environment import count_cores
from egeunet.errors import EgeunetError, UsageError

if TYPE_CHECKING:
    from research.sweep import Job

HERE = Path(__file__).parent
RESULTS = HERE / "results"
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def sweep(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES... [KEY=VALUE]...",
            help="Experiment files, and settings for every run, such as data.root=FOLDER.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the run folders.")] = Path("runs/sweep"),
    record: Annotated[
        Path, typer.Option(help="The .jsonl file of results to append rows to.")
    ] = RESULTS / "runs.jsonl",
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; one per core by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what is done and what is left.")
    ] = False,
) -> None:
    """Train and score every run of experiment files that the results do not hold yet.

    It may be stopped at any time; the same command resumes.
    """
    from research.sweep import plan
    from research.sweep import sweep as run

    files = [word for word in words if "=" not in word]
    if not files:
        raise UsageError("Name an experiment file, such as research/experiments/table2.yaml.")
    jobs = plan(files, *(word for word in words if "=" in word), out=out, record=record)
    left = [job for job in jobs if job.missing and not job.lacks]
    print_table("Plan", ("run", "state", "epochs", "time"), [_row(job) for job in jobs])
    seconds = sum(job.seconds or 0 for job in left) / min(at_once or count_cores(), len(left) or 1)
    unknown = sum(job.seconds is None for job in left)
    typer.echo(
        f"{sum(not job.missing for job in jobs)} of {len(jobs)} runs are done; the rest takes "
        f"about {_time(seconds)}" + (f" and {unknown} runs of unknown time" if unknown else "")
    )
    if not dry_run:
        run(jobs, record=record, at_once=at_once)


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="A folder of .jsonl files.")] = RESULTS,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the page, tables and figures.")
    ] = HERE.parent / "docs" / "report",
    runs: Annotated[
        Path | None, typer.Option(help="A folder of run folders whose masks are drawn (Figure 4).")
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="With --runs: id of an image to draw; repeatable.")
    ] = None,
) -> None:
    """Write goals, Tables 1 and 2, ablations, trials, significance and figures from results."""
    from research.report import write_report

    if not results.is_dir():
        raise UsageError(f"There is no folder {results}: name a folder of recorded results.")
    if image and runs is None:
        raise UsageError("--image names what --runs draws: give both.")
    written = write_report(results, output, runs=runs, images=image or ())
    typer.echo(f"{len(written)} files in {output}")


@app.command()
def docs() -> None:
    """Write the generated tables and figures of README and docs, and the report."""
    from research.docs import write_docs

    write_docs()


@app.command()
def card(
    run: Annotated[Path, typer.Argument(help="A run folder, trained under the protocol holdout.")],
    name: Annotated[str, typer.Argument(help="The name of the weights.")],
    folder: Annotated[Path, typer.Option(help="Folder for the weights.")] = HERE.parent
    / "src"
    / "egeunet"
    / "weights",
    record: Annotated[Path, typer.Option(help="The .jsonl file of results.")] = RESULTS
    / "weights.jsonl",
) -> None:
    """Make shipped weights from a run: ONNX, safetensors, card and checksums."""
    from research.cards import make_weights

    row = make_weights(run, name, folder, record)
    typer.echo(f"{folder / name}.onnx: DSC {row['pooled']['dice']:.2%}")


@app.command()
def cards() -> None:
    """Write the cards of the shipped weights again from their rows of results."""
    from research.cards import rewrite_cards

    for path in rewrite_cards(HERE.parent / "src" / "egeunet" / "weights"):
        typer.echo(path)


def _row(job: Job) -> tuple[str, ...]:
    time = "unknown" if job.seconds is None else _time(job.seconds)
    name, epochs = job.recipe.out.name, str(job.recipe.trainer.epochs)
    return (name, job.state, epochs, time if job.missing else "")


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def main() -> None:
    """Run the program: exit code 0 done, 1 something failed, 2 wrong usage."""
    prepare_streams()
    configure_logging()
    try:
        app(prog_name="python -m research")
    except EgeunetError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from error


if __name__ == "__main__":
    main()
