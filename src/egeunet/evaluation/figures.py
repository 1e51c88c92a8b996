"""Figures: worst cases, panels of samples and training curves.

Figures are made without pyplot, so they work in any thread and without a display. The truth is
green and the prediction magenta, which every kind of colour vision tells apart.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from egeunet.data.masks import read_mask
from egeunet.errors import EgeunetError
from egeunet.files import atomic_write

if TYPE_CHECKING:
    from egeunet.data.datasets import Sample
    from egeunet.inference.result import Result

TRUTH, PREDICTION = "#00E676", "#FF3DF2"
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"
PANEL = 1.9  # inches, the width of one image
_DASHED = (0, (3, 1.2))

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
        predictions: Class indices likewise.
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
        _outline(axis, prediction, PREDICTION, _DASHED)
        axis.set_title(caption, fontsize=8)
    lines = [
        Line2D([], [], color=TRUTH, lw=2, label="truth"),
        Line2D([], [], color=PREDICTION, lw=2, ls=_DASHED, label="prediction"),
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
    """Draw a column per sample: image, truth, and prediction coloured by where it is right.

    The arguments are those of `contour_grid`.
    """
    aspect = max(image.shape[0] / image.shape[1] for image in images)
    size = (PANEL * len(images) + 0.3, PANEL * aspect * 3 + 0.75)
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots(3, len(images), squeeze=False)
    for axis, name in zip(axes[:, 0], ("image", "truth", "prediction"), strict=True):
        axis.set_ylabel(name, fontsize=10)
    for column, image, truth, prediction, caption in zip(
        axes.T, images, truths, predictions, captions, strict=True
    ):
        column[0].set_title(caption, fontsize=9)
        draw_row(column, [image, shades(truth), compare(truth, prediction)])
    explain_colours(figure)
    return figure


def save_panel(path: str | Path, samples: Sequence[Sample], results: Sequence[Result]) -> None:
    """Write the panel of samples with masks and their results, at the size of the images."""
    pairs = [(s, r) for s, r in zip(samples, results, strict=True) if s.mask]
    figure = panel(
        [result.image for _, result in pairs],
        [read_mask(sample.mask, len(result.classes)) for sample, result in pairs if sample.mask],
        [result.mask.astype(np.uint8) for _, result in pairs],
        [sample.id for sample, _ in pairs],
    )
    save_figure(figure, path)


def training_curves(history: str | Path) -> Figure:
    """Draw loss, validation scores and learning rate over the epochs of a run.

    Args:
        history: `history.csv` of a run: epoch, lr, train_loss, val_loss, val_iou, val_dice.

    Raises:
        EgeunetError: If the file is missing, has other columns or no epoch yet.
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
            _plot(axis, epochs, curves[name], color=colour, label=label)
        axis.set(title=title, xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        if len(lines) > 1:
            axis.legend(frameon=False)
    _finish_curves(axes)
    return figure


def compare_curves(histories: Mapping[str, Sequence[str | Path]], split: str) -> Figure:
    """Draw training loss and mIoU of several models over the epochs.

    Args:
        histories: For each line its label and the `history.csv` of its runs, which are averaged.
        split: What the epoch was selected on: "test" or "validation".

    Raises:
        EgeunetError: As `training_curves`.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    # Ten colours can be told apart, twenty cannot: lines after the tenth are dashed.
    styles = itertools.product(("-", "--", ":"), colormaps["tab10"].colors)  # type: ignore[attr-defined]
    for (label, paths), (dashes, colour) in zip(
        histories.items(), itertools.cycle(styles), strict=False
    ):
        runs = [_read_history(Path(path)) for path in paths]
        length = min(len(epochs) for epochs, _ in runs)
        for axis, name in zip(axes, ("train_loss", "val_iou"), strict=True):
            mean = np.mean([curves[name][:length] for _, curves in runs], axis=0)
            _plot(axis, runs[0][0][:length], mean, label=label, ls=dashes, color=colour)
    titles = ("training loss, of all outputs that a model trains", f"mIoU, {split} split")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title)
    _finish_curves(axes)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def plain_axes(axes: Iterable[Axes]) -> None:
    """Give axes a light grid and no box."""
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)


def draw_row(axes: Sequence[Axes], pictures: Sequence[Image]) -> None:
    """Show a picture per axis, without ticks."""
    for axis, picture in zip(axes, pictures, strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set(xticks=[], yticks=[])


def shades(mask: Image) -> Image:
    """Return grey levels up to white, one per class, as RGB (H, W, 3)."""
    step = 255 / max(1, int(mask.max()))
    return np.repeat((mask * step).astype(np.uint8)[..., None], 3, axis=2)


def compare(truth: Image, prediction: Image) -> Image:
    """Return the correct pixels as `shades`, missed and wrong ones in their colours."""
    picture = shades(np.where(prediction == truth, truth, 0).astype(np.uint8))
    picture[(truth > 0) & (prediction != truth)] = 255 * np.array(to_rgb(TRUTH))
    picture[(prediction > 0) & (prediction != truth)] = 255 * np.array(to_rgb(PREDICTION))
    return picture


def explain_colours(figure: Figure) -> None:
    """Add the legend of `compare`."""
    patches = [
        Patch(facecolor="white", edgecolor="black", label="correct"),
        Patch(facecolor=TRUTH, edgecolor="black", label="missed"),
        Patch(facecolor=PREDICTION, edgecolor="black", label="wrong"),
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def _plot(axis: Axes, epochs: Sequence[float], values: Any, **style: Any) -> None:
    axis.plot(epochs, values, marker="o" if len(epochs) < 25 else "", ms=3, **style)


def _finish_curves(axes: Sequence[Axes]) -> None:
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    plain_axes(axes)


def _read_history(path: Path) -> tuple[list[float], dict[str, list[float]]]:
    names = ("lr", "train_loss", "val_loss", "val_iou", "val_dice")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        curves = {name: [float(row[name]) for row in rows] for name in ("epoch", *names)}
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise EgeunetError(
            f"{path} is not the history of a run ({error!r}): expected a CSV file with the columns "
            f"epoch, {', '.join(names)}."
        ) from error
    if not rows:
        raise EgeunetError(f"{path} has no epoch yet: train at least one.")
    return curves.pop("epoch"), curves


def _outline(axis: Axes, mask: Image, colour: str, style: Any) -> None:
    height, width = mask.shape
    # A margin of background closes outlines at the border of the image.
    padded = np.pad(mask, 1)
    xs, ys = np.arange(-1, width + 1), np.arange(-1, height + 1)
    for index in np.unique(mask[mask > 0]):
        lines = axis.contour(
            xs, ys, padded == index, levels=[0.5], colors=colour, linewidths=1.5, linestyles=[style]
        )
        lines.set(path_effects=[withStroke(linewidth=2.6, foreground="black", alpha=0.55)])
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
