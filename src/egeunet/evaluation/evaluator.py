"""From a predictor and samples to every score that is reported, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egeunet.data.cache import Arrays
from egeunet.errors import EgeunetError
from egeunet.evaluation.failure_detection import QualityScores
from egeunet.evaluation.predictors import Predictor, onnx_predictor
from egeunet.evaluation.summary import Evaluation, summarise
from egeunet.inference.segmenter import Segmenter
from egeunet.metrics.counts import Counts, count_pixels, predict_classes
from egeunet.metrics.surface import surface_distances
from egeunet.reporting import Reporter

__all__ = ["Evaluation", "evaluate_arrays", "evaluate_segmenter"]


def evaluate_arrays(
    predict: Predictor,
    arrays: Arrays,
    *,
    num_classes: int = 1,
    batch_size: int = 16,
    class_names: Sequence[str] | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Segment every sample and score it.

    Args:
        predict: Maps images, uint8 (B, H, W, 3), to logits (B, K, H, W), K = `num_classes`.
        arrays: The samples.
        num_classes: 1 for a binary task, else the number of classes with the background.
        batch_size: Samples per call of `predict`.
        class_names: Of the foreground classes; "lesion" if there is one, "class 1" … otherwise.
        reporter: Hears of the progress.

    Raises:
        EgeunetError: There are no samples, or `predict` gives other shapes or nan.
    """
    reporter = reporter or Reporter()
    if not arrays.ids:
        raise EgeunetError("There are no images to evaluate: choose another part or dataset.")
    names = tuple(class_names or _default_names(num_classes))
    found: list[Counts] = []
    predictions = np.empty(arrays.masks.shape, np.uint8)
    distances = np.empty((len(arrays.ids), len(names), 2))
    with reporter.bar("evaluating", len(arrays.ids)) as bar:
        for start in range(0, len(arrays.ids), batch_size):
            chosen = slice(start, start + batch_size)
            masks = np.array(arrays.masks[chosen])  # in memory: torch wants writable arrays
            classes = _predict(predict, arrays.images[chosen], num_classes)
            found.append(count_pixels(classes, torch.from_numpy(masks), num_classes))
            predictions[chosen] = classes.numpy()
            for offset, mask in enumerate(masks):
                for index in range(len(names)):
                    said = predictions[start + offset] == index + 1
                    distances[start + offset, index] = surface_distances(said, mask == index + 1)
            bar.advance(len(masks))
    counts = Counts(*(torch.cat(part) for part in zip(*found, strict=True)))
    return summarise(arrays.ids, names, counts, predictions, distances)


def evaluate_segmenter(
    segmenter: Segmenter, arrays: Arrays, reporter: Reporter | None = None
) -> Evaluation:
    """Score an exported file on every sample, and the quality that it gives each mask."""
    classes = segmenter.metadata.classes
    result = evaluate_arrays(
        onnx_predictor(segmenter),
        arrays,
        num_classes=len(classes),
        class_names=classes[-max(1, len(classes) - 1) :],  # without the background
        reporter=reporter,
    )
    if segmenter.metadata.quality is None:
        return result
    expected = np.array([one.quality for one in segmenter.stream(arrays.images)])
    scores = (result.per_image[name] for name in ("dice", "jaccard"))
    return replace(result, quality=QualityScores(expected, *scores))


def _default_names(num_classes: int) -> list[str]:
    if num_classes <= 2:
        return ["lesion"]
    return [f"class {index}" for index in range(1, num_classes)]


def _predict(predict: Predictor, images: NDArray[np.uint8], num_classes: int) -> Tensor:
    logits = predict(images)
    expected = (len(images), num_classes, *images.shape[1:3])
    if tuple(logits.shape) != expected:
        raise EgeunetError(
            f"The network gave logits of shape {tuple(logits.shape)}, expected {expected}: "
            "evaluate it with the number of classes it was trained with."
        )
    if logits.isnan().any():
        raise EgeunetError("The network gave nan: its weights are damaged, train it again.")
    return predict_classes(logits)
