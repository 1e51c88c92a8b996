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
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from egeunet import __version__
from egeunet.batch import SHARD_SIZE
from egeunet.batch.parts import count_parts, part_name, write_part
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
_BLOCKS = 10_000  # maximum number that Ray tracks
_RETRIES = 100  # of a shard; losing a machine costs several
_STORE_BYTES = 100 * 2**20  # Ray's object store holds numbers of shards, no images
_LOCAL_RAY = {
    # Ray's switch for macOS and Windows: all ports listen on loopback only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Processes that lost their head end after 10 s instead of a minute.
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
    folder = Folder(output)
    header = {
        "version": __version__,
        "inputs": {one: absolute(one) for one in inputs},  # ids begin with the inputs as given
        "weights": segmenter.weights,
        "shard_size": shard_size,
        "masks": masks,
    }
    lines = plan_lines(header, plan_shards(inputs, shard_size, output))
    offsets = compare_plan(folder, lines)
    images, errors, busy = 0, 0, 0.0
    with ExitStack() as stack:
        start_ray = partial(stack.enter_context, _ray(address, workers))
        resumed = offsets is not None
        if offsets is None:
            start_ray()  # before the plan is written, which fixes images and settings of the folder
            offsets = write_plan(folder, lines)
        names = [part_name(number) for number in range(len(offsets) - 1)]
        done = folder.names(PARTS) & set(names)
        left = np.array([n for n, part in enumerate(names) if part not in done], np.int64)
        images_before, errors_before = count_parts(folder, done)
        if len(left):
            if resumed:
                start_ray()
            advance = stack.enter_context(bar("segmenting", len(names)))
            advance(len(done))
            begin = time.monotonic()
            home = os.getcwd()  # noqa: PTH109
            worker = (folder, segmenter.weights, path.suffix, path.read_bytes(), masks, home)
            with closing(_run(worker, offsets, left, address, workers)) as counts:
                for count in counts:
                    images, errors = images + count[0], errors + count[1]
                    busy = time.monotonic() - begin
                    advance(1, images_per_second=images / busy, errors=errors)
    folder.remove_temporary()
    summary = Summary(
        images=images_before + images,
        errors=errors_before + errors,
        parts=len(names),
        skipped=images_before,
        segmented=images - errors,
        seconds=round(time.monotonic() - start, 3),
        images_per_second=round(images / busy, 3) if busy else 0.0,
        weights=segmenter.weights,
    )
    with folder.writing(SUMMARY) as file:
        text = json.dumps({"notice": NOTICE, **asdict(summary)}, indent=2)
        file.write_text(text + "\n", encoding="utf-8")
    return summary


class _Worker:
    """Segments shards with one Segmenter; Ray creates one worker per core."""

    def __init__(
        self, output: Folder, weights: str, suffix: str, data: bytes, masks: bool, home: str
    ) -> None:
        self.output, self.masks = output, masks
        with suppress(OSError):  # other machines need not have it
            os.chdir(home)  # relative paths stay valid
        with tempfile.TemporaryDirectory() as folder:  # other machines lack the path of the weights
            path = Path(folder, f"model{suffix}")
            path.write_bytes(data)
            self.segmenter = Segmenter(path, threads=1)
        self.segmenter.weights = weights

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            shard = read_shard_line(self.output, row["start"], row["stop"])
            count = write_part(self.segmenter, self.output, row["number"], shard, self.masks)
        except EgeunetError as error:
            return {"images": 0, "errors": 0, "failure": str(error)}
        return {"images": count[0], "errors": count[1], "failure": ""}


def _run(
    worker: tuple[Any, ...],
    offsets: array[int],
    left: np.ndarray,
    address: str | None,
    workers: int | None,
) -> Generator[tuple[int, int], None, None]:
    """Segment the remaining shards; yield the numbers of images and errors of each when written."""
    import ray.data
    from ray.exceptions import RayError, RayTaskError

    ends = np.array(offsets)
    table = pa.table({"number": left, "start": ends[left], "stop": ends[left + 1]})
    blocks = np.array_split(np.arange(len(left)), min(len(left), _BLOCKS))
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    most = min(workers or (len(left) if address else cores), len(left))
    shards = ray.data.from_arrow([table.take(block) for block in blocks]).map(
        _Worker,
        fn_constructor_args=worker,
        compute=ray.data.ActorPoolStrategy(
            # All cores of this machine are free; those of a cluster come and go.
            min_size=1 if address else most,
            initial_size=min(cores, most),
            max_size=most,
        ),
        num_cpus=1,
        max_task_retries=_RETRIES,
    )
    resume = "Written parts are kept; run the same command to resume."
    try:
        for row in shards.iter_rows():
            if row["failure"]:
                raise EgeunetError(f"{row['failure']} {resume}")
            yield int(row["images"]), int(row["errors"])
    except RayTaskError:
        raise  # an error in this program, with its traceback
    except RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise EgeunetError(f"Ray stopped ({type(error).__name__}: {reason}). {resume}") from error


@contextmanager
def _ray(address: str | None, workers: int | None) -> Iterator[None]:
    """Connect to Ray, or start it for this process only, without its messages."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray is imported, as all of these
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not address and "ray" not in sys.modules:
        os.environ.update(_LOCAL_RAY)
        # Instead of a file that other users can read; the user's own token is kept.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray.data

    # Messages about dead workers are printed to stdout, which is for results.
    with ExitStack() as stack, warnings.catch_warnings():
        stack.enter_context(redirect_stdout(sys.stderr))
        warnings.simplefilter("ignore")
        if not ray.is_initialized():
            settings: dict[str, Any] = {"address": address or "local"}
            if not address:
                # Only this user can reach the sockets and logs: mkdtemp has mode 0700, and Ray
                # opens what is below it to all. The name is short: sockets allow 103 characters.
                short = "/tmp" if sys.platform != "win32" else None
                folder = tempfile.mkdtemp(prefix="egeunet-ray-", dir=short)
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                settings |= {
                    "num_cpus": workers or count_cores(),
                    "include_dashboard": False,
                    "object_store_memory": _STORE_BYTES,
                    "_temp_dir": f"{folder}/ray",
                }
            try:
                host, _, port = (address or "").rpartition("/")[2].rpartition(":")
                if host and port.isdecimal():  # Ray would retry for minutes
                    socket.create_connection((host, int(port)), timeout=10).close()
                with _mute():
                    ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
            except (OSError, RuntimeError, ValueError) as error:
                where = f"Cannot connect to Ray at {address}" if address else "Cannot start Ray"
                raise EgeunetError(f"{where}: {str(error).strip().splitlines()[0]}") from error
            stack.callback(ray.shutdown)
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # reading a large tar takes long
        yield


@contextmanager
def _mute() -> Iterator[None]:
    """Discard what the C++ core of Ray writes to stderr while it starts."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
