"""Size against score on ISIC 2018, as in Figure 1 of the EGE-UNet paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from egeunet.errors import MissingExtraError
from egeunet.evaluation.results_store import read_results
from egeunet.models.cost import count_cost
from egeunet.models.registry import create_model, model_info
from egeunet.training.run import model_options
from research.paper import TABLE_1, TITLES
from research.run_groups import group_runs, recipe_of

DATASET = "isic2018"
COLOURS = "viridis_r"
_COMPARED = {
    "dataset": DATASET,
    "protocol": "paper",
    "split": "test",
    "weights_epoch": "selected",
}


@dataclass(frozen=True)
class Point:
    """A model in the figure.

    Attributes:
        label: Its label.
        params: Million parameters.
        macs: Billion multiply-accumulates at 256×256.
        iou: Pooled foreground IoU, percent; a mean where there are several runs.
        spread: Its standard deviation over seeds, 0 for one run.
        measured: Whether it comes from rows of results and not from the paper.
    """

    label: str
    params: float
    macs: float
    iou: float
    spread: float = 0.0
    measured: bool = False


def paper_points() -> list[Point]:
    """Return cost and score of the models in Table 1 of the paper."""
    points = []
    for name, score in TABLE_1[DATASET].items():
        params, macs = model_info(name).table or ("nan", "nan")
        points.append(Point(TITLES[name], float(params), float(macs), score.iou))
    return points


def result_points(folder: str | Path) -> dict[int, list[Point]]:
    """Return the runs with the paper's recipe and protocol, with our own counts of cost.

    These rows are compared with the paper: ISIC 2018, protocol `paper`, test split, the selected
    weights of a run with the paper's recipe. Seeds are averaged. Models whose extra is not
    installed are left out.

    Args:
        folder: A folder of results; a missing one has no rows.

    Returns:
        The points of each number of epochs, since short trainings rank models in another order.

    Raises:
        EgeunetError: If a line is not JSON.
    """
    points: dict[int, list[Point]] = {}
    for group in group_runs(read_results(folder)):
        compared = all(getattr(group, key) == value for key, value in _COMPARED.items())
        if not compared or any(not key.startswith("options.") for key in group.changes):
            continue
        recipe = recipe_of(next(iter(group.rows.values())))
        assert recipe is not None
        try:
            cost = count_cost(create_model(group.model, **model_options(recipe)))
        except MissingExtraError:  # it cannot be counted
            continue
        score = group.score("iou")
        label = group.label + (f", {score.n} seeds" if score.n > 1 else "")
        params, macs = cost.params / 1e6, cost.macs / 1e9
        point = Point(label, params, macs, score.mean, score.std or 0.0, True)
        points.setdefault(group.epochs, []).append(point)
    return points


def figure1(points: Sequence[Point], epochs: int) -> Figure:
    """Draw parameters (logarithmic) against IoU, coloured by MACs; circles are the paper's.

    Args:
        points: From `paper_points`, from one budget of `result_points`, or both.
        epochs: That budget.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    macs = [point.macs for point in points]
    norm = LogNorm(min(macs), max(macs))
    for point in points:
        axes.errorbar(
            point.params,
            point.iou,
            yerr=point.spread or None,
            marker="D" if point.measured else "o",
            markersize=9 if point.measured else 11,
            markerfacecolor=colormaps[COLOURS](norm(point.macs)),
            markeredgecolor="black",
            markeredgewidth=1.6 if point.measured else 0.6,
            ecolor="black",
            capsize=3,
            zorder=3,
        )
    axes.set(xscale="log", xlabel="parameters (million)", ylabel="mIoU on ISIC 2018 (%)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(x=0.1, y=0.1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    bar = figure.colorbar(
        ScalarMappable(norm, COLOURS), ax=axes, label="GMACs at 256×256", pad=0.02
    )
    for set_formatter in (bar.ax.yaxis.set_major_formatter, bar.ax.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ours = f"run here, {epochs} epochs, protocol “paper”"
    kinds = {False: "Table 1 of the paper", True: ours}
    present = [kind for kind in kinds if kind in {point.measured for point in points}]
    handles = [
        Line2D([], [], ls="", marker="D" if kind else "o", mfc="white", mec="black", label=text)
        for kind, text in kinds.items()
        if kind in present
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
    _label(figure, axes, points)
    return figure


def _label(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Write the labels where they cover neither each other nor a point."""
    figure.draw_without_rendering()  # fixes the position of the axes
    figure.set_layout_engine("none")
    pixel = figure.dpi / 72
    places = axes.transData.transform([(point.params, point.iou) for point in points])
    taken = [
        Bbox.from_bounds(x - 7 * pixel, y - 7 * pixel, 14 * pixel, 14 * pixel) for x, y in places
    ]
    angles = [0, 180, 90, 270, 45, 315, 135, 225]
    for point in points:
        text = axes.annotate(
            point.label,
            (point.params, point.iou),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=9,
            fontweight="bold" if point.label.startswith("EGE-UNet") else "normal",
            va="center",
        )
        for distance, angle in itertools.product((10, 17, 26, 38), angles):
            x, y = (f(math.radians(angle)) * distance for f in (math.cos, math.sin))
            text.set_position((x, y))
            text.set_horizontalalignment("left" if x > 1 else "right" if x < -1 else "center")
            box = text.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(text.get_window_extent())
