"""Progress bars on stderr for long work."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")
Advance = Callable[..., None]

_enabled: bool | None = None
_lock = threading.Lock()
_live: Progress | None = None  # one display, shared by nested bars


def set_progress(enabled: bool | None) -> None:
    """Switch progress bars on or off for this process.

    Args:
        enabled: True or False; None, the default, shows bars when stderr is a terminal.
    """
    global _enabled
    _enabled = enabled


@cache
def stderr_console() -> Console:
    """Return the console that bars and the command line's messages share."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def bar(description: str, total: int | None = None) -> Iterator[Advance]:
    """Show a progress bar while the block runs.

    Args:
        description: Text before the bar, such as "epoch 3/24".
        total: Number of steps; None if unknown.

    Yields:
        `advance(steps=1, **values)`: Count `steps` as done and show `values` (loss=0.3) beside the
        bar.
    """
    global _live
    if not (sys.stderr.isatty() if _enabled is None else _enabled):
        yield _ignore
        return
    with _lock:
        outermost = _live is None
        if _live is None:
            _live = _open_display()
        display = _live
    task = display.add_task(description, total=total, note="")

    def advance(steps: int = 1, **values: float) -> None:
        display.update(task, advance=steps)
        if values:
            display.update(task, note="  ".join(f"{k} {v:.4g}" for k, v in values.items()))

    try:
        yield advance
    finally:
        display.remove_task(task)
        if outermost:
            with _lock:
                _live = None
            display.stop()


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` under a progress bar; `total` defaults to their length if known."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(description, total) as advance:
        for item in items:
            yield item
            advance()


def _ignore(steps: int = 1, **values: float) -> None:
    pass


def _open_display() -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    display = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=stderr_console(),
        transient=True,
    )
    display.start()
    return display
