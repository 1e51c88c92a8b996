"""The worker process: decodes and segments one image at a time within a bound on memory."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from egeunet.errors import EgeunetError, ImageTooLargeError
from egeunet.inference.image_io import inspect_image
from egeunet.inference.result import Result
from egeunet.inference.rle import encode
from egeunet.inference.segmenter import Segmenter
from egeunet.notice import NOTICE
from egeunet.serve.limits import Limits

_SMALL = 24_000_000  # bytes of an image for which a worker needs no permission


class Job(NamedTuple):
    """An image to segment.

    Args:
        name: File name given by the client, if any.
        data: The bytes of the image file.
        form: The form of the answer: "json", "mask" or "overlay".
    """

    name: str | None
    data: bytes
    form: str = "json"


class Reply(NamedTuple):
    """The answer to a job: an HTTP status with the body, or with a sentence if it failed."""

    status: int
    body: bytes


def work(connection: Connection, segmenter: Segmenter, limits: Limits) -> None:
    """Answer jobs until the connection is closed.

    The first message says that the worker has started. Before it decodes a large image, the worker
    sends the number of bytes it needs and waits for permission, so that the service can bound their
    sum.

    Args:
        connection: Receives a `Job`, sends a `Reply`.
        segmenter: Segments the images.
        limits: Bounds on pixels and memory.
    """
    # A supervisor may signal all processes of the service; running jobs should finish.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Native decoders write to stderr, where every line of the service's log is JSON.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    segmenter(np.zeros((*segmenter.metadata.size, 3), np.uint8))
    _bound_memory(limits.worker_bytes)
    try:
        connection.send(None)
        while True:
            connection.send(_answer(connection.recv(), connection, segmenter, limits))
    except (EOFError, OSError):
        return  # the service ended


def _answer(job: Job, connection: Connection, segmenter: Segmenter, limits: Limits) -> Reply:
    try:
        width, height, memory = inspect_image(job.data)
        most = limits.pixels / 1e6, limits.image_bytes / 1e6
        if width * height > limits.pixels:
            return _too_large(f"has {width}×{height} pixels; the limit is {most[0]:g} megapixels")
        if memory > limits.image_bytes:
            takes = f"takes {memory / 1e6:.0f} MB of memory to decode"
            return _too_large(f"{takes}; the limit is {most[1]:.0f}")
        if memory > _SMALL:
            connection.send(memory)
            connection.recv()
        return Reply(200, _encode(segmenter(job.data), job))
    except ImageTooLargeError as error:
        return Reply(413, str(error).encode())
    except EgeunetError as error:
        return Reply(400, str(error).encode())
    except MemoryError:
        return _too_large("takes too much memory")
    except Exception:  # a bug: the service logs it
        return Reply(500, traceback.format_exc().encode())


def _too_large(why: str) -> Reply:
    return Reply(413, f"The image {why}. Scale it down.".encode())


def _encode(result: Result, job: Job) -> bytes:
    if job.form == "json":
        row = {"notice": NOTICE, **result.to_dict(), "source": job.name}
        mask = encode(result.mask.astype(bool, copy=False))
        return json.dumps({**row, "mask": mask}, allow_nan=False).encode()
    file = io.BytesIO()
    image = result.mask_image() if job.form == "mask" else result.overlay()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _bound_memory(extra: int) -> None:
    """Limit this process to `extra` bytes beyond its present memory (Linux only)."""
    if sys.platform != "linux":
        return
    import resource

    status = Path("/proc/self/status").read_text("utf-8")
    used = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + extra, resource.RLIM_INFINITY))
