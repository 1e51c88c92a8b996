"""Figures: worst cases with their outlines, panels of samples, training curves.

Figures are made as objects, without pyplot, so that they work in any thread and without a display.
Truth is green and prediction magenta, a pair that every kind of colour vision tells apart.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Stroke, withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from egeunet.data.masks import read_mask
from egeunet.errors import EgeunetError
from egeunet.files import atomic_write

if TYPE_CHECKING:
    from egeunet.data.datasets import Sample
    from egeunet.inference.result import Result

TRUTH = "#00E676"
PREDICTION = "#FF3DF2"
BLUE, ORANGE = "#0072B2", "#D55E00"
_PANEL = 1.9  # inches, the width of one picture

Image = NDArray[np.uint8]


def save_figure(figure: Figure, path: str | Path, dpi: int = 130) -> None:
    """Write a figure, atomically, in the format that the suffix names."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dpi)


def contour_grid(
    images: Sequence[Image],
    truths: Sequence[Image],
    predictions: Sequence[Image],
    captions: Sequence[str],
    columns: int = 4,
) -> Figure:
    """Draw images with the outlines of truth (green, solid) and prediction (magenta, dashed).

    Args:
        images: RGB uint8 (H, W, 3), of any sizes.
        truths: Class indices (H, W), 0 background, at the sizes of the images.
        predictions: Likewise.
        captions: A title for each.
        columns: Images per row.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.95 * rows + 0.4), layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, image, truth, prediction, caption in zip(
        axes, images, truths, predictions, captions, strict=False
    ):
        axis.imshow(image)
        _outline(axis, truth, TRUTH, "solid")
        _outline(axis, prediction, PREDICTION, (0, (3, 1.2)))
        axis.set_title(caption, fontsize=8)
    lines = [
        Line2D([], [], color=TRUTH, lw=2, label="truth"),
        Line2D([], [], color=PREDICTION, lw=2, ls=(0, (3, 1.2)), label="prediction"),
    ]
    for line in lines:
        line.set_path_effects([withStroke(linewidth=3.2, foreground="black")])
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False)
    return figure


def panel(
    images: Sequence[Image],
    truths: Sequence[Image],
    predictions: Sequence[Image],
    captions: Sequence[str],
) -> Figure:
    """Draw one column per sample: image, truth, and prediction coloured by where it is right.

    Args:
        images: RGB uint8 (H, W, 3), of any sizes.
        truths: Class indices (H, W), 0 background, at the sizes of the images.
        predictions: Likewise.
        captions: A title for each.
    """
    aspect = max(image.shape[0] / image.shape[1] for image in images)
    size = (_PANEL * len(images) + 0.3, _PANEL * aspect * 3 + 0.75)
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots(3, len(images), squeeze=False)
    for axis, name in zip(axes[:, 0], ("image", "truth", "prediction"), strict=True):
        axis.set_ylabel(name, fontsize=10)
    for column, image, truth, prediction, caption in zip(
        axes.T, images, truths, predictions, captions, strict=True
    ):
        column[0].set_title(caption, fontsize=9)
        column[0].imshow(image)
        column[1].imshow(_shades(truth), interpolation="nearest")
        column[2].imshow(_compare(truth, prediction), interpolation="nearest")
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
    _explain_colours(figure)
    return figure


def save_panel(path: str | Path, samples: Sequence[Sample], results: Sequence[Result]) -> None:
    """Write the panel of some samples and what was found on them, at the photos' own sizes.

    Args:
        path: Where, with the suffix of an image format.
        samples: Samples with masks.
        results: What the segmenter gave for each.
    """
    truths = [
        read_mask(sample.mask, len(result.classes))
        for sample, result in zip(samples, results, strict=True)
        if sample.mask
    ]
    figure = panel(
        [result.image for result in results],
        truths,
        [result.mask.astype(np.uint8) for result in results],
        [sample.id for sample in samples],
    )
    save_figure(figure, path)


def training_curves(history: str | Path) -> Figure:
    """Draw loss, validation scores and learning rate over the epochs of a run.

    Args:
        history: A run's `history.csv`: epoch, lr, train_loss, val_loss, val_iou, val_dice.

    Raises:
        EgeunetError: The file is missing, has other columns or no epoch yet.
    """
    epochs, curves = _read_history(Path(history))
    panels = {
        "loss": {"train_loss": "training", "val_loss": "validation, output only"},
        "validation score": {"val_iou": "mIoU", "val_dice": "DSC"},
        "learning rate": {"lr": ""},
    }
    figure = Figure(figsize=(11, 3), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for (name, label), colour in zip(lines.items(), (BLUE, ORANGE), strict=False):
            marker = "o" if len(epochs) < 25 else ""
            axis.plot(epochs, curves[name], color=colour, label=label, marker=marker, ms=3)
        axis.set(xlabel="epoch", title=title, xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axis.legend(frameon=False)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def compare_curves(histories: Mapping[str, Sequence[str | Path]], part: str) -> Figure:
    """Draw training loss and mIoU of several systems over the epochs.

    Args:
        histories: For each line its label and the `history.csv` of its runs, which are averaged.
        part: What the epoch was selected on: "test" or "validation".

    Raises:
        EgeunetError: As `training_curves`.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    # Ten colours tell lines apart, twenty do not: what comes after the tenth is dashed.
    styles = itertools.product(("-", "--", ":"), colormaps["tab10"].colors)  # type: ignore[attr-defined]
    for (label, paths), (dashes, colour) in zip(histories.items(), styles, strict=False):
        runs = [_read_history(Path(path)) for path in paths]
        epochs = runs[0][0]
        marker = "o" if len(epochs) < 25 else ""
        for axis, name in zip(axes, ("train_loss", "val_iou"), strict=True):
            mean = np.mean([curves[name] for _, curves in runs], axis=0)
            axis.plot(epochs, mean, label=label, ls=dashes, color=colour, marker=marker, ms=3)
    titles = ("training loss, of all outputs that a system trains", f"mIoU, {part} part")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xlabel="epoch", title=title)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def compare_masks(
    images: Sequence[Image], truths: Sequence[Image], predictions: Mapping[str, Sequence[Image]]
) -> Figure:
    """Draw a row per image: the image, its truth, and each system's mask, coloured as in `panel`.

    Args:
        images: RGB uint8 (H, W, 3).
        truths: Class indices (H, W), 0 background.
        predictions: For each system its masks, as `truths`.
    """
    titles = ("image", "truth", *predictions)
    height = _PANEL * images[0].shape[0] / images[0].shape[1]
    size = (_PANEL * len(titles), height * len(images) + 0.75)
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots(len(images), len(titles), squeeze=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    for row, image, truth, *masks in zip(axes, images, truths, *predictions.values(), strict=True):
        row[0].imshow(image)
        row[1].imshow(_shades(truth), interpolation="nearest")
        for axis, mask in zip(row[2:], masks, strict=True):
            axis.imshow(_compare(truth, mask), interpolation="nearest")
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
    _explain_colours(figure)
    return figure


def _explain_colours(figure: Figure) -> None:
    patches = [
        Patch(facecolor="white", edgecolor="black", label="found"),
        Patch(facecolor=TRUTH, edgecolor="black", label="missed"),
        Patch(facecolor=PREDICTION, edgecolor="black", label="wrongly marked"),
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def _read_history(path: Path) -> tuple[list[float], dict[str, list[float]]]:
    names = ("lr", "train_loss", "val_loss", "val_iou", "val_dice")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        curves = {name: [float(row[name]) for row in rows] for name in ("epoch", *names)}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise EgeunetError(
            f"{path} is not the history of a run ({error!r}): expected a CSV file with the columns "
            f"epoch, {', '.join(names)}."
        ) from error
    if not rows:
        raise EgeunetError(f"{path} has no epoch yet: train at least one.")
    return curves.pop("epoch"), curves


def _outline(
    axis: Axes, mask: Image, colour: str, style: str | tuple[float, tuple[float, ...]]
) -> None:
    height, width = mask.shape
    # A margin of background closes outlines at the border of the image.
    padded = np.pad(mask, 1)
    xs, ys = np.arange(-1, width + 1), np.arange(-1, height + 1)
    for index in np.unique(mask[mask > 0]):
        lines = axis.contour(
            xs, ys, padded == index, levels=[0.5], colors=colour, linewidths=1.5, linestyles=[style]
        )
        halo: list[Stroke] = [withStroke(linewidth=2.6, foreground="black", alpha=0.55)]
        lines.set(path_effects=halo)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _shades(mask: Image) -> Image:
    """Grey levels up to white, one per class, as RGB (H, W, 3)."""
    step = 255 / max(1, int(mask.max()))
    return np.repeat((mask * step).astype(np.uint8)[..., None], 3, axis=2)


def _compare(truth: Image, prediction: Image) -> Image:
    """The right part of a prediction as `_shades`, missed and wrong pixels in their colours."""
    picture = _shades(np.where(prediction == truth, truth, 0).astype(np.uint8))
    picture[(truth > 0) & (prediction != truth)] = _rgb(TRUTH)
    picture[(prediction > 0) & (prediction != truth)] = _rgb(PREDICTION)
    return picture


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
