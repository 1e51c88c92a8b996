"""Stopping a training at the next step after SIGINT or SIGTERM."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopRequest:
    """Records the first SIGINT or SIGTERM; a second one has its usual effect.

    Attributes:
        signal_number: The signal; 0 before one came.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _record(self, number: int, _: object) -> None:
        self.signal_number = number
        self.__exit__()
