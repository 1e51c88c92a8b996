"""The part of the metadata by which the quality of a mask is told, fitted on validation photos."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from egeunet.data.cache import load_arrays
from egeunet.errors import EgeunetError
from egeunet.evaluation.failure_detection import fit_quality
from egeunet.inference.preprocess import min_max_normalize
from egeunet.inference.quality import DiceEstimator, features
from egeunet.inference.segmenter import Segmenter, average_mirrors, sigmoid
from egeunet.inference.weights import find_shipped
from egeunet.progress import track
from egeunet.training.run import Run, open_split

_LOG = logging.getLogger(__name__)
FEWEST = 50  # photos that two times three numbers can be fitted to


def fit_run(run: Run) -> DiceEstimator | None:
    """Fit how the quality of masks is told to the validation part of a run.

    Returns:
        Of weights that come with the package, what was fitted for them. None for several classes,
        where the validation part is the test part itself (protocol paper), has fewer than 50
        photos, is not there, or cannot be read; the latter two are warned of.
    """
    data = run.recipe.data
    if data.num_classes > 1:
        return None
    if shipped := find_shipped(run.folder):
        return Segmenter(shipped).metadata.quality
    try:
        _, split = open_split(data)
    except EgeunetError as error:  # the data are on another machine
        _LOG.warning(f"the quality of masks cannot be told: {error}")
        return None
    parts = run.parts
    unseen = [sample for sample in split.val if parts.get(sample.id) == "val"]
    if "val" not in split.subsets() or len(unseen) < FEWEST:
        return None
    try:
        arrays = load_arrays(unseen, data.shape)
    except EgeunetError as error:
        _LOG.warning(f"the quality of masks cannot be told: {error}")
        return None

    def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return run.model(torch.from_numpy(images)).numpy()

    found: dict[bool, list[NDArray[np.float64]]] = {False: [], True: []}
    dice: dict[bool, list[float]] = {False: [], True: []}
    pairs = zip(arrays.images, arrays.masks, strict=True)
    for photo, truth in track(pairs, "quality", len(arrays.ids)):
        image = np.ascontiguousarray(min_max_normalize(photo).transpose(2, 0, 1)[None])
        for tta in (False, True):
            given = (average_mirrors(logits, image) if tta else logits(image))[0, 0]
            found[tta].append(features(sigmoid(given)))
            dice[tta].append(_dice(given >= 0, truth > 0))
    once, mirrored = (fit_quality(np.array(found[k]), np.array(dice[k])) for k in (False, True))
    return DiceEstimator(once, mirrored, len(arrays.ids))


def _dice(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    marked = np.count_nonzero(mask) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(mask & truth) / marked if marked else 1.0
