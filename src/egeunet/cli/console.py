"""Console output: results to stdout, messages and progress to stderr."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from egeunet.files import escape_name
from egeunet.progress import stderr_console

# Control characters except tab and newline, and those that change the text direction.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to stdout; all columns but the first are aligned to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    # Programs and logs read the table when stdout is not a terminal: do not cut it to 80 columns.
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


def prepare_streams() -> None:
    """Make stdout and stderr escape characters that their encoding lacks.

    Streams that were closed before the program started, as by some daemons, are replaced by empty
    ones.
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


def escape_controls(text: str) -> str:
    """Escape control characters: file names may hold some that command the terminal."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def configure_logging() -> None:
    """Send the package's log messages to stderr: information as is, warnings with their level."""
    logger = logging.getLogger("egeunet")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [_ConsoleHandler()]


class _ConsoleHandler(logging.Handler):
    """Print through the console of the progress bars, so that bars and lines do not overlap."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower()
        prefix = f"[yellow]{level}:[/] " if record.levelno >= logging.WARNING else ""
        message = escape(escape_controls(record.getMessage()))
        stderr_console().print(prefix + message, soft_wrap=True)
