"""Inference speed: one photo, a folder of photos, a large photo, the start; and whether all agree.

    python benchmarks/inference.py --data isic2018 --official CHECKOUT --formats --record FILE

It measures the shipped weights "isic2018" in the engine and in ONNX Runtime. With --official, a
checkout of https://github.com/JCruan519/EGE-UNet, the published network runs in turns with them in
the same process. With --formats, every way to run the network is measured and scored as
`egeunet benchmark` does. Each part prints its figures; the row holds all of them.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from published import published_backends
from timing import alternate, spread

from egeunet.data.datasets import Sample, open_folder
from egeunet.data.splits import split_dataset
from egeunet.environment import count_cores, environment
from egeunet.evaluation.results_store import append_result
from egeunet.exporting.backends import file_backend
from egeunet.exporting.benchmark import benchmark
from egeunet.exporting.formats import export_run
from egeunet.files import sha256_file
from egeunet.inference.folder import plan, run_jobs
from egeunet.inference.image_io import read_image
from egeunet.inference.preprocess import to_input, upsample
from egeunet.inference.segmenter import Segmenter, sigmoid
from egeunet.inference.weights import DEFAULT
from egeunet.training.run import load_run

PHOTOS, AGREE = 500, 100
ROUNDS = 5  # of 500 photos each
LARGE = (4000, 3000)
ENGINE = "ours, engine"

START = """
import sys, time
start = time.perf_counter()
import egeunet
egeunet.Segmenter()
seconds = time.perf_counter() - start
assert "torch" not in sys.modules
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1e3
print(seconds, peak)
"""


def latency(
    engine: Path, core: Path, official: Path | None, rounds: int
) -> dict[str, dict[str, float]]:
    """Seconds for one image of 256×256 with one thread, in turns."""
    torch.set_num_threads(1)
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 256, 256)).astype(np.float32)
    backends = [file_backend(ENGINE, engine), file_backend("ours, ONNX", core)]
    if official:
        backends += published_backends(official, core.parent, (256, 256))
    runners = {one.name: one.open(1) for one in backends}
    works: dict[str, Callable[[], Any]] = {
        name: functools.partial(run, image) for name, run in runners.items()
    }
    found = alternate(works, rounds, settled=True)
    ours = found[ENGINE]["median"]
    for name, timing in found.items():
        timing["times_ours"] = timing["median"] / ours
        print(f"  {name:24} {1e3 * timing['median']:7.2f} ms   {timing['times_ours']:.2f} × engine")
    return found


def folder_rate(photos: list[Path], threads: int) -> dict[str, Any]:
    """Photos per second: of decoding, of inference, and of both, in memory and to PNG files.

    `share` is the rate of `stream` divided by 1 / (1/decode + 1/infer), what the two allow together
    on as many cores as threads. `stream_onnx` does the same work in ONNX Runtime.
    """
    segmenter = Segmenter(threads=threads)
    with_onnx = Segmenter(threads=threads, backend="onnxruntime")
    size = segmenter.metadata.size
    images = [to_input(read_image(photo), size)[None] for photo in photos[:50]]

    def spread_out(work: Callable[[int], Any]) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(work, range(len(photos))):
                pass

    def decode() -> None:
        spread_out(lambda index: to_input(read_image(photos[index]), size))

    def infer() -> None:
        spread_out(lambda index: segmenter.logits(images[index % len(images)]))

    def stream(segmenter: Segmenter) -> None:
        for result in segmenter.stream(photos):
            assert result.mask is not None

    def files() -> None:
        with tempfile.TemporaryDirectory() as name:
            for row in run_jobs(segmenter, plan(photos, Path(name)), Path(name)):
                assert row["error"] is None

    works: dict[str, Callable[[], Any]] = {
        "decode": decode,
        "infer": infer,
        "stream": functools.partial(stream, segmenter),
        "files": files,
        "stream_onnx": functools.partial(stream, with_onnx),
    }
    timings = alternate(works, ROUNDS)
    found = {name: len(photos) / timing["median"] for name, timing in timings.items()}
    share = found["stream"] * (1 / found["decode"] + 1 / found["infer"])
    print(
        f"  threads {threads}: "
        + ", ".join(f"{name} {rate:.0f}/s" for name, rate in found.items())
        + f"; the stream reaches {share:.0%} of what decoding and inference allow together"
    )
    return {"threads": threads, "photos": len(photos), "per_second": found, "share": share}


def large_photo(photo: Path) -> dict[str, float]:
    """Milliseconds from a file of 12 megapixels to its mask, on one core."""
    segmenter = Segmenter(threads=1)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
            file.write(enlarged(photo))
            file.flush()
            found = alternate({"file to mask": lambda: segmenter(file.name).mask}, 15)
    finally:
        os.sched_setaffinity(0, allowed)
    timing = {key: value * 1e3 for key, value in found["file to mask"].items() if key != "n"}
    print(f"  file to mask {timing['median']:.0f} ms ({timing['min']:.0f}–{timing['max']:.0f})")
    return timing


def enlarged(photo: Path) -> bytes:
    """A photo as a JPEG file of 12 megapixels."""
    file = io.BytesIO()
    with Image.open(photo) as image:
        image.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def start(repeats: int = 10) -> dict[str, Any]:
    """Seconds and peak megabytes of `import egeunet; egeunet.Segmenter()` in a fresh process."""
    found = []
    for _ in range(repeats + 1):
        done = subprocess.run(
            [sys.executable, "-c", START], check=True, capture_output=True, text=True
        )
        found.append([float(word) for word in done.stdout.split()])
    times, peaks = zip(*found[1:], strict=True)  # the first filled the disk cache
    print(f"  {statistics.median(times):.3f} s, peak {max(peaks):.0f} MB")
    return {"seconds": spread(times), "peak_mb": max(peaks)}


def agreement(core: Path, photo: Path, samples: Sequence[Sample]) -> Any:
    """Compare with torch: IoU of the masks at the photo's size, and the probabilities.

    Compared are the engine, the two ONNX graphs and the Segmenter.
    """
    run, segmenter = load_run(DEFAULT), Segmenter(threads=1)
    core_session, photo_session = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for path in (core, photo)
    )
    ious: dict[str, list[float]] = {}
    differences: dict[str, float] = {}
    for sample in samples:
        pixels = read_image(sample.image)
        size = (pixels.shape[0], pixels.shape[1])
        image = to_input(pixels, segmenter.metadata.size)[None]
        with torch.no_grad():
            expected = upsample(run.model(torch.from_numpy(image)).sigmoid()[0, 0].numpy(), size)
        (logits,) = core_session.run(["logits"], {"image": image})
        (whole,) = photo_session.run(["probability"], {"photo": pixels})
        result = segmenter(sample.image)
        maps = {
            "engine": upsample(sigmoid(segmenter.logits(image)[0, 0]), size),
            "core": upsample(sigmoid(logits[0, 0]), size),
            "photo": whole,
            "Segmenter": result.probability,
        }
        for name, probability in maps.items():
            mask, truth = probability >= 0.5, expected >= 0.5
            if name == "Segmenter":
                mask = result.mask
            union = np.count_nonzero(mask | truth)
            ious.setdefault(name, []).append(
                np.count_nonzero(mask & truth) / union if union else 1.0
            )
            off = float(abs(probability - expected).max())
            differences[name] = max(differences.get(name, 0.0), off)
    found = {
        name: {
            "mean": statistics.fmean(values),
            "min": min(values),
            "n": len(values),
            "probability": differences[name],
        }
        for name, values in ious.items()
    }
    for name, iou in found.items():
        print(
            f"  {name:10} IoU with torch {iou['mean']:.5f}, least {iou['min']:.5f}; "
            f"probability differs by at most {iou['probability']:.1e}"
        )
    return found


def formats(data: Path, official: Path | None) -> list[dict[str, Any]]:
    """Return the rows of `egeunet benchmark`."""
    rows: list[dict[str, Any]] = benchmark(
        DEFAULT,
        data=data,
        others=functools.partial(published_backends, official) if official else None,
    )["rows"]
    for row in rows:
        score = "not scored" if row["dice"] is None else f"DSC {row['dice']:.2f} %"
        print(f"  {row['name']:24} {row['threads']['1']['p50_ms']:7.2f} ms   {score}")
    return rows


def main() -> None:
    """Measure everything, print it and, with --record, keep it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of ISIC 2018")
    parser.add_argument("--official", type=Path, help="a checkout of the published code")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--formats", action="store_true", help="measure and score all formats")
    parser.add_argument("--shared", action="store_true", help="others compute here meanwhile")
    parser.add_argument("--record", type=Path, help="a .jsonl file to add the row to")
    options = parser.parse_args()

    dataset = open_folder(options.data)
    test = split_dataset(dataset, "holdout").test
    spaced = [test[i] for i in np.linspace(0, len(test) - 1, AGREE).astype(int)]
    photos = [sample.image for sample in dataset.samples[:PHOTOS]]
    row: dict[str, Any] = {
        "benchmark": "inference",
        "dataset": dataset.name,
        "rounds": options.rounds,
        "shared": options.shared,
    }
    with tempfile.TemporaryDirectory() as name:
        files = export_run(load_run(DEFAULT), Path(name), ["engine", "onnx"])
        engine, core, photo = (one.path for one in files)
        row["weights_sha256"] = sha256_file(engine)
        print("start:")
        row["start"] = start()
        print("latency, one thread, batch 1:")
        row["latency"] = latency(engine, core, options.official, options.rounds)
        print(f"a folder of {len(photos)} photos:")
        row["folder"] = [folder_rate(photos, threads) for threads in sorted({1, count_cores()})]
        print("a photo of 12 megapixels, one core:")
        row["large"] = large_photo(photos[0])
        print("agreement:")
        row["agreement"] = agreement(core, photo, spaced)
        if options.formats:
            print("every format:")
            row["formats"] = formats(options.data, options.official)
    if options.record:
        append_result(options.record, {**row, **environment()})


if __name__ == "__main__":
    main()
