"""Score a model on samples: pixel counts and surface distances per image, summarised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from egeunet.data.cache import Arrays
from egeunet.data.loader import scale_batch
from egeunet.errors import EgeunetError
from egeunet.evaluation.failure_detection import QualityScores
from egeunet.evaluation.summary import Evaluation, summarise
from egeunet.inference.preprocess import min_max_normalize
from egeunet.inference.segmenter import Segmenter, sigmoid
from egeunet.metrics.counts import Counts, count_pixels, predict_classes
from egeunet.metrics.surface import surface_distances
from egeunet.progress import bar

Predictor = Callable[[NDArray[np.uint8]], Tensor]
"""From RGB images, uint8 (B, H, W, 3), to logits (B, K, H, W) on the CPU."""


def torch_predictor(model: nn.Module, device: str = "cpu") -> Predictor:
    """Return the predictor of a torch module, which is moved to `device` in eval mode."""
    model = model.to(device).eval()

    @torch.inference_mode()
    def predict(images: NDArray[np.uint8]) -> Tensor:
        # The arrays of a cache are read-only, which torch would warn of.
        batch = torch.from_numpy(np.array(images)).to(device)
        logits: Tensor = model(scale_batch(batch))
        return logits.float().cpu()

    return predict


def onnx_predictor(segmenter: Segmenter) -> Predictor:
    """Return the predictor of an exported model."""

    def predict(images: NDArray[np.uint8]) -> Tensor:
        batch = np.ascontiguousarray(min_max_normalize(images).transpose(0, 3, 1, 2))
        return torch.from_numpy(segmenter.logits(batch))

    return predict


def evaluate_arrays(
    predict: Predictor,
    arrays: Arrays,
    *,
    num_classes: int = 1,
    threshold: float = 0.5,
    batch_size: int = 16,
    class_names: Sequence[str] | None = None,
    expect_dice: Callable[[NDArray[np.float32]], float] | None = None,
) -> Evaluation:
    """Segment every sample and score it.

    Args:
        predict: Maps images, uint8 (B, H, W, 3), to logits (B, K, H, W), K = `num_classes`.
        arrays: The samples.
        num_classes: 1 for a binary task, else the number of classes with the background.
        threshold: Probability from which a pixel is foreground; binary tasks only.
        batch_size: Samples per call of `predict`.
        class_names: Foreground classes; by default "lesion", or "class 1" … if there are several.
        expect_dice: Estimates the Dice score of a mask from its probabilities (H, W).

    Raises:
        EgeunetError: If there are no samples, or `predict` returns other shapes or nan.
    """
    if not arrays.ids:
        raise EgeunetError("There are no images to evaluate: choose another split or dataset.")
    several = [f"class {index}" for index in range(1, num_classes)]
    names = tuple(class_names or (several if num_classes > 2 else ["lesion"]))
    found: list[Counts] = []
    expected: list[float] = []
    predictions = np.empty(arrays.masks.shape, np.uint8)
    distances = np.empty((len(arrays.ids), len(names), 2))
    with bar("evaluating", len(arrays.ids)) as advance:
        for start in range(0, len(arrays.ids), batch_size):
            chosen = slice(start, start + batch_size)
            masks = np.array(arrays.masks[chosen])  # in memory: torch wants writable arrays
            logits = _checked(predict(arrays.images[chosen]), masks, num_classes)
            classes = predict_classes(logits, threshold)
            found.append(count_pixels(classes, torch.from_numpy(masks), num_classes))
            predictions[chosen] = classes.numpy()
            if expect_dice:
                expected += [expect_dice(sigmoid(one)) for one in logits[:, 0].numpy()]
            for offset, mask in enumerate(masks):
                for index in range(len(names)):
                    predicted = predictions[start + offset] == index + 1
                    distances[start + offset, index] = surface_distances(
                        predicted, mask == index + 1
                    )
            advance(len(masks))
    counts = Counts(*(torch.cat(batches) for batches in zip(*found, strict=True)))
    result = summarise(arrays.ids, names, counts, predictions, distances)
    if not expect_dice:
        return result
    dice, jaccard = (result.per_image[name] for name in ("dice", "jaccard"))
    return replace(result, quality=QualityScores(np.array(expected), dice, jaccard))


def _checked(logits: Tensor, masks: NDArray[np.uint8], num_classes: int) -> Tensor:
    expected = (len(masks), num_classes, *masks.shape[1:])
    if tuple(logits.shape) != expected:
        raise EgeunetError(
            f"The model returned logits of shape {tuple(logits.shape)}, expected {expected}: "
            "evaluate it with the number of classes it was trained with."
        )
    if logits.isnan().any():
        raise EgeunetError("The model returned nan: its weights are damaged. Train it again.")
    return logits
