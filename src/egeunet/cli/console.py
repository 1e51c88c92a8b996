"""What commands say: results to stdout, messages and progress to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from egeunet.files import escape_name
from egeunet.reporting import Bar, Reporter


def console_reporter() -> Reporter:
    """Return a reporter on stderr: bars with ETA on a terminal, plain lines elsewhere."""
    console = Console(stderr=True, highlight=False)
    return _ConsoleReporter(console)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to stdout; all columns but the first are aligned to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    # Off a terminal a table is read by programs and in logs: it is not cut to 80 columns there.
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


def prepare_streams() -> None:
    """Have stdout and stderr escape the characters that their encoding lacks.

    Where a stream was closed before the program began, as some daemons do, it is an empty one.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(value: Any) -> None:
    """Print a value as indented JSON to stdout; its own escapes stand where that is not UTF-8."""
    ascii_alone = (sys.stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")
    text = json.dumps(value, indent=2, ensure_ascii=ascii_alone, allow_nan=False)
    sys.stdout.write(escape_name(text) + "\n")


class _ConsoleReporter(Reporter):
    def __init__(self, console: Console) -> None:
        self.console = console

    def info(self, message: str) -> None:
        self.console.print(escape(message), soft_wrap=True)

    def warn(self, message: str) -> None:
        self.console.print(f"[yellow]warning:[/] {escape(message)}", soft_wrap=True)

    @contextmanager
    def bar(self, description: str, total: int | None = None) -> Iterator[Bar]:
        if not self.console.is_terminal:
            yield Bar()
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(description, total=total, note="")
            yield _RichBar(progress, task)


class _RichBar(Bar):
    def __init__(self, progress: Any, task: Any) -> None:
        self.progress = progress
        self.task = task

    def advance(self, steps: int = 1, **fields: float) -> None:
        note = {"note": "  ".join(f"{k} {v:.4g}" for k, v in fields.items())} if fields else {}
        self.progress.update(self.task, advance=steps, **note)
