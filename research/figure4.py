"""Image, truth and the mask of each model, as in Figure 4 of the EGE-UNet paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from egeunet.data.cache import load_arrays
from egeunet.errors import UsageError
from egeunet.evaluation.figures import PREDICTION, TRUTH, Image
from egeunet.evaluation.predictors import torch_predictor
from egeunet.metrics.counts import predict_classes
from egeunet.training.run import Run, load_run, open_split
from research.paper import TITLES
from research.run_groups import changes_of, label_of

IMAGES = 5  # drawn by default
PANEL = 1.9  # inches, the width of one image


def figures4(folder: Path, images: Sequence[str] = ()) -> Iterator[tuple[str, Figure]]:
    """Draw the figure for each dataset, protocol and image size of the finished runs in a folder.

    Of one model and recipe the longest run is shown, then the one with the lowest seed.

    Args:
        folder: A folder of run folders.
        images: Ids of the test split; by default some at even distances.

    Yields:
        A name, such as "figure4-isic2018-paper-256x256", and the figure.

    Raises:
        UsageError: If there is no finished run, or an id is not in the test split.
    """
    folders = [path.parent for path in sorted(folder.glob("*/metrics.json"))]
    if not folders:
        raise UsageError(f"{folder} holds no finished runs: expected run folders in it.")
    groups: dict[tuple[str, str, tuple[int, int]], dict[str, Run]] = {}
    worst_first = sorted(
        map(load_run, folders), key=lambda run: (run.recipe.trainer.epochs, -run.recipe.seed)
    )
    for run in worst_first:
        key = (run.dataset, run.recipe.data.protocol, run.recipe.data.shape)
        label = label_of(run.recipe.model, changes_of(run.recipe))
        groups.setdefault(key, {})[label] = run  # a better one replaces it
    for (dataset, protocol, (height, width)), runs in groups.items():
        yield f"figure4-{dataset}-{protocol}-{height}x{width}", _draw(runs, images)


def compare_masks(
    images: Sequence[Image], truths: Sequence[Image], predictions: Mapping[str, Sequence[Image]]
) -> Figure:
    """Draw a row per image: the image, its truth, and each model's mask in colours.

    Args:
        images: RGB uint8 (H, W, 3).
        truths: Class indices (H, W), 0 background.
        predictions: The masks of each model.
    """
    titles = ("image", "truth", *predictions)
    height = PANEL * images[0].shape[0] / images[0].shape[1]
    size = (PANEL * len(titles), height * len(images) + 0.75)
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots(len(images), len(titles), squeeze=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    for row, image, truth, *masks in zip(axes, images, truths, *predictions.values(), strict=True):
        pictures = [image, _shades(truth), *(_compare(truth, mask) for mask in masks)]
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    patches = [
        Patch(facecolor=colour, edgecolor="black", label=label)
        for label, colour in (("correct", "white"), ("missed", TRUTH), ("wrong", PREDICTION))
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _shades(mask: Image) -> Image:
    """Return grey levels up to white, one per class, as RGB (H, W, 3)."""
    step = 255 / max(1, int(mask.max()))
    return np.repeat((mask * step).astype(np.uint8)[..., None], 3, axis=2)


def _compare(truth: Image, prediction: Image) -> Image:
    """Return the correct pixels as `_shades`, missed and wrong ones in their colours."""
    picture = _shades(np.where(prediction == truth, truth, 0).astype(np.uint8))
    picture[(truth > 0) & (prediction != truth)] = 255 * np.array(to_rgb(TRUTH))
    picture[(prediction > 0) & (prediction != truth)] = 255 * np.array(to_rgb(PREDICTION))
    return picture


def _order(run: Run) -> tuple[int, int]:
    """As in the paper; of one model the paper's recipe first."""
    model, order = run.recipe.model, list(TITLES)
    return order.index(model) if model in TITLES else -1, len(changes_of(run.recipe))


def _draw(runs: dict[str, Run], images: Sequence[str]) -> Figure:
    data = next(iter(runs.values())).recipe.data
    test = {sample.id: sample for sample in open_split(data)[1].test}
    if missing := [name for name in images if name not in test]:
        raise UsageError(f"{missing[0]} is not in the test split of {data.name or data.root}.")
    spread = np.linspace(0, len(test) - 1, min(IMAGES, len(test))).round().astype(int)
    chosen = images or [list(test)[index] for index in spread]
    arrays = load_arrays([test[name] for name in chosen], data.shape, data.num_classes)
    masks: dict[str, list[Image]] = {}
    for label, run in sorted(runs.items(), key=lambda item: _order(item[1])):
        logits = torch_predictor(run.model)(arrays.images)
        title = f"{label}, {run.recipe.trainer.epochs} epochs".replace(", ", "\n")
        masks[title] = list(predict_classes(logits).numpy().astype(np.uint8))
    return compare_masks(list(arrays.images), list(arrays.masks), masks)
