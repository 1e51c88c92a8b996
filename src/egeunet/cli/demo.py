"""`egeunet demo`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from egeunet.cli.console import print_table
from egeunet.cli.options import output
from egeunet.errors import UsageError

IMAGES = 160  # size of the synthetic dataset
SAMPLES = 3000  # training samples over all epochs, so that any dataset takes minutes
PREDICTED = 6  # test images that are segmented at the end
MARKER = ".egeunet-demo"  # marks a folder that the next demo may clear


def demo(
    out: Annotated[Path, output("The output folder.")] = Path("runs/demo"),
    data: Annotated[
        Path | None, typer.Option("--data", help="A real dataset instead of the synthetic one.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Number of epochs; by default, as many as take a few minutes."),
    ] = None,
) -> None:
    """Train, evaluate and segment in minutes, on synthetic images or your own dataset.

    Such a short training shows that everything works, not how good the model can get.

    For example:

        egeunet demo --data isic2018 --epochs 2
    """
    import egeunet
    from egeunet.data.datasets import open_folder
    from egeunet.data.masks import read_mask
    from egeunet.data.splits import split_dataset
    from egeunet.data.synthetic import write_dataset
    from egeunet.evaluation.evaluator import COLUMNS
    from egeunet.evaluation.figures import contour_grid, save_figure
    from egeunet.training.recipe import load_recipe

    run, drawn, masks = out / "run", out / "synthetic", out / "masks"
    _clear(out, (run, drawn, masks), data)
    if data is None:
        data = drawn
        write_dataset(data, IMAGES, seed=0)
    dataset = open_folder(data)
    split = split_dataset(dataset, "holdout")
    epochs = epochs or max(2, SAMPLES // len(split.train))
    recipe = load_recipe("egeunet-synthetic", [f"trainer.epochs={epochs}"])
    places = {"data": recipe.data.model_copy(update={"root": data}), "out": run}
    egeunet.train(recipe.model_copy(update=places))
    result = egeunet.evaluate(run)

    segmenter = egeunet.Segmenter(run)
    samples = split.test[:PREDICTED]
    masks.mkdir()
    results = [segmenter(sample.image) for sample in samples]
    for sample, found in zip(samples, results, strict=True):
        found.save(masks / f"{sample.id}_mask.png")
        found.overlay().save(masks / f"{sample.id}_overlay.jpg")
    figure = contour_grid(
        [one.image for one in results],
        [read_mask(sample.mask) for sample in samples if sample.mask],
        [one.mask for one in results],
        [sample.id for sample in samples],
        columns=3,
    )
    save_figure(figure, out / "demo.png")

    print_table(f"{result.n} test images of {dataset.name}", COLUMNS, result.table())
    paths = [
        ("figure", out / "demo.png"),
        ("masks and overlays", masks),
        ("scores, per-image table, worst cases", run / "evaluation"),
        ("run: weights, ONNX file, curves", run),
    ]
    print_table("Output", ("what", "path"), paths)


def _clear(out: Path, made: Sequence[Path], data: Path | None) -> None:
    """Remove the output of an earlier demo; refuse a folder with anything else in it."""
    marker = out / MARKER
    if out.is_dir() and any(out.iterdir()) and not marker.is_file():
        raise UsageError(
            f"{out} has other files in it: choose another folder with --output, or remove it."
        )
    for folder in made:
        if data and folder.resolve() in (data.resolve(), *data.resolve().parents):
            raise UsageError(f"{data} would be erased: choose another folder with --output.")
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
