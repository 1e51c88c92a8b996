"""Image, truth and the mask of each system, as in Figure 4 of the EGE-UNet paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from egeunet.data.cache import load_arrays
from egeunet.errors import UsageError
from egeunet.evaluation.figures import compare_masks
from egeunet.evaluation.paper import TITLES
from egeunet.evaluation.predictors import torch_predictor
from egeunet.evaluation.series import changes_of, label_of
from egeunet.metrics.counts import predict_classes
from egeunet.training.run import Run, load_run, open_split

PHOTOS = 5  # drawn where nobody chooses


def figures4(folder: Path, photos: Sequence[str] = ()) -> Iterator[tuple[str, Figure]]:
    """Draw the figure for each dataset, protocol and size of the finished runs in a folder.

    Of one system and recipe the longest run is shown, then the one of the lowest seed.

    Args:
        folder: Holds run folders.
        photos: Ids of the test part; without any, some at even distances in its list.

    Yields:
        A name, such as "figure4-isic2018-paper-256x256", and the figure.

    Raises:
        UsageError: If there is no finished run, or an id is not in the test part.
    """
    folders = [path.parent for path in sorted(folder.glob("*/metrics.json"))]
    if not folders:
        raise UsageError(f"{folder} holds no finished runs: expected run folders in it.")
    groups: dict[tuple[str, str, tuple[int, int]], dict[str, Run]] = {}
    for run in sorted(map(load_run, folders), key=_worst_first):
        key = (run.dataset, run.recipe.data.protocol, run.recipe.data.shape)
        groups.setdefault(key, {})[_label(run)] = run  # a better one replaces it
    for (dataset, protocol, (height, width)), runs in groups.items():
        name = f"figure4-{dataset}-{protocol}-{height}x{width}"
        yield name, _draw(runs, photos)


def _worst_first(run: Run) -> tuple[int, int]:
    return run.recipe.trainer.epochs, -run.recipe.seed


def _label(run: Run) -> str:
    return label_of(run.recipe.system, changes_of(run.recipe))


def _place(run: Run) -> tuple[int, int]:
    """As in the paper; of one system the paper's recipe first."""
    system, places = run.recipe.system, list(TITLES)
    return places.index(system) if system in TITLES else -1, len(changes_of(run.recipe))


def _draw(runs: dict[str, Run], photos: Sequence[str]) -> Figure:
    data = next(iter(runs.values())).recipe.data
    test = {sample.id: sample for sample in open_split(data)[1].test}
    if missing := [name for name in photos if name not in test]:
        raise UsageError(f"{missing[0]} is not in the test part of {data.name or data.root}.")
    spread = np.linspace(0, len(test) - 1, min(PHOTOS, len(test))).round().astype(int)
    chosen = photos or [list(test)[index] for index in spread]
    arrays = load_arrays([test[name] for name in chosen], data.shape, data.num_classes)
    masks: dict[str, list[NDArray[np.uint8]]] = {}
    for label, run in sorted(runs.items(), key=lambda item: _place(item[1])):
        logits = torch_predictor(run.model)(arrays.images)
        title = f"{label}, {run.recipe.trainer.epochs} epochs".replace(", ", "\n")
        masks[title] = list(predict_classes(logits).numpy().astype(np.uint8))
    return compare_masks(list(arrays.images), list(arrays.masks), masks)
