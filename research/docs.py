"""Write the generated tables and figures of README and docs from code and results.

A page has regions between `<!-- name:begin -->` and `<!-- name:end -->`; the rest is written by
hand. `tests/research/test_docs.py` fails if a region is stale.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from egeunet.cli.models import COLUMNS, table_row
from egeunet.data.cache import Arrays
from egeunet.data.synthetic import draw
from egeunet.environment import describe_environment
from egeunet.evaluation.corruptions import KINDS, SEVERITIES, corrupt
from egeunet.evaluation.results_store import read_results
from egeunet.models.registry import list_models, model_info
from research.paper import DATASETS
from research.release_report import release_tables, weights_row
from research.report import SHIPPED_FOR, write_report
from research.table import markdown

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
REPORT = ROOT / "docs" / "report"
CORRUPTED = ROOT / "docs" / "images" / "corruptions.jpg"
RESULTS = ROOT / "research" / "results"
CORE_HOUR = 0.04  # US dollars, about the price of a core without GPU at cloud providers
NETWORK = 10e9 / 8  # bytes a second of a link of 10 Gbit/s
READS = 5500  # per second and prefix that Amazon S3 allows
TIMES = ("total", "last_epoch")


@functools.cache
def regions() -> dict[str, str]:
    """Return the text of every region by its name."""
    names = list_models()
    lines = [table_row(model_info(name)) for name in names]
    return {
        "models": f"\n{models(lines)}",
        "weights": f"\n{weights()}",
        "steps": f"\n{steps(names)}",
        "training": f"\n{training()}",
        "seeds": f"\n{seeds()}",
        "ddp": f"\n{ddp()}",
        "page": f"\n{page()}",
        "classes": f"\n{classes()}",
        **{name: f"\n{text}" for name, text in (runtime() | shipped() | serve() | scale()).items()},
        **{
            f"cost {model}": f"{params} parameters, {macs} GMACs, {memory} MB"
            for model, (_, params, macs, memory, *_) in zip(names, lines, strict=True)
        },
    }


def models(lines: Sequence[tuple[str, ...]]) -> str:
    """Return the table of models, with links to their papers."""
    cells = [COLUMNS, ("---", *["---:"] * 5, "---", "---")]
    for name, *middle, paper in lines:
        arxiv = model_info(name).arxiv
        link = f"[{paper}](https://arxiv.org/abs/{arxiv})" if arxiv else paper
        cells.append((f"`{name}`", *middle, link))
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def results(name: str) -> list[dict[str, Any]]:
    """Return the rows of a file of results; none if it is missing."""
    path = RESULTS / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def steps(names: list[str]) -> str:
    """Return the table of the first training steps, the last row of each model."""
    rows = {row["model"]: row for row in results("zoo_steps")}
    columns = "model | batch | loss, first 5 | loss, last 5 | seconds a step | IoU of a photo"
    lines = []
    for model in names:
        row = rows.get(model)
        cells = ["not run", "", "", "", ""]
        if row:
            mark = "" if "statistics_settled_on" in row else "\\*"
            cells = [
                str(row["batch_size"]),
                f"{row['output_loss_first5']:.3f}",
                f"{row['output_loss_last5']:.3f}",
                f"{row['step_seconds_median']:.2f}",
                f"{row['photo_iou']:.3f}{mark}",
            ]
        lines.append([f"`{model}`", *cells])
    return table(columns, lines)


def training() -> str:
    """Return the table of training speed, from its last row, and where it was measured."""
    rows = results("training_speed")
    if not rows:
        return "not run\n"
    row = rows[-1]
    seconds = {
        "step of batch 8": row["step"],
        "loader alone, one core, per image": row["loader"],
        f"epoch with its data, {row['epoch_images']} images": row["epoch"],
        f"evaluation, {row['epoch_images']} images": row["evaluation"],
    }
    lines = []
    for what, times in seconds.items():
        ours, published = times["ours"]["median"], times["published"]["median"]
        per = row["epoch_images"] if "per image" in what else 1
        cells = [f"{1e3 * value / per:,.{1 if per == 1 else 2}f} ms" for value in (ours, published)]
        lines.append([what, *cells, f"{published / ours:.1f} ×"])
    memory = row["peak_mb"]
    cells = [f"{memory[name]:.0f} MB" for name in ("ours", "published")]
    lines.append(["peak memory of a training process", *cells, ""])
    return f"{table('what | ours | published | ratio', lines)}\n{machine(row)}"


def seeds() -> str:
    """Return the table of several seeds, side by side and one after the other, of its last row."""
    rows = results("seeds_speed")
    if not rows:
        return "not run\n"
    row = rows[-1]
    lines = [
        (way, *(" – ".join(f"{f(row[key][way]):.0f} s" for f in (min, max)) for key in TIMES))
        for way in row["total"]
    ]
    columns = f"{row['seeds']} seeds of {row['epochs']} epochs, {row['images']} images"
    text = table(f"{columns} | all of it, n = {row['n']} | last epoch of a seed", lines)
    return f"{text}\n{machine(row)}"


def ddp() -> str:
    """Return the table of one process and two, of its last row, and where it was measured."""
    rows = results("ddp")
    if not rows:
        return "not run\n"
    row = rows[-1]
    one, two, control = (row[name] for name in ("one", "two", "control"))
    lines = []
    traces = (run["train_loss"] for run in (one, two, control))
    for epoch, losses in enumerate(zip(*traces, strict=True), 1):
        apart = [f"{abs(loss / losses[0] - 1):.1e}" for loss in losses[1:]]
        lines.append([f"train loss, epoch {epoch}", f"{losses[0]:.4f}", *apart])
    lines += [
        ["weights after it", "", *(f"{run['weights_apart']:.1e}" for run in (two, control))],
        ["images a second", *(f"{run['images_per_second']:.1f}" for run in (one, two)), ""],
    ]
    columns = "what | one process | two: relative difference | one, perturbed: difference"
    seen = f"{row['images']} images to train, batches of {row['batch_size']}; speed with validation"
    return f"{table(columns, lines)}\n{seen}: {machine(row)}"


def weights() -> str:
    """Return the table of shipped weights, from the last row of each."""
    rows = read_results(RESULTS)
    lines = []
    for row in filter(None, (weights_row(rows, dataset) for dataset in SHIPPED_FOR)):
        scores = (row["pooled"]["iou"], row["pooled"]["dice"], row["means"]["dice"])
        lines.append(
            [
                f"[`{row['weights']}`](src/egeunet/weights/{row['weights']}.md)",
                DATASETS[row["dataset"]],
                f"{row['n']}",
                *(f"{100 * score:.2f}" for score in scores),
                f"{row['bytes'] / 1000:.0f} KB",
            ]
        )
    columns = "weights | dataset | test images | mIoU | DSC | Dice per image | size"
    return table(columns, lines)


def classes() -> str:
    """Return the scores of each class of the drawn task, from its last row."""
    rows = results("classes")
    if not rows:
        return "not run\n"
    row = rows[-1]
    lines = [
        (name, *(f"{score['pooled'][key]:.2%}" for key in ("iou", "dice")))
        for name, score in row["per_class"].items()
    ]
    lines.append(("mean", *(f"{row['pooled'][key]:.2%}" for key in ("iou", "dice"))))
    where = f"Of {row['n']} photos of the test part, {row['epochs']} epochs, seed {row['seed']}"
    return f"{table('pooled | IoU | DSC', lines)}\n{where}; commit {row['git_commit'][:12]}.\n"


def table(columns: str, rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; "not run" without rows."""
    return markdown(columns.split(" | "), rows)


def runtime() -> dict[str, str]:
    """Return the regions of the page on the runtime, of the last row of each kind."""
    rows = results("inference")
    last: dict[str, Any] = rows[-1] if rows else {}
    formats = [row for row in rows if row.get("formats")]
    options = {row["options"]: row for row in results("options")}
    scale = options.pop("reduced decoding", None)
    return {
        "runtime machine": machine(last),
        "runtime latency": table(
            "one photo, one thread | ms, median | least–most | × engine",
            (
                (
                    name,
                    f"{1e3 * time['median']:.1f}",
                    f"{1e3 * time['min']:.1f}–{1e3 * time['max']:.1f}",
                    f"{time['times_ours']:.2f}",
                )
                for name, time in last.get("latency", {}).items()
            ),
        ),
        "runtime folder": table(
            "threads | decode alone | infer alone | both, masks | both, PNG files "
            "| both in ONNX Runtime | share",
            (
                (
                    str(row["threads"]),
                    *(f"{rate:.0f}/s" for rate in row["per_second"].values()),
                    f"{row['share']:.0%}",
                )
                for row in last.get("folder", [])
            ),
        ),
        "runtime rest": table("what | measured", rest(last) if last else ()),
        "runtime formats": table(
            "run as | KB | ms, p50 | ms, p95 | start, s | peak, MB | DSC, %",
            (
                (
                    row["name"],
                    number(row["size_kb"], 0),
                    number(row["threads"]["1"]["p50_ms"], 1),
                    number(row["threads"]["1"]["p95_ms"], 1),
                    number(row["startup_s"], 2),
                    number(row["peak_mb"], 0),
                    number(row["dice"], 2),
                )
                for row in (formats[-1]["formats"] if formats else [])
            ),
        ),
        "runtime options": table(
            "options | DSC, % | mIoU, % | difference of mIoU, points | 95 % interval",
            (
                (
                    name,
                    number(100 * row["pooled"]["dice"], 2),
                    number(100 * row["pooled"]["iou"], 2),
                    f"{100 * row['iou_difference']:+.2f}",
                    " … ".join(f"{100 * end:+.2f}" for end in row["iou_difference_interval"]),
                )
                for name, row in options.items()
            ),
        ),
        "runtime scale": (
            f"IoU {scale['iou_mean']:.4f} in the mean and {scale['iou_min']:.4f} at least "
            f"({scale['photos']} photos enlarged to 12 megapixels)\n"
            if scale
            else "not run\n"
        ),
    }


def shipped() -> dict[str, str]:
    """Return the regions of the pages on quality and robustness: the report's tables."""
    found = {}
    for one in release_tables(read_results(RESULTS), SHIPPED_FOR[0]):
        name = one.name.replace("-", " ")
        found |= {name: one.markdown(), f"{name} subject": f"{one.note}\n"}
    return found


def serve() -> dict[str, str]:
    """Return the regions of the page on the service, of the last row."""
    last: dict[str, Any] = (results("serve") or [{}])[-1]
    return {"serve machine": machine(last), "serve": table("what | measured", load(last))}


def load(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Return what a row of the service says."""
    if not row:
        return
    for form in ("mask", "json"):
        rate, share = row["throughput"][form], row["throughput"][f"{form}_share"]
        yield f"photos per second, 8 clients, `{form}`", f"{rate:.0f}, {share:.0%} of the stream's"
    waiting, crowd, hostile = row["waiting"], row["crowd"], row["hostile"]
    yield "one request alone, median", f"{waiting['alone_ms']:.0f} ms"
    yield "95 % of requests, 8 clients", f"{waiting['p95_ms']:.0f} ms, {waiting['times']:.1f} ×"
    if "least_ms" in waiting:
        least, alone = waiting["least_ms"], waiting["alone_ms"]
        yield "mean of 8 clients, the least there can be", f"{least:.0f} ms, {least / alone:.1f} ×"
    yield f"{crowd['clients']} clients for {crowd['seconds']:.0f} s, answers", counts(crowd)
    yield "memory, after a tenth and at the end", memory(crowd)
    yield f"{hostile['requests']:,} damaged requests, answers", counts(hostile)
    yield "memory, before and after each fifth", memory(hostile)
    for batch, rate in row["batching"].items():
        yield f"images per second of the network, {batch} a call", f"{rate:.0f}"


def counts(row: dict[str, Any]) -> str:
    """Say how often each status came."""
    return ", ".join(f"{status}: {n:,}" for status, n in sorted(row["statuses"].items()))


def memory(row: dict[str, Any]) -> str:
    """Say how many megabytes were in use."""
    return " → ".join(f"{mb:.0f}" for mb in row["mb"]) + " MB"


def scale() -> dict[str, str]:
    """Return the regions of the page on archives, of the last row."""
    last: dict[str, Any] = (results("scale") or [{}])[-1]
    return {
        "scale": table("what | measured", archive(last)),
        "scale machine": machine(last),
        "scale sizing": table("photos | core-hours | US dollars | in | out", sizes(last)),
        "scale limits": table("limit | cores that reach it", limits(last)),
        "scale log": table(
            "second | what happened | parts written",
            (
                (f"{event['second']:,}", event["event"], f"{event['parts']:,}")
                for event in last.get("killed", {}).get("events", ())
            ),
        ),
    }


def archive(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Return what a row of an archive says."""
    if not row:
        return
    photos, calm, killed = row["photos"], row["undisturbed"], row["killed"]
    before, after = row["predict_per_second"]
    yield "photos, of a shard", f"{photos:,}, {row['shard_size']:,}"
    yield "`egeunet predict`, photos per second, before and after", f"{before:.0f}, {after:.0f}"
    rate, share = row["batch_per_second"], row["batch_share"]
    yield "`egeunet batch`, photos per second, Ray's start included", f"{rate:.0f}, {share:.0%}"
    yield "photos per core-hour", f"{3600 * rate / row['cores']:,.0f}"
    yield "a photo's bytes in, out", ", ".join(f"{n / photos:,.0f}" for n in bytes_of(row))
    yield "memory of all processes at each tenth", memory(calm)
    same = "the same" if killed["same_bytes"] else "DIFFERENT"
    yield "bytes of the parts after three kills", same


def sizes(row: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Return what archives of some sizes would take, at the rate of a row."""
    for name, photos in (("1 M", 1e6), ("100 M", 1e8), ("1 B", 1e9)) if row else ():
        hours = photos / (3600 * row["batch_per_second"] / row["cores"])
        volumes = (f"{n * photos / row['photos'] / 1e9:,.1f} GB" for n in bytes_of(row))
        yield name, f"{hours:,.1f}", f"{hours * CORE_HOUR:,.2f}", *volumes


def limits(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Return how many cores, each at the rate of a row, reach what a store or a link gives."""
    if not row:
        return
    rate = row["batch_per_second"] / row["cores"]
    yield f"{READS:,} reads a second, each photo an object", f"{READS / rate:,.0f}"
    flow = rate * bytes_of(row)[0] / row["photos"]
    yield f"{NETWORK / 1e9:g} GB/s of network", f"{NETWORK / flow:,.0f}"


def bytes_of(row: dict[str, Any]) -> tuple[int, int]:
    """Return the bytes of all photos and of all parts."""
    return row["bytes_in"], row["bytes_out"]


def draw_corruptions() -> None:
    """Draw a photo in every corruption."""
    image, mask = draw(1)
    photo = Arrays(("synthetic",), image[None], mask[None], np.ones(1, np.float32))
    sheet = [
        np.concatenate([corrupt(photo, kind, step).images[0] for step in SEVERITIES], axis=1)
        for kind in KINDS
    ]
    Image.fromarray(np.concatenate(sheet)).reduce(2).save(CORRUPTED, quality=80)


def rest(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Return what else a row of inference says."""
    start, large = row["start"], row["large"]
    yield "`import egeunet; egeunet.Segmenter()`", f"{start['seconds']['median']:.2f} s"
    yield "peak memory of that process", f"{start['peak_mb']:.0f} MB"
    yield "a JPEG file of 12 megapixels to its mask, one core", f"{large['median']:.0f} ms"
    for name, iou in row["agreement"].items():
        title = f"IoU of {name} with torch, {iou['n']} photos: mean, least"
        yield title, f"{iou['mean']:.4f}, {iou['min']:.4f}"
        yield "largest difference of its probability", f"{iou['probability']:.0e}"


def page() -> str:
    """Return the table of the page in a browser, from its last row, and where it was measured."""
    rows = results("page")
    if not rows:
        return "not run\n"
    row = rows[-1]
    lines = [
        ["the whole page, uncompressed", f"{row['page_kb']:.0f} KB"],
        ["of that, the engine", f"{row['engine_kb']:.0f} KB"],
        ["of that, the weights for each target", f"{row['weights_kb']:.0f} KB"],
        ["from the address to ready, empty cache", f"{row['ready_s']:.2f} s"],
        ["from the button to the first mask", f"{row['first_mask_s']:.2f} s"],
        ["the network with pre- and postprocessing", f"{row['run_ms']:.0f} ms"],
        ["the fastest run", f"{row['run_ms_least']:.0f} ms"],
    ]
    seen = f"Medians of {row['visits']} visits with {row['runs']} runs each on the sample"
    where = machine(row, row["browser"])
    return f"{table('what | measured', lines)}\n{seen}: {where}"


def machine(row: dict[str, Any], software: str = "") -> str:
    """Say where a row was measured, and with what software if not with the usual one."""
    if not row:
        return "not run\n"
    return f"{describe_environment(row, software)}.\n"


def number(value: float | None, digits: int) -> str:
    """Write a number, or that it was not run."""
    return "not run" if value is None else f"{value:.{digits}f}"


def render(page: Path) -> str:
    """Return what a page should say."""
    pattern = r"(<!-- (.+?):begin -->).*?(<!-- \2:end -->)"
    text = page.read_text(encoding="utf-8")
    return re.sub(pattern, lambda m: m[1] + regions()[m[2]] + m[3], text, flags=re.DOTALL)


def write_docs() -> None:
    """Write every generated region, the report and the figure of corruptions."""
    for path in PAGES:
        path.write_text(render(path), encoding="utf-8")
    write_report(RESULTS, REPORT)
    draw_corruptions()
