"""Batch jobs: the shards of a plan, segmented by a pool of Ray workers."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
import warnings
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from egeunet import __version__
from egeunet.batch import SHARD_SIZE
from egeunet.batch.parts import Count, Work, count_parts, part_name, write_part
from egeunet.batch.plan import (
    PARTS,
    check_places,
    compare_plan,
    plan_lines,
    plan_shards,
    read_shard_line,
    write_plan,
)
from egeunet.batch.storage import Folder, absolute
from egeunet.environment import count_cores
from egeunet.errors import EgeunetError
from egeunet.inference.segmenter import Segmenter
from egeunet.inference.weights import find_weights
from egeunet.notice import NOTICE
from egeunet.progress import bar

if find_spec("ray") is None:  # it is imported later, once it is known how it shall start
    raise ModuleNotFoundError("No module named 'ray'", name="ray")

SUMMARY = "summary.json"
_TEMPORARY = (".plan-*", ".summary-*", f"{PARTS}/.part-*", "masks/*/.*.png")
_BLOCKS = 10_000  # that Ray keeps account of
_RETRIES = 100  # of a shard; losing a machine costs several
_STORE_BYTES = 100 * 2**20  # Ray's object store holds numbers of shards, no images
_LOCAL_RAY = {
    # The switch that Ray has for macOS and Windows: every port is on loopback alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Processes without their head end after this, in place of a minute.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}


@dataclass(frozen=True)
class Summary:
    """Result of a job, also written to `summary.json`.

    Args:
        images: Number of images in the archive.
        errors: Number of images that could not be segmented.
        parts: Number of Parquet files.
        skipped: Number of images that earlier starts of the job processed.
        segmented: Number of images segmented by this start.
        seconds: Duration of this start, including Ray's.
        images_per_second: Throughput of this start, from when the workers begin.
        weights: Name, "@" and SHA-256 of the weights.
    """

    images: int
    errors: int
    parts: int
    skipped: int
    segmented: int
    seconds: float
    images_per_second: float
    weights: str


def segment_archive(
    inputs: Sequence[str],
    output: str,
    *,
    weights: str | Path | None = None,
    address: str | None = None,
    workers: int | None = None,
    shard_size: int = SHARD_SIZE,
    masks: bool = False,
) -> Summary:
    """Segment an archive into Parquet files; the same call resumes an interrupted job.

    Args:
        inputs: Folders, glob patterns, images, tars and Parquet files; paths or fsspec URIs.
        output: Folder to write to, a path or a URI.
        weights: As for `Segmenter`.
        address: Address of a Ray cluster; None starts Ray on this machine. A Ray that already runs
            in this process is used and left running.
        workers: Maximum number of workers, one core each; by default all cores of this machine, or
            as many as the cluster has room for.
        shard_size: Number of images per shard.
        masks: Also write masks as PNG.

    Raises:
        UsageError: There are no images, or the output belongs to a job with other images or
            settings.
        EgeunetError: A store or the cluster cannot be reached, or a file cannot be written.
    """
    start = time.monotonic()
    check_places(inputs, output)
    path = find_weights(weights)
    segmenter = Segmenter(path, threads=1)  # fails before any work if the weights are bad
    work = Work(Folder(output), segmenter.weights, masks)
    header = {
        "version": __version__,
        "inputs": {one: absolute(one) for one in inputs},  # ids begin with what was typed
        "weights": work.weights,
        "shard_size": shard_size,
        "masks": masks,
    }
    lines = plan_lines(header, plan_shards(inputs, shard_size, output))
    offsets = compare_plan(work.output, lines)
    now, busy = Count(), 0.0
    with ExitStack() as ray_running:
        resumed = offsets is not None
        if offsets is None:
            # Not before Ray answers: a plan fixes the images and settings of its folder.
            ray_running.enter_context(_ray(address, workers))
            offsets = write_plan(work.output, lines)
        names = [part_name(number) for number in range(len(offsets) - 1)]
        done = work.output.names(PARTS) & set(names)
        left = np.array([n for n, part in enumerate(names) if part not in done], np.int64)
        before = count_parts(work.output, done)
        if len(left):
            if resumed:
                ray_running.enter_context(_ray(address, workers))
            advance = ray_running.enter_context(bar("segmenting", len(names)))
            advance(len(done))
            begin = time.monotonic()
            with closing(_run(work, path.read_bytes(), offsets, left, address, workers)) as counts:
                for count in counts:
                    now += count
                    busy = time.monotonic() - begin
                    advance(1, images_per_second=now.images / busy, errors=now.errors)
    work.output.sweep(*_TEMPORARY)
    total = before + now
    summary = Summary(
        images=total.images,
        errors=total.errors,
        parts=len(names),
        skipped=before.images,
        segmented=now.images - now.errors,
        seconds=round(time.monotonic() - start, 3),
        images_per_second=round(now.images / busy, 3) if busy else 0.0,
        weights=work.weights,
    )
    with work.output.writing(SUMMARY) as file:
        text = json.dumps({"notice": NOTICE, **asdict(summary)}, indent=2)
        file.write_text(text + "\n", encoding="utf-8")
    return summary


class _Worker:
    """Segments shards with one Segmenter; Ray creates one worker per core."""

    def __init__(self, work: Work, weights: bytes, home: str) -> None:
        self.work = work
        with suppress(OSError):  # other machines need not have it
            os.chdir(home)  # relative paths stay as they were given
        with tempfile.TemporaryDirectory() as folder:  # other machines lack the path of the weights
            path = Path(folder, "model.onnx")
            path.write_bytes(weights)
            self.segmenter = Segmenter(path, threads=1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            shard = read_shard_line(self.work.output, row["start"], row["stop"])
            count = write_part(self.segmenter, self.work, row["number"], shard)
        except EgeunetError as error:
            return {"images": 0, "errors": 0, "failure": str(error)}
        return {"images": count.images, "errors": count.errors, "failure": ""}


def _run(
    work: Work,
    weights: bytes,
    offsets: array[int],
    left: np.ndarray,
    address: str | None,
    workers: int | None,
) -> Generator[Count, None, None]:
    """Segment the remaining shards, and yield the count of each when it is written."""
    import ray.data
    from ray.exceptions import RayError, RayTaskError

    ends = np.array(offsets)
    table = pa.table({"number": left, "start": ends[left], "stop": ends[left + 1]})
    blocks = np.array_split(np.arange(len(left)), min(len(left), _BLOCKS))
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    most = min(workers or (len(left) if address else cores), len(left))
    shards = ray.data.from_arrow([table.take(block) for block in blocks]).map(
        _Worker,
        fn_constructor_args=(work, weights, os.getcwd()),  # noqa: PTH109
        compute=ray.data.ActorPoolStrategy(
            # Here all cores are free; a cluster's come and go, and others want some.
            min_size=1 if address else most,
            initial_size=min(cores, most),
            max_size=most,
        ),
        num_cpus=1,
        max_task_retries=_RETRIES,
    )
    try:
        for row in shards.iter_rows():
            if row["failure"]:
                raise EgeunetError(
                    f"{row['failure']} Written parts are kept; run the same command to resume."
                )
            yield Count(int(row["images"]), int(row["errors"]))
    except RayTaskError:
        raise  # an error in this program, with its traceback
    except RayError as error:
        raise EgeunetError(
            f"Ray stopped ({type(error).__name__}: {str(error).strip().splitlines()[0]}). "
            "Written parts are kept; run the same command to resume."
        ) from error


@contextmanager
def _ray(address: str | None, workers: int | None) -> Iterator[None]:
    """Connect to Ray, or start it for this process alone, without its messages."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray is imported, as all of these
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not address and "ray" not in sys.modules:
        os.environ.update(_LOCAL_RAY)
        # In place of a file that others can read; a token of the user's own stays.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray.data

    # Messages about dead workers are printed to stdout, which is for results.
    with ExitStack() as stack, warnings.catch_warnings():
        stack.enter_context(redirect_stdout(sys.stderr))
        warnings.simplefilter("ignore")
        if not ray.is_initialized():
            try:
                settings = stack.enter_context(_local_settings(workers)) if not address else {}
                _knock(address)
                with _mute():
                    ray.init(
                        address=address or "local",
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        **settings,
                    )
            except (OSError, RuntimeError, ValueError) as error:
                where = f"Cannot connect to Ray at {address}" if address else "Cannot start Ray"
                raise EgeunetError(f"{where}: {str(error).strip().splitlines()[0]}") from error
            stack.callback(ray.shutdown)
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a large tar takes its time
        yield


@contextmanager
def _local_settings(workers: int | None) -> Iterator[dict[str, Any]]:
    """Yield the arguments of a local Ray whose sockets and logs only this user can reach."""
    short = "/tmp" if sys.platform != "win32" else None  # sockets: 103 characters
    folder = tempfile.mkdtemp(prefix="egeunet-ray-", dir=short)  # of mode 0700
    try:
        yield {
            "num_cpus": workers or count_cores(),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_temp_dir": f"{folder}/ray",  # which Ray opens to all
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _knock(address: str | None) -> None:
    """Raise an OSError if nothing listens at `[ray://]host:port`; Ray would retry for minutes."""
    host, _, port = (address or "").rpartition("/")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _mute() -> Iterator[None]:
    """Discard what Ray's C++ core writes to stderr while it starts."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
