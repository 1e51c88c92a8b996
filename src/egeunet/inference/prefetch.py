"""Work that threads do ahead of whoever takes its results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from egeunet.errors import EgeunetError

K = TypeVar("K")
V = TypeVar("V")

_SLOW = 0.01  # seconds for an item: who gives them no faster sets the pace


def work_ahead(
    items: Iterable[tuple[K, Callable[[], V]]], threads: int, limit: int
) -> Generator[tuple[K, V | EgeunetError], None, None]:
    """Call functions in threads, and hand over what they return, in order.

    Args:
        items: What each function is called, and the function. They are taken in the caller's
            thread, a few before their turn.
        threads: Functions that run at a time.
        limit: Items that may wait for their turn, done or not.

    Yields:
        What the function is called, with what it returned or the `EgeunetError` that it raised;
        where the items come slowly, as soon as the next one is there.

    Raises:
        Exception: What `items` raises, after the results of the items before.
    """
    waiting: deque[tuple[K, Future[V | EgeunetError]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    source = iter(items)
    end: Exception | None = None
    try:
        while end is None:
            start = time.monotonic()
            try:
                key, work = next(source)
            except Exception as error:
                end = error
            # Of a quick source one is taken for one that is handed over: the threads keep busy.
            slow = time.monotonic() - start > _SLOW
            if end is None:
                waiting.append((key, pool.submit(_call, work)))
            while waiting and (end or len(waiting) > limit or (slow and waiting[0][1].done())):
                yield waiting[0][0], waiting.popleft()[1].result()  # and kept by no name
        if not isinstance(end, StopIteration):
            raise end
    finally:
        pool.shutdown(cancel_futures=True)


def _call(work: Callable[[], V]) -> V | EgeunetError:
    try:
        return work()
    except EgeunetError as error:
        return error
