"""Stopping a training in good order."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a request; a second one acts as it always does."""

    def __init__(self) -> None:
        self.signal_number = 0
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        self.signal_number = number
        self.__exit__()
