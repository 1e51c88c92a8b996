"""What one request may ask of the service, and how many are taken at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import HTTPException

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What is refused, so that no client can take the service from the others.

    Args:
        body_bytes: The largest body; more is answered with 413.
        pixels: The largest photo; more is answered with 413, before it is decoded.
        files: The most photos of one batch; more are answered with 400.
        seconds: How long a request may take to arrive (408), and then to be answered (504).
        requests: How many are taken at a time, arriving, waiting or worked on; more are answered
            with 503 and Retry-After. With `body_bytes` it bounds the memory.
    """

    body_bytes: int = 20_000_000
    pixels: int = 64_000_000
    files: int = 32
    seconds: float = 30
    requests: int = 64


class Pool:
    """Threads that segment, one photo each, and the places of the requests that wait for them.

    All but the work itself runs in the event loop's thread.

    Args:
        workers: Photos that are worked on at a time.
        limits: How many requests are taken, and how long one may take.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        self.taken = 0
        self._limits = limits
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="segment")

    @property
    def full(self) -> bool:
        """Whether the next request is refused."""
        return self.taken >= self._limits.requests

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places.

        Raises:
            HTTPException: 503, all are taken.
        """
        if self.full:
            raise HTTPException(
                503, "The service is busy: try again in a second.", {"Retry-After": "1"}
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def map(self, work: Callable[..., T], items: list[tuple[object, ...]]) -> list[T]:
        """Call `work` in the threads with each tuple of arguments; the results are in order.

        Raises:
            HTTPException: 504, it took too long; what had not begun is dropped.
        """
        loop = asyncio.get_running_loop()
        futures = [loop.run_in_executor(self._threads, work, *item) for item in items]
        try:
            return await asyncio.wait_for(asyncio.gather(*futures), self._limits.seconds)
        except asyncio.TimeoutError as error:
            raise HTTPException(
                504, f"The work took longer than {self._limits.seconds:g} seconds."
            ) from error

    def close(self) -> None:
        """Wait for what runs and end the threads."""
        self._threads.shutdown()
