"""Benchmark of the backends that run a model: latency, throughput, size, memory and Dice."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from egeunet.data.cache import Arrays, load_arrays
from egeunet.data.datasets import Sample
from egeunet.environment import count_cores, environment
from egeunet.errors import MissingExtraError, UsageError, needs_extra
from egeunet.exporting.backends import (
    Backend,
    Runner,
    file_backend,
    keep_threads,
    run_backends,
)
from egeunet.exporting.runtimes import file_size
from egeunet.inference.preprocess import min_max_normalize
from egeunet.inference.segmenter import Segmenter
from egeunet.inference.weights import DEFAULT, find_shipped, find_weights, run_folder
from egeunet.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from egeunet.training.run import Run

_LOG = logging.getLogger(__name__)
BATCH = 8  # of the throughput
_PROBE = """
import json, sys, time
path = sys.argv[1]
start = time.perf_counter()
import os
import numpy as np
image = np.zeros((1, 3, {height}, {width}), np.float32)
if os.path.isfile(path) or path.endswith(".mlpackage"):
    from pathlib import Path
    from egeunet.exporting.runtimes import open_network
    network = open_network(Path(path))
    ready = time.perf_counter()
    network(image)
else:  # a run folder, or the name of shipped weights
    import torch
    from egeunet.training.run import load_run
    model = load_run(path).model
    ready = time.perf_counter()
    with torch.inference_mode():
        model(torch.from_numpy(image))
if sys.platform == "linux":  # where getrusage also counts the process that started this one
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1e3
else:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps([ready - start, peak]))
"""


def benchmark(
    weights: str | Path | None = None,
    *,
    data: str | Path | None = None,
    others: Callable[[Path, tuple[int, int]], Sequence[Backend]] | None = None,
    rounds: int = 50,
) -> dict[str, Any]:
    """Measure the ways to run a network, one after the other in each round.

    Args:
        weights: A run folder or the name of shipped weights, "isic2018" by default: torch, torch
            compiled, and every exported format; or another file as `Segmenter` takes it.
        data: A dataset or folder, scored as `egeunet.evaluate` would; not scored without.
        others: Function from a folder for files, and the input size, to further backends.
        rounds: How often each is run; the first tenth is warm-up.

    Returns:
        What JSON can hold: `rows`, one per way to run it, `scored_on`, and the `environment`. A row
        has `name`, `size_kb`, `startup_s` and `peak_mb` of a fresh process, `iou` (mean, of the
        masks with those of torch), `dice` (pooled, in percent), and for `1` thread and for all
        `cores`: `p50_ms`, `p95_ms` at batch 1 and `images_per_s`. What was not measured is None.

    Raises:
        UsageError: A number is out of its range, a path is not what it should be, or the photos to
            be scored were trained on.
        EgeunetError: There are no such weights.
    """
    if rounds < 10:
        raise UsageError(f"rounds is {rounds}: expected 10 or more.")
    weights = weights or DEFAULT
    run = _open_run(weights)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if run or others:
            stack.enter_context(keep_threads())
        if run:
            size, classes = run.recipe.data.shape, run.recipe.data.num_classes
            backends = run_backends(run, folder)
        else:
            path = find_weights(weights)
            metadata = Segmenter(path).metadata
            size, classes = metadata.size, len(metadata.classes)
            backends = [file_backend("engine", path)] if path.suffix == ".egeu" else []
            if not backends or find_shipped(weights):
                path = find_weights(weights, "onnxruntime")
                backends.append(file_backend("ONNX", path))
        if others:
            backends = [*others(folder, size), *backends]
        threads = sorted({1, count_cores()})
        times = {count: _time(backends, count, size, rounds) for count in threads}
        scores: Mapping[str, float] = {}
        scored_on = None
        if data:
            scored_on, samples = _test_part(data, weights)
            arrays = load_arrays(samples, size, classes)
            scores = _score(backends, arrays, classes)
        rows = []
        for backend in backends:
            startup, peak = _probe(backend, size)
            row: dict[str, Any] = {
                "name": backend.name,
                "size_kb": file_size(backend.file) / 1000 if backend.file else None,
                "startup_s": startup,
                "peak_mb": peak,
                "iou": backend.iou,
                "dice": scores.get(backend.name),
                "threads": {str(count): times[count][backend.name] for count in threads},
            }
            rows.append(row)
    return {
        "weights": str(weights),
        "rounds": rounds,
        "scored_on": scored_on,
        "rows": rows,
        "environment": environment(),
    }


def _open_run(weights: str | Path) -> Run | None:
    """Open what torch can run; of other weights say that their file alone is measured."""
    shipped = find_shipped(weights)
    if not shipped and not run_folder(weights):
        _LOG.info("of a file there is one row: name a run folder for torch and formats")
        return None
    try:
        with needs_extra("train"):
            from egeunet.training.run import load_run
    except MissingExtraError as error:
        if not shipped:
            raise
        _LOG.warning(f"torch and the other formats are left out: {error}")
        return None
    return load_run(weights)


def _time(
    backends: Sequence[Backend],
    threads: int,
    size: tuple[int, int],
    rounds: int,
) -> dict[str, dict[str, float]]:
    """Latency and throughput with a number of threads.

    Each round runs every backend, so that what else the machine does meets all alike; and twice,
    of which the second is timed, as the first finds the processor's caches full of another's data.
    """
    rng = np.random.default_rng(0)
    one = rng.uniform(0, 255, (1, 3, *size)).astype(np.float32)
    many = np.repeat(one, BATCH, axis=0)
    runners = {backend.name: backend.open(threads) for backend in backends}
    single: dict[str, list[float]] = {name: [] for name in runners}
    several: dict[str, list[float]] = {name: [] for name in runners}
    for round_ in track(range(rounds), f"timing, {threads} threads", rounds):
        for name, run in runners.items():
            run(one)
            single[name].append(_seconds(run, one))
            if round_ % 5 == 0:
                several[name].append(_batch_seconds(run, many))
    warm = rounds // 10
    return {
        name: {
            "p50_ms": 1000 * float(np.percentile(single[name][warm:], 50)),
            "p95_ms": 1000 * float(np.percentile(single[name][warm:], 95)),
            "images_per_s": BATCH / float(np.median(several[name])),
        }
        for name in runners
    }


def _seconds(run: Runner, images: np.ndarray[Any, Any]) -> float:
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start


def _batch_seconds(run: Runner, images: np.ndarray[Any, Any]) -> float:
    """The time of a batch; of its images one by one where a graph takes no batch."""
    try:
        return _seconds(run, images)
    except Exception:
        # A graph of a fixed batch refuses with errors of the runtime's own.
        return sum(_seconds(run, image[None]) for image in images)


def _probe(backend: Backend, size: tuple[int, int]) -> tuple[float | None, float | None]:
    """Start-up in seconds and peak memory in MB of a fresh process that segments one image."""
    if backend.probe is None or sys.platform == "win32":
        return None, None
    code = _PROBE.format(height=size[0], width=size[1])
    command = [sys.executable, "-c", code, str(backend.probe)]
    done = subprocess.run(command, check=True, capture_output=True)
    startup, peak = json.loads(done.stdout.splitlines()[-1])  # runtimes print too
    return startup, peak


def _test_part(data: str | Path, weights: str | Path) -> tuple[str, tuple[Sample, ...]]:
    """What is scored, in words, and the photos: what `egeunet evaluate` would score."""
    from egeunet.evaluation.target import choose_samples, open_target

    target = open_target(weights, last=False, tta=False, device="cpu")
    own = target.run is not None and str(data) == target.run.recipe.data.name
    protocol, dataset, samples = choose_samples(target, None if own else data, None, "test")
    split = "all" if protocol == "external" else "test"
    return f"{len(samples)} images of {dataset.name}, protocol {protocol}, split {split}", samples


def _score(backends: Sequence[Backend], arrays: Arrays, classes: int) -> Mapping[str, float]:
    """The pooled Dice of each, in percent."""
    import torch

    from egeunet.metrics.counts import PixelCounts

    masks = torch.from_numpy(np.array(arrays.masks))
    found = {}
    for backend in backends:
        if not backend.scored:
            continue
        run, counts = backend.open(count_cores()), PixelCounts(classes)
        for start in track(range(0, len(masks), BATCH), f"scoring {backend.name}"):
            chosen = slice(start, start + BATCH)
            images = min_max_normalize(np.array(arrays.images[chosen])).transpose(0, 3, 1, 2)
            logits = torch.as_tensor(run(np.ascontiguousarray(images)))
            counts.update(logits.clone(), masks[chosen])
        found[backend.name] = 100 * counts.pooled()["dice"]
    return found


def latency_figure(report: Mapping[str, Any]) -> Figure:
    """Draw the latency at batch 1 of each way to run the network, p50 with a whisker to p95."""
    from matplotlib.figure import Figure

    rows = report["rows"][::-1]
    figure = Figure(figsize=(7, 0.9 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    counts = list(rows[0]["threads"])
    height = 0.8 / len(counts)
    for index, count in enumerate(counts):
        p50 = np.array([row["threads"][count]["p50_ms"] for row in rows])
        p95 = np.array([row["threads"][count]["p95_ms"] for row in rows])
        places = np.arange(len(rows)) + (len(counts) - 1) * height / 2 - index * height
        label = "1 thread" if count == "1" else f"{count} threads"
        bars = axes.barh(places, p50, height, xerr=(0 * p50, p95 - p50), label=label, capsize=2)
        axes.bar_label(bars, [f" {value:.1f}" for value in p50], label_type="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_xlabel("milliseconds per image, p50 and p95")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
