"""Figures: outlines of truth and prediction, and training curves.

Figures are drawn without pyplot, so they work in any thread and without a display. The truth is
green and the prediction magenta, which remain distinct with colour blindness.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from egeunet.errors import EgeunetError
from egeunet.files import atomic_write

TRUTH, PREDICTION = "#00E676", "#FF3DF2"
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"
_DASHED = (0, (3, 1.2))
_CURVES = {
    "train_loss": "training loss, all outputs",
    "val_loss": "{} loss, final output",
    "lr": "learning rate",
    "val_iou": "mIoU, {} split",
    "val_dice": "DSC, {} split",
}

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
    stroke = [withStroke(linewidth=3.2, foreground="black")]
    styles = (("truth", TRUTH, "solid"), ("prediction", PREDICTION, _DASHED))
    handles = [
        Line2D([], [], color=colour, lw=2, ls=style, label=label, path_effects=stroke)
        for label, colour, style in styles
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def training_curves(
    histories: Mapping[str, Sequence[str | Path]], split: str = "validation"
) -> Figure:
    """Draw losses, scores and learning rate over the epochs, a line per model.

    Args:
        histories: For each line its label and the `history.csv` of its runs, which are averaged
            over the epochs that all of them have.
        split: What the epoch was selected on: "test" or "validation".

    Raises:
        EgeunetError: If a file is missing, has other columns or no epoch yet.
    """
    figure = Figure(figsize=(11, 6), layout="constrained")
    *axes, legend = figure.subplots(2, 3).ravel()
    legend.axis("off")
    # Only ten colours are distinct enough: lines after the tenth are dashed.
    styles = itertools.product(("-", "--", ":"), colormaps["tab10"].colors)  # type: ignore[attr-defined]
    for paths, (dashes, colour) in zip(histories.values(), itertools.cycle(styles), strict=False):
        runs = [_read_history(Path(path)) for path in paths]
        shared = min(map(len, runs))
        mean = sum(run[:shared] for run in runs) / len(runs)
        marker = "o" if len(mean) < 25 else ""
        for axis, name in zip(axes, _CURVES, strict=True):
            axis.plot(mean.index, mean[name], color=colour, ls=dashes, marker=marker, ms=3)
    for axis, title in zip(axes, _CURVES.values(), strict=True):
        axis.set(title=title.format(split), xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    plain_axes(axes)
    if len(histories) > 1:
        legend.legend(axes[0].lines, histories, loc="center", frameon=False)
    return figure


def plain_axes(axes: Iterable[Axes]) -> None:
    """Give axes a light grid and no box."""
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)


def _read_history(path: Path) -> pd.DataFrame:
    names = ["epoch", *_CURVES]
    try:
        found = pd.read_csv(path, usecols=names, na_filter=False).astype(float).set_index("epoch")
    except (OSError, ValueError) as error:
        raise EgeunetError(
            f"{path} is not the history of a run ({error!r}): expected a CSV file with the columns "
            f"{', '.join(names)}."
        ) from error
    if found.empty:
        raise EgeunetError(f"{path} has no epoch yet: train at least one.")
    return found


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
