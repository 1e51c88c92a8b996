"""Segmentation of samples by a torch module or an exported model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from egeunet.data.cache import Arrays
from egeunet.data.loader import scale_batch
from egeunet.errors import EgeunetError
from egeunet.inference.preprocess import min_max_normalize
from egeunet.inference.segmenter import Segmenter, sigmoid
from egeunet.metrics.counts import Counts, count_pixels, predict_classes

Predictor = Callable[[NDArray[np.uint8]], Tensor]
"""From RGB images, uint8 (B, H, W, 3), to logits (B, K, H, W) on the CPU."""


class Segmented(NamedTuple):
    """A segmented batch of samples.

    Attributes:
        masks: True class indices, uint8 (B, H, W).
        predictions: Predicted class indices, uint8 (B, H, W).
        counts: Pixel counts, (B, K).
        estimates: Estimated Dice of each mask, if the model has an estimator.
    """

    masks: NDArray[np.uint8]
    predictions: NDArray[np.uint8]
    counts: Counts
    estimates: list[float]


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


def segment_batches(
    predict: Predictor,
    arrays: Arrays,
    *,
    num_classes: int = 1,
    threshold: float = 0.5,
    batch_size: int = 16,
    expect_dice: Callable[[NDArray[np.float32]], float] | None = None,
) -> Iterator[Segmented]:
    """Segment samples, a batch at a time.

    Args:
        predict: Maps images, uint8 (B, H, W, 3), to logits (B, K, H, W), K = `num_classes`.
        arrays: The samples.
        num_classes: 1 for a binary task, else the number of classes with the background.
        threshold: Probability from which a pixel is foreground; binary tasks only.
        batch_size: Samples per call of `predict`.
        expect_dice: Estimates the Dice score of a mask from its probabilities (H, W).

    Raises:
        EgeunetError: If `predict` returns other shapes or nan.
    """
    for start in range(0, len(arrays.ids), batch_size):
        chosen = slice(start, start + batch_size)
        masks = np.array(arrays.masks[chosen])  # in memory: torch wants writable arrays
        logits = predict(arrays.images[chosen])
        expected = (len(masks), num_classes, *masks.shape[1:])
        if tuple(logits.shape) != expected:
            raise EgeunetError(
                f"The model returned logits of shape {tuple(logits.shape)}, expected {expected}: "
                "evaluate it with the number of classes it was trained with."
            )
        if logits.isnan().any():
            raise EgeunetError("The model returned nan: its weights are damaged. Train it again.")
        classes = predict_classes(logits, threshold)
        yield Segmented(
            masks,
            classes.numpy().astype(np.uint8),
            count_pixels(classes, torch.from_numpy(masks), num_classes),
            [expect_dice(sigmoid(one)) for one in logits[:, 0].numpy()] if expect_dice else [],
        )
