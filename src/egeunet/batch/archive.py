"""The job: the shards of a plan given to a pool of Ray's workers, and what came of it."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import tempfile
import time
import warnings
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray tells nobody; read when it is imported
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # the C++ core talks to the terminal

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError, RayTaskError

from egeunet import __version__
from egeunet.batch import SHARD_SIZE
from egeunet.batch.parts import Count, Work, count_parts, part_name, write_part
from egeunet.batch.plan import PARTS, check_places, open_plan, plan_shards, read_shard_line
from egeunet.batch.storage import Folder, absolute
from egeunet.environment import count_cores
from egeunet.errors import EgeunetError
from egeunet.inference.segmenter import Segmenter
from egeunet.inference.weights import find_weights
from egeunet.notice import NOTICE
from egeunet.reporting import Reporter

SUMMARY = "summary.json"
_STRAYS = (".plan-*", ".summary-*", f"{PARTS}/.part-*", "masks/*/.*.png")
_BLOCKS = 10_000  # that Ray keeps account of
_RETRIES = 100  # of a shard; a machine that dies takes several before Ray gives it up
_STORE_BYTES = 100 * 2**20  # for Ray's objects: shards' numbers, no photos


@dataclass(frozen=True)
class Summary:
    """What a job left, also written to `summary.json`.

    Args:
        photos: In the archive.
        errors: Of them could not be segmented.
        parts: Files they are in.
        earlier: Photos that earlier starts dealt with.
        segmented: Photos that this start segmented.
        seconds: This start took, with Ray's own.
        photos_per_second: Of this start, from the first worker's beginning on.
        weights: Their name, "@" and SHA-256.
    """

    photos: int
    errors: int
    parts: int
    earlier: int
    segmented: int
    seconds: float
    photos_per_second: float
    weights: str


def segment_archive(
    inputs: Sequence[str],
    output: str,
    *,
    weights: str | Path | None = None,
    address: str | None = None,
    actors: int | None = None,
    shard_size: int = SHARD_SIZE,
    masks: bool = False,
    reporter: Reporter | None = None,
) -> Summary:
    """Segment an archive into Parquet files; the same call again goes on where it was stopped.

    Args:
        inputs: Folders, glob patterns, photos, tars and Parquet files; paths or URIs of fsspec.
        output: The folder to write to, a path or a URI.
        weights: As for `Segmenter`.
        address: Of a Ray cluster; None starts one of this machine's cores. If Ray runs in this
            process already, it is used and left running.
        actors: The most workers, a core each; by default all cores of this machine, or whatever
            the cluster has and grows to.
        shard_size: Photos of a part.
        masks: Also write masks as PNG.
        reporter: Hears of the progress.

    Raises:
        UsageError: There is no photo, or the output was begun with other photos or settings.
        EgeunetError: A store or the cluster cannot be reached, or a file cannot be written.
    """
    start = time.monotonic()
    reporter = reporter or Reporter()
    check_places(inputs, output)
    path = find_weights(weights)
    segmenter = Segmenter(path, threads=1)  # says now what is wrong with it
    work = Work(Folder(output), segmenter.weights, masks)
    header = {
        "version": __version__,
        "inputs": {one: absolute(one) for one in inputs},  # ids begin with what was typed
        "weights": work.weights,
        "shard_size": shard_size,
        "masks": masks,
    }
    offsets = open_plan(work.output, header, plan_shards(inputs, shard_size, output))
    names = [part_name(number) for number in range(len(offsets) - 1)]
    done = work.output.names(PARTS) & set(names)
    left = np.array([n for n, part in enumerate(names) if part not in done], np.int64)
    before, now, busy = count_parts(work.output, done), Count(), 0.0
    if len(left):
        with _cluster(address, actors), reporter.bar("segmenting", len(names)) as bar:
            bar.advance(len(done))
            begin = time.monotonic()
            results = _run(work, path.read_bytes(), offsets, left, address, actors)
            with closing(results):
                for count in results:
                    now += count
                    busy = time.monotonic() - begin
                    bar.advance(1, per_second=now.photos / busy, errors=now.errors)
    work.output.sweep(*_STRAYS)
    total = before + now
    summary = Summary(
        photos=total.photos,
        errors=total.errors,
        parts=len(names),
        earlier=before.photos,
        segmented=now.photos - now.errors,
        seconds=round(time.monotonic() - start, 3),
        photos_per_second=round(now.photos / busy, 3) if busy else 0.0,
        weights=work.weights,
    )
    with work.output.writing(SUMMARY) as file:
        text = json.dumps({"notice": NOTICE, **asdict(summary)}, indent=2)
        file.write_text(text + "\n", encoding="utf-8")
    return summary


class _Worker:
    """Holds one network and segments shards with it; Ray makes one per core."""

    def __init__(self, work: Work, weights: bytes, home: str) -> None:
        self.work = work
        with suppress(OSError):  # other machines need not have it
            os.chdir(home)  # paths are as they were given
        with tempfile.TemporaryDirectory() as folder:  # other machines have no file of that path
            path = Path(folder, "model.onnx")
            path.write_bytes(weights)
            self.segmenter = Segmenter(path, threads=1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            shard = read_shard_line(self.work.output, row["start"], row["stop"])
            count = write_part(self.segmenter, self.work, row["number"], shard)
        except EgeunetError as error:
            return {"photos": 0, "errors": 0, "failure": str(error)}
        return {"photos": count.photos, "errors": count.errors, "failure": ""}


def _run(
    work: Work,
    weights: bytes,
    offsets: array[int],
    left: np.ndarray,
    address: str | None,
    actors: int | None,
) -> Generator[Count, None, None]:
    """Have the shards that are left segmented, and yield the count of each when it is written."""
    ends = np.array(offsets)
    table = pa.table({"number": left, "start": ends[left], "stop": ends[left + 1]})
    blocks = np.array_split(np.arange(len(left)), min(len(left), _BLOCKS))
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    most = min(actors or (len(left) if address else cores), len(left))
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
                    f"{row['failure']} What is written stays; the same command goes on."
                )
            yield Count(int(row["photos"]), int(row["errors"]))
    except RayTaskError:
        raise  # an error in this program, with its traceback
    except RayError as error:
        raise EgeunetError(
            f"Ray gave up ({type(error).__name__}: {str(error).strip().splitlines()[0]}): "
            "what is written stays, and the same command goes on."
        ) from error


@contextmanager
def _cluster(address: str | None, actors: int | None) -> Iterator[None]:
    """Connect to Ray, or start it for this process, without its own progress and talk."""
    ours = not ray.is_initialized()
    local = {
        "num_cpus": actors or count_cores(),
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
    }
    # What Ray tells of workers that died it prints, and stdout is for results.
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's about itself
        try:
            if ours:
                _knock(address)
                with _mute():
                    ray.init(
                        address=address or "local",
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        **({} if address else local),
                    )
        except (OSError, RuntimeError, ValueError) as error:
            where = f"No Ray cluster answers at {address}" if address else "Ray cannot start"
            raise EgeunetError(f"{where}: {str(error).strip().splitlines()[0]}") from error
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it says is raised as well
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a large tar takes its time
        try:
            yield
        finally:
            if ours:
                ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise an OSError if nothing listens at `[ray://]host:port`: Ray would ask on for minutes."""
    host, _, port = (address or "").rpartition("/")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _mute() -> Iterator[None]:
    """Send what C++ writes to stderr nowhere: Ray's core says there that it will say little."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
