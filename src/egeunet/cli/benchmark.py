"""`egeunet benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from egeunet.cli.console import print_json, print_table
from egeunet.cli.options import WEIGHTS, Json, Overwrite, check_absent, output


def benchmark(
    weights: Annotated[str | None, typer.Argument(metavar="RUN_OR_WEIGHTS", help=WEIGHTS)] = None,
    data: Annotated[
        str | None, typer.Option(help="Dataset name or folder; scored as by `egeunet evaluate`.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=10, help="Number of measurements.")] = 50,
    out: Annotated[Path | None, output("Folder for benchmark.json and benchmark.png.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure speed, size and scores of the ways to run a model, side by side.

    With the extra `train`, a run folder or shipped weights are measured in torch, in compiled torch
    and in every exported format. Otherwise the files alone are measured.
    Start-up time and peak memory are those of a new process. The backends take turns, so that other
    work on the machine affects all of them alike.

    For example:

        egeunet benchmark

        egeunet benchmark runs/x --data isic2018 -o benchmark/
    """
    import json
    import logging

    from egeunet.exporting.benchmark import benchmark as measure
    from egeunet.exporting.benchmark import latency_figure
    from egeunet.files import atomic_write, check_folder

    if out:
        check_folder(out)
        if not overwrite:
            check_absent([out / "benchmark.json", out / "benchmark.png"])
    report = measure(weights, data=data, rounds=rounds)
    if out:
        from egeunet.evaluation.figures import save_figure  # needs matplotlib

        with atomic_write(out / "benchmark.json") as path:
            path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        save_figure(latency_figure(report), out / "benchmark.png")
        logging.getLogger(__name__).info(f"Wrote benchmark.json and benchmark.png to {out}.")
    if as_json:
        print_json(report)
        return
    counts = list(report["rows"][0]["threads"])
    columns = ["", "KB", "start-up s", "peak MB", "IoU", "DSC %"]
    for count in counts:
        columns += [f"p50 ms ({count}T)", f"p95 ms ({count}T)", f"images/s ({count}T)"]
    rows = []
    for row in report["rows"]:
        cells = [row["name"], _text(row["size_kb"], 0), _text(row["startup_s"], 2)]
        cells += [_text(row["peak_mb"], 0), _text(row["iou"], 4), _text(row["dice"], 2)]
        for count in counts:
            times = row["threads"][count]
            cells += [_text(times[key], 1) for key in ("p50_ms", "p95_ms", "images_per_s")]
        rows.append(cells)
    title = f"{report['weights']}, {report['rounds']} rounds"
    if report["scored_on"]:
        title += f"; DSC of {report['scored_on']}"
    print_table(title, columns, rows)


def _text(value: float | None, digits: int) -> str:
    return "not run" if value is None else f"{value:.{digits}f}"
