"""The threads that segment, and the places of the requests that wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from fastapi import HTTPException

from egeunet.serve.limits import Limits

T = TypeVar("T")


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
