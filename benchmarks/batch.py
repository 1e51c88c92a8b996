"""An archive segmented by `egeunet batch`: its rate, its memory, and three kills along the way.

    python benchmarks/batch.py --data folder/of/jpegs --photos 100000 --record scale.jsonl

The archive is made of hard links to the photos of `--data`. `predict` segments a part of it before
and after; `batch` all of it twice: left alone, and with a worker, an actor and the driver killed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from egeunet.environment import environment
from egeunet.evaluation.results_store import append_result

FOLDER = 1000  # photos in each
TENTHS = 10
# `egeunet` that has Ray kill one of its actors when told to: no other process may ask Ray for it.
DRIVER = """
import signal, sys
import ray
from ray._private import state, worker
from egeunet.cli.main import main

def kill_actor(*_):
    found = state.actors().values()
    mine = [one for one in found if one["ActorClassName"].startswith("MapWorker")]
    alive = next(one["ActorID"] for one in mine if one["State"] == "ALIVE")
    worker.global_worker.core_worker.kill_actor(ray.ActorID.from_hex(alive), False)

signal.signal(signal.SIGUSR1, kill_actor)
main()
"""


class Job:
    """A running `egeunet batch`, watched."""

    def __init__(self, archive: Path, output: Path, size: int, log: Callable[[str], None]) -> None:
        self.output, self.log = output, log
        command = [sys.executable, "-c", DRIVER, "batch", str(archive), "-o", str(output)]
        command += ["--shard-size", str(size), "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def processes(self) -> dict[int, str]:
        """The driver and all below it, with their command lines."""
        text = output_of("ps", "-e", "-o", "pid=,ppid=,args=")
        rows = [line.split(maxsplit=2) for line in text.splitlines()]
        found = {self.process.pid: ""}
        for _ in range(4):  # driver, raylet, worker
            found |= {int(pid): args for pid, parent, args in rows if int(parent) in found}
        return found

    def megabytes(self) -> float:
        """Memory in use, what is shared counted once (PSS)."""
        total = 0
        for pid in self.processes():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8")
            except OSError:  # gone meanwhile
                continue
            total += sum(int(kb) for kb in re.findall(r"^Pss:\s+(\d+)", text, re.MULTILINE))
        return total / 1e3

    def wait(self, parts: int) -> bool:
        """Wait until so many parts are written; False if the program ends before."""
        folder = self.output / "parts"
        while self.process.poll() is None:
            if folder.is_dir() and sum(one.name[0] != "." for one in folder.iterdir()) >= parts:
                return True
            time.sleep(0.2)
        return False

    def kill(self, what: str) -> None:
        """Kill the driver, the process of a worker, or an actor by way of Ray."""
        if what == "driver":
            self.process.kill()
            self.process.communicate()
        elif what == "worker":
            workers = [pid for pid, args in self.processes().items() if "ray::MapWorker" in args]
            os.kill(workers[0], signal.SIGKILL)
        else:
            self.process.send_signal(signal.SIGUSR1)
        self.log(f"{what} killed")

    def end(self) -> dict[str, Any]:
        """Wait for the end and return the summary."""
        out, _ = self.process.communicate()
        assert self.process.returncode == 0, self.process.returncode
        summary: dict[str, Any] = json.loads(out)
        self.log(f"ended: {summary['images']:,} photos, {summary['errors']} errors")
        return summary


def output_of(*command: str) -> str:
    """Return what a program prints."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def make_archive(data: Path, folder: Path, count: int) -> int:
    """Hard-link photos over and over into folders of a thousand; return their bytes."""
    total = 0
    sources = [(one, one.stat().st_size) for one in sorted(data.glob("*.jpg"))]
    for index, (source, size) in enumerate(itertools.islice(itertools.cycle(sources), count)):
        target = folder / f"{index // FOLDER:06}" / f"{index:09}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another disk, or too many links
            shutil.copy(source, target)
        total += size
    return total


def predict(archive: Path, count: int, output: Path) -> float:
    """Photos per second of `egeunet predict` over the first photos, start and end included."""
    folders = [str(archive / f"{n:06}") for n in range(-(-count // FOLDER))]
    start = time.perf_counter()
    output_of(sys.executable, "-m", "egeunet", "predict", *folders, "-o", str(output))
    seconds = time.perf_counter() - start
    done = len(json.loads((output / "predictions.json").read_bytes())["images"])
    shutil.rmtree(output)
    return done / seconds


def undisturbed(archive: Path, output: Path, size: int, shards: int) -> dict[str, Any]:
    """Segment all of it; seconds, and megabytes at each tenth."""
    memory = []
    job = Job(archive, output, size, print)
    for tenth in range(1, TENTHS):
        if job.wait(-(-shards * tenth // TENTHS)):
            memory.append(round(job.megabytes()))
    return {**job.end(), "mb": memory}


def disturbed(archive: Path, output: Path, size: int, shards: int) -> dict[str, Any]:
    """Segment all of it with three kills; what happened when, and how many parts there were."""
    start = time.monotonic()
    events: list[dict[str, Any]] = []

    def log(text: str) -> None:
        parts = len(list((output / "parts").glob("part-*")))
        events.append({"second": round(time.monotonic() - start), "event": text, "parts": parts})
        print(f"  {events[-1]}", flush=True)

    job = Job(archive, output, size, log)
    for quarter, what in enumerate(("worker", "actor", "driver"), 1):
        assert job.wait(-(-shards * quarter // 4)), "it ended before it could be killed"
        job.kill(what)
    job = Job(archive, output, size, log)
    log("started again")
    summary = job.end()
    return {"photos": summary["images"], "errors": summary["errors"], "events": events}


def read_parts(output: Path) -> dict[str, bytes]:
    """Return the bytes of all files of the parts' folder."""
    return {one.name: one.read_bytes() for one in sorted((output / "parts").iterdir())}


def main() -> None:
    """Measure everything, print it and, with --record, keep it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of JPEG files")
    parser.add_argument("--photos", type=int, default=100_000, help="of the archive")
    parser.add_argument("--predict", type=int, default=5000, help="photos for `predict`")
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--work", type=Path, help="a folder on the disk of --data, for links")
    parser.add_argument("--shared", action="store_true", help="others compute here meanwhile")
    parser.add_argument("--record", type=Path, help="a .jsonl file to add the row to")
    options = parser.parse_args()

    size, shards = options.shard_size, -(-options.photos // options.shard_size)
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        folder = Path(name)
        archive = folder / "archive"
        bytes_in = make_archive(options.data, archive, options.photos)
        sample = min(options.predict, options.photos)
        rates = [predict(archive, sample, folder / "masks")]
        calm = undisturbed(archive, folder / "calm", size, shards)
        rates.append(predict(archive, sample, folder / "masks"))
        rate = calm["photos"] / calm["seconds"]
        print(f"predict {rates}, batch {rate:.1f} photos/s, memory {calm['mb']} MB")
        killed = disturbed(archive, folder / "killed", size, shards)
        expected, found = read_parts(folder / "calm"), read_parts(folder / "killed")
        print(f"same bytes after three kills: {found == expected}")
    row = {
        "benchmark": "scale",
        "photos": options.photos,
        "shard_size": size,
        "shared": options.shared,
        "bytes_in": bytes_in,
        "bytes_out": sum(map(len, expected.values())),
        "predict_per_second": rates,
        "batch_per_second": rate,
        "batch_share": rate / statistics.mean(rates),
        "undisturbed": calm,
        "killed": {**killed, "same_bytes": found == expected},
    }
    if options.record:
        append_result(options.record, {**row, **environment()})


if __name__ == "__main__":
    main()
