"""A pool of worker processes with admission slots, deadlines and a shared memory budget."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Condition, Lock
from typing import Any

from fastapi import HTTPException

from egeunet.inference.segmenter import Segmenter
from egeunet.serve.limits import Limits
from egeunet.serve.middleware import log
from egeunet.serve.worker import Job, Reply, work

_START_SECONDS = 120


class Workers:
    """Worker processes; one that misses its deadline is killed and replaced.

    A thread per process waits for its replies, so that the event loop is never blocked.

    Args:
        segmenter: Segments the images; each process opens its weights again.
        count: Number of processes.
        limits: Bounds on requests, time and memory.
    """

    def __init__(self, segmenter: Segmenter, count: int, limits: Limits) -> None:
        self._limits = limits
        self._slots = limits.requests
        self._memory = _Budget(limits.decoded_bytes)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._workers = [_Worker(segmenter, limits, self._memory) for _ in range(count)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()

    def __enter__(self) -> Workers:
        """Start the processes and wait until they are ready."""
        for worker in self._workers:
            worker.start()
        for worker in self._workers:
            worker.wait_until_started(time.monotonic() + _START_SECONDS)
            self._idle.put(worker)
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the processes."""
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(cancel_futures=True)

    def check_slot(self) -> None:
        """Refuse a request if no admission slot is free.

        Raises:
            HTTPException: 503.
        """
        if self._slots <= 0:
            raise HTTPException(
                503, "The service is busy. Try again in a second.", {"Retry-After": "1"}
            )

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold an admission slot.

        Raises:
            HTTPException: 503, none is free.
        """
        self.check_slot()
        self._slots -= 1
        try:
            yield
        finally:
            self._slots += 1

    async def map(self, jobs: Sequence[Job]) -> list[Reply]:
        """Return the replies to jobs, in order.

        Raises:
            HTTPException: 504 after the time limit, 500 if a worker has a bug.
        """
        deadline = time.monotonic() + self._limits.seconds
        loop = asyncio.get_running_loop()
        replies = [loop.run_in_executor(self._threads, self._ask, job, deadline) for job in jobs]
        try:
            found = await asyncio.gather(*replies)
        except TimeoutError as error:
            raise HTTPException(
                504, f"Segmentation took longer than {self._limits.seconds:g} seconds."
            ) from error
        for reply in found:
            if reply.status == 500:
                log.error("a worker failed", extra={"fields": {"traceback": reply.body.decode()}})
                raise HTTPException(500, "Segmentation failed. The log of the service says why.")
        return found

    def _ask(self, job: Job, deadline: float) -> Reply:
        worker = self._idle.get()  # there are as many threads as workers
        try:
            return worker.ask(job, deadline)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process and the connection to it."""

    def __init__(self, segmenter: Segmenter, limits: Limits, memory: _Budget) -> None:
        self._segmenter, self._limits, self._memory = segmenter, limits, memory
        self._closed, self._changing = False, Lock()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=work, args=(theirs, self._segmenter, self._limits), daemon=True
        )
        self._process.start()
        theirs.close()
        self._starting = True

    def wait_until_started(self, deadline: float) -> None:
        """Wait for the message that the process sends first.

        Raises:
            TimeoutError: It does not come by the deadline.
            EOFError: The process has died.
        """
        if self._starting:
            self._receive(deadline)
            self._starting = False

    def ask(self, job: Job, deadline: float) -> Reply:
        """Return the reply to a job.

        Raises:
            TimeoutError: There is none by the deadline; the process was replaced.
        """
        if time.monotonic() >= deadline:
            raise TimeoutError
        if not self._process.is_alive():
            self._replace("it died")
        try:
            self.wait_until_started(deadline)
            self._connection.send(job)
            reply = self._receive(deadline)
            if isinstance(reply, Reply):
                return reply
            with self._memory.take(reply, deadline):  # the bytes that the image needs
                self._connection.send(None)
                return self._receive(deadline)
        except TimeoutError:
            if not self._starting:
                self._replace("it missed a deadline")
            raise
        except (EOFError, OSError):
            self._replace("it died")
            return Reply(400, b"The image cannot be decoded: it crashed the decoder.")

    def close(self) -> None:
        """Kill the process; its job is answered as failed."""
        with self._changing:
            self._closed = True
            self._process.kill()

    def _receive(self, deadline: float) -> Any:
        if not self._connection.poll(max(0, deadline - time.monotonic())):
            raise TimeoutError
        return self._connection.recv()

    def _replace(self, why: str) -> None:
        with self._changing:
            self._process.kill()
            self._process.join()
            self._connection.close()
            if not self._closed:
                log.warning("replaced a worker", extra={"fields": {"why": why}})
                self.start()


class _Budget:
    """A number of bytes that threads share."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._changed = Condition()

    @contextmanager
    def take(self, amount: int, deadline: float) -> Iterator[None]:
        """Reserve some of the bytes.

        Raises:
            TimeoutError: They are not free by the deadline.
        """
        amount = min(amount, self._total)
        with self._changed:
            left = max(0, deadline - time.monotonic())
            if not self._changed.wait_for(lambda: self._free >= amount, left):
                raise TimeoutError
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()
