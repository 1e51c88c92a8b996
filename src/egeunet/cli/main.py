"""The command-line program `egeunet`: commands, error messages and exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from egeunet import __version__
from egeunet.cli import data
from egeunet.cli.batch import batch
from egeunet.cli.benchmark import benchmark
from egeunet.cli.console import configure_logging, escape_controls, prepare_streams
from egeunet.cli.demo import demo
from egeunet.cli.evaluate import evaluate
from egeunet.cli.export import export
from egeunet.cli.models import models
from egeunet.cli.predict import predict
from egeunet.cli.report import report
from egeunet.cli.serve import serve
from egeunet.cli.train import train
from egeunet.cli.weights import weights
from egeunet.errors import EgeunetError, InterruptedRunError, UsageError, needs_extra

app = typer.Typer(
    name="egeunet",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help=(
        "Segment skin lesions in dermoscopy images with EGE-UNet (MICCAI 2023): train, evaluate, "
        "export, predict.\n\nResearch use. Not a medical device; a mask is not a diagnosis."
    ),
)
for command in (
    predict,
    batch,
    serve,
    train,
    evaluate,
    report,
    export,
    benchmark,
    models,
    weights,
    demo,
):
    app.command()(command)
app.add_typer(data.app, name="data")


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"egeunet {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the program: exit code 0 done, 1 something failed, 2 wrong usage, 130 interrupted."""
    # Threads sleep while they wait for each other; spinning, they starve each other on a busy
    # machine. OpenMP reads this when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    prepare_streams()
    configure_logging()
    try:
        with needs_extra("train"):  # commands that take another say so themselves
            app()
    except InterruptedRunError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(128 + error.signal_number)
    except EgeunetError as error:
        sys.stderr.write(f"error: {escape_controls(str(error))}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except OSError as error:  # such as a full disk, or a folder that may not be written to
        place = f"{error.filename}: " if error.filename else ""
        message = escape_controls(f"{place}{error.strerror or error}")
        sys.stderr.write(f"error: {message}.\n")
        sys.exit(1)
