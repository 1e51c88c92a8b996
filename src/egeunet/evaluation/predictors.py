"""Trained systems as one kind of function: uint8 images in, logits out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from egeunet.data.loader import scale_batch
from egeunet.inference.preprocess import min_max_normalize
from egeunet.inference.segmenter import Segmenter

Predictor = Callable[[NDArray[np.uint8]], Tensor]
"""From RGB uint8 (B, H, W, 3) to logits (B, K, H, W) on the CPU."""


def torch_predictor(model: nn.Module, device: str = "cpu") -> Predictor:
    """Return the predictor of a network, which is moved to `device` and set to eval mode."""
    model = model.to(device).eval()

    @torch.inference_mode()
    def predict(images: NDArray[np.uint8]) -> Tensor:
        # The arrays of a cache are read-only, which torch would warn of.
        batch = torch.from_numpy(np.array(images)).to(device)
        logits: Tensor = model(scale_batch(batch))
        return logits.float().cpu()

    return predict


def onnx_predictor(segmenter: Segmenter) -> Predictor:
    """Return the predictor of an exported graph."""

    def predict(images: NDArray[np.uint8]) -> Tensor:
        batch = np.ascontiguousarray(min_max_normalize(images).transpose(0, 3, 1, 2))
        return torch.from_numpy(segmenter.logits(batch))

    return predict
