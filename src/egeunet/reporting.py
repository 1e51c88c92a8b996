"""How long work tells what it does. Nothing below `cli` prints; it talks to a `Reporter`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Bar:
    """One running piece of work; this one is silent."""

    def advance(self, steps: int = 1, **fields: float) -> None:
        """Count `steps` as done and show `fields` (loss, IoU, …) beside the bar."""


class Reporter:
    """Hears what long work reports and says nothing; `egeunet.cli.console` has one that talks."""

    def info(self, message: str) -> None:
        """Say something worth knowing."""

    def warn(self, message: str) -> None:
        """Say something that went wrong without stopping the work."""

    @contextmanager
    def bar(  # the silent one needs no words
        self,
        description: str,  # noqa: ARG002
        total: int | None = None,  # noqa: ARG002
    ) -> Iterator[Bar]:
        """Open a progress bar over `total` steps (None: not known)."""
        yield Bar()

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Iterate over `items` under a bar."""
        with self.bar(description, total) as bar:
            for item in items:
                yield item
                bar.advance()
