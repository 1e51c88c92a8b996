"""A bounded, ordered map over threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_SLOW = 0.01  # seconds for an item: a source that takes longer sets the pace


def prefetch_map(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, limit: int
) -> Generator[R, None, None]:
    """Apply a function to items in threads, and yield the results in order.

    Args:
        function: Called in a thread for each item.
        items: Taken in the caller's thread, at most `limit` + 1 before their turn.
        threads: Maximum number of calls that run at a time.
        limit: Maximum number of items that wait for their turn, done or not.

    Yields:
        What `function` returned; where items come slowly, as soon as the next one is there.

    Raises:
        Exception: What `function` or `items` raised, after the results of the items before.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    source = iter(items)
    end: Exception | None = None
    try:
        while end is None:
            start = time.monotonic()
            try:
                item = next(source)
            except Exception as error:
                end = error
            # From a quick source one item is taken per result: the threads stay busy.
            slow = time.monotonic() - start > _SLOW
            if end is None:
                waiting.append(pool.submit(function, item))
            while waiting and (end or len(waiting) > limit or (slow and waiting[0].done())):
                yield waiting.popleft().result()  # and kept by no name
        if not isinstance(end, StopIteration):
            raise end
    finally:
        pool.shutdown(cancel_futures=True)
