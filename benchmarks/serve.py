"""The service under load: its rate beside the Segmenter's own, waiting times, memory, bad bodies.

    python benchmarks/serve.py --data ../shared/data/isic2018 --record serve.jsonl

Clients keep their connections and run on the same machine; those of the first parts are light (see
`closed_loop.py`). The last two parts take minutes: 64 clients for `--seconds`, and `--hostile`
damaged bodies.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from closed_loop import ask_all
from timing import alternate

from egeunet.data.datasets import open_folder
from egeunet.environment import count_cores, environment
from egeunet.evaluation.results_store import append_result
from egeunet.inference.segmenter import Segmenter
from egeunet.serve import Client

PHOTOS, CLIENTS, CROWD = 200, 8, 64
BATCHES = (1, 2, 4, 8)


class Service:
    """A running `egeunet serve`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port

    def post(self, connection: HTTPConnection, photo: bytes, form: str) -> int:
        """Send a photo down a connection, read the answer and return its status."""
        kind = {"Content-Type": "application/octet-stream"}
        connection.request("POST", f"/v1/segment?format={form}", photo, kind)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def connect(self) -> HTTPConnection:
        """Return a new connection."""
        return HTTPConnection("127.0.0.1", self.port, timeout=60)

    def cpu_seconds(self) -> float:
        """Seconds that its processes have computed."""
        total = 0
        for process in self.processes():
            stat = Path(f"/proc/{process}/stat").read_text("utf-8")
            fields = stat.rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident megabytes of its processes."""
        total = 0
        for process in self.processes():
            status = Path(f"/proc/{process}/status").read_text("utf-8")
            found = re.search(r"VmRSS:\s+(\d+)", status)
            assert found
            total += int(found[1])
        return total / 1e3

    def processes(self) -> list[int]:
        """Return the process ids of the service and its workers."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task").glob("*/children")
        return [pid, *(int(one) for path in children for one in path.read_text("utf-8").split())]


@contextmanager
def serving() -> Iterator[Service]:
    """Start the service and end it as a supervisor does; it must end in order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "egeunet", "serve", "--port", str(port)]
        process = subprocess.Popen(command, stderr=log)
        try:
            Client(f"http://127.0.0.1:{port}", retries=10).models()
            yield Service(process, port)
        finally:
            process.terminate()
            assert process.wait(60) == 0


def batching() -> dict[str, float]:
    """Images per second of the network, a thread per core, by images per call."""
    segmenter, threads = Segmenter(), count_cores()
    rng = np.random.default_rng(0)

    def work(batch: int) -> None:
        images = rng.uniform(0, 255, (batch, 3, 256, 256)).astype(np.float32)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(segmenter.logits, [images] * (max(BATCHES) * 8 // batch)))

    found = alternate({str(batch): partial(work, batch) for batch in BATCHES}, 9)
    rates = {batch: max(BATCHES) * 8 / timing["median"] for batch, timing in found.items()}
    print("  " + ", ".join(f"{batch} a call: {rate:.0f}/s" for batch, rate in rates.items()))
    return rates


def throughput(service: Service, photos: list[bytes]) -> dict[str, float]:
    """Photos per second: the Segmenter's stream and the service, in turns."""
    segmenter = Segmenter()

    def stream() -> None:
        for result in segmenter.stream(photos):
            assert result.mask is not None

    works: dict[str, Callable[[], Any]] = {"stream": stream}
    for form in ("mask", "json"):
        works[form] = partial(ask_all, service.port, photos, form, CLIENTS)
    rates = {name: len(photos) / timing["median"] for name, timing in alternate(works, 5).items()}
    for form in ("mask", "json"):
        rates[f"{form}_share"] = rates[form] / rates["stream"]
    print("  " + ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items()))
    return rates


def waiting(service: Service, photos: list[bytes]) -> dict[str, float]:
    """Milliseconds of a request alone, and with eight clients at a time.

    `least` is the mean that the cores allow: they share eight requests, each of which has service
    and client compute for a while.
    """
    alone, busy = [], []
    computed = service.cpu_seconds() + time.process_time()
    for _ in range(5):  # in turns
        alone += ask_all(service.port, photos, "mask", 1)
        busy += ask_all(service.port, photos, "mask", CLIENTS)
    computed = service.cpu_seconds() + time.process_time() - computed
    cost = 1e3 * computed / len(alone + busy)
    single, p95 = 1e3 * statistics.median(alone), 1e3 * float(np.percentile(busy, 95))
    least = cost * CLIENTS / count_cores()
    print(f"  alone {single:.1f} ms, of which computed {cost:.1f} ms")
    print(f"  {CLIENTS} clients: p95 {p95:.1f} ms, {p95 / single:.1f} ×, at least {least:.1f} ms")
    return {
        "alone_ms": single,
        "p50_ms": 1e3 * statistics.median(busy),
        "p95_ms": p95,
        "times": p95 / single,
        "computed_ms": cost,
        "least_ms": least,
    }


def crowd(service: Service, photos: list[bytes], seconds: float) -> dict[str, Any]:
    """Many clients for a while: statuses, and megabytes after a tenth of it and at the end."""
    end = time.monotonic() + seconds
    memory: list[float] = []

    def client(index: int) -> collections.Counter[str]:
        found: collections.Counter[str] = collections.Counter()
        connection = service.connect()
        while time.monotonic() < end:
            found[str(service.post(connection, photos[index % len(photos)], "json"))] += 1
            index += CROWD
        connection.close()
        return found

    with ThreadPoolExecutor(CROWD) as pool:
        running = [pool.submit(client, index) for index in range(CROWD)]
        time.sleep(seconds / 10)
        memory.append(service.memory())
        statuses = sum((one.result() for one in running), collections.Counter[str]())
    memory.append(service.memory())
    print(f"  {dict(statuses)}, {memory[0]:.0f} MB, at the end {memory[1]:.0f} MB")
    return {"seconds": seconds, "clients": CROWD, "statuses": dict(statuses), "mb": memory}


def hostile(service: Service, photos: list[bytes], count: int) -> dict[str, Any]:
    """Damaged bodies and forms, some broken off; none may be a 500, nor end the service.

    Megabytes are those before, and after each fifth: a damaged header can stand for a large photo.
    """
    chance = random.Random(0)
    memory, statuses = [service.memory()], collections.Counter[str]()
    for index in range(1, count + 1):
        body, kind = damage(chance, chance.choice(photos))
        connection = service.connect()
        try:
            length = len(body) + chance.choice((0, 0, 0, 1000))  # promises more than it sends
            connection.putrequest("POST", chance.choice(("/v1/segment", "/v1/segment/batch")))
            connection.putheader("Content-Type", kind)
            connection.putheader("Content-Length", str(length))
            connection.endheaders(body)
            if length > len(body):
                statuses["left"] += 1
            else:
                statuses[str(connection.getresponse().status)] += 1
        except (OSError, HTTPException) as error:
            statuses[type(error).__name__] += 1
        finally:
            connection.close()
        if index % (count // 5) == 0:
            memory.append(service.memory())
    alive = service.post(service.connect(), photos[0], "json") == 200
    print(f"  {dict(statuses)}, alive: {alive}, MB at each fifth: {memory}")
    return {"requests": count, "statuses": dict(statuses), "alive": alive, "mb": memory}


def damage(chance: random.Random, photo: bytes) -> tuple[bytes, str]:
    """Return a body that is wrong in one of several ways, and a content type."""
    cut = photo[: chance.randrange(len(photo))]
    flipped = bytearray(photo)
    for _ in range(chance.randrange(1, 50)):
        flipped[chance.randrange(len(flipped))] = chance.randrange(256)
    body = chance.choice((b"", cut, bytes(flipped), chance.randbytes(2000)))
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + body
    kinds = ("image/jpeg", "application/octet-stream", "text/plain", "multipart/form-data")
    if chance.random() < 0.5:
        return form + chance.choice((b"\r\n--b--\r\n", b"\r\n--b", b"")), (
            "multipart/form-data; boundary=b"
        )
    return body, chance.choice(kinds)


def main() -> None:
    """Measure everything, print it and, with --record, keep it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of photos and masks")
    parser.add_argument("--seconds", type=float, default=60, help="of the crowd")
    parser.add_argument("--hostile", type=int, default=10_000, help="damaged requests")
    parser.add_argument("--shared", action="store_true", help="others compute here meanwhile")
    parser.add_argument("--record", type=Path, help="a .jsonl file to add the row to")
    options = parser.parse_args()

    dataset = open_folder(options.data)
    photos = [sample.image.read_bytes() for sample in dataset.samples[:PHOTOS]]
    row: dict[str, Any] = {
        "benchmark": "serve",
        "dataset": dataset.name,
        "photos": len(photos),
        "shared": options.shared,
    }
    print("images a call, a thread per core:")
    row["batching"] = batching()
    with serving() as service:
        print(f"photos per second, {CLIENTS} clients:")
        row["throughput"] = throughput(service, photos)
        print("waiting:")
        row["waiting"] = waiting(service, photos)
        print(f"{CROWD} clients:")
        row["crowd"] = crowd(service, photos, options.seconds)
        print("damaged bodies:")
        row["hostile"] = hostile(service, photos, options.hostile)
    if options.record:
        append_result(options.record, {**row, **environment()})


if __name__ == "__main__":
    main()
