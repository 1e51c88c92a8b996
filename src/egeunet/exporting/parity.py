"""Comparison of an exported file with the model in torch, on images."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from egeunet.data.synthetic import draw
from egeunet.errors import EgeunetError
from egeunet.exporting.runtimes import open_network
from egeunet.inference.image_io import read_image
from egeunet.inference.preprocess import to_input, upsample
from egeunet.training.run import Run, open_split

_LOG = logging.getLogger(__name__)
_IMAGES = 16


@dataclass(frozen=True)
class Parity:
    """The difference of an exported file from the model in torch.

    Args:
        images: Number of images compared.
        of: The dataset they are from, or "synthetic".
        difference: Largest difference of logits, relative to the largest logit; of a file that
            gives probabilities, their largest difference.
        iou: Mean IoU of the masks.
    """

    images: int
    of: str
    difference: float
    iou: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Reference:
    """Images, and the logits that torch computes for them.

    Args:
        of: The dataset they are from, or "synthetic".
        images: RGB, uint8 (H, W, 3) each.
        logits: float32 (N, K, h, w).
    """

    of: str
    images: list[NDArray[np.uint8]]
    logits: NDArray[np.float32]


def make_reference(run: Run) -> Reference:
    """Run a model on test images of its dataset, or on synthetic ones with a warning."""
    try:
        dataset, split = open_split(run.recipe.data)
        spread = np.linspace(0, len(split.test) - 1, min(_IMAGES, len(split.test))).astype(int)
        name, images = dataset.name, [read_image(split.test[i].image) for i in spread]
    except EgeunetError as error:  # the data are on another machine
        _LOG.warning(f"files are compared with torch on synthetic images only: {error}")
        name, images = "synthetic", [draw(seed, (240, 320))[0] for seed in range(_IMAGES)]
    logits = []
    with torch.no_grad():
        for image in images:
            tensor = torch.from_numpy(to_input(image, run.recipe.data.shape))
            logits.append(run.model(tensor[None])[0].numpy())
    return Reference(name, images, np.stack(logits))


def compare(reference: Reference, path: Path) -> Parity:
    """Compare an exported file with torch: masks at the network's size, or of whole images.

    Args:
        reference: From the same model.
        path: The file; it is run by its own runtime.
    """
    if path.name == "photo.onnx":
        return _compare_images(reference, path)
    network = open_network(path)
    height, width = reference.logits.shape[2:]
    inputs = (to_input(image, (height, width))[None] for image in reference.images)
    given = np.concatenate([network(one) for one in inputs])
    largest = max(1.0, float(np.abs(reference.logits).max()))
    difference = float(np.abs(given - reference.logits).max()) / largest
    ious = [_iou(_mask(a), _mask(b)) for a, b in zip(given, reference.logits, strict=True)]
    return Parity(len(ious), reference.of, difference, float(np.mean(ious)))


def _compare_images(reference: Reference, path: Path) -> Parity:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ious, difference = [], 0.0
    for image, logits in zip(reference.images, reference.logits, strict=True):
        (given,) = session.run(["probability"], {"photo": image})
        tensor = torch.from_numpy(logits)
        scores = (tensor.sigmoid() if len(logits) == 1 else tensor.softmax(0)).numpy()
        size = image.shape[0], image.shape[1]
        expected = np.stack([upsample(plane, size) for plane in scores])
        given = given.reshape(expected.shape)
        difference = max(difference, float(np.abs(given - expected).max()))
        ious.append(_iou(_mask(given, 0.5), _mask(expected, 0.5)))
    return Parity(len(ious), reference.of, difference, float(np.mean(ious)))


def _mask(scores: NDArray[np.float32], threshold: float = 0.0) -> NDArray[np.int64]:
    """The class of each pixel, of (K, H, W)."""
    if len(scores) == 1:
        return (scores[0] >= threshold).astype(np.int64)
    return scores.argmax(axis=0)


def _iou(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """The IoU of two masks; of several classes, the share of their pixels that agree."""
    union = np.count_nonzero((first > 0) | (second > 0))
    return np.count_nonzero((first == second) & (first > 0)) / union if union else 1.0
