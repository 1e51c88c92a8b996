"""Whether an exported graph computes what the network computes, on photos."""

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
from egeunet.inference.image_io import read_image
from egeunet.inference.preprocess import to_input, upsample
from egeunet.training.run import Run, open_split

_LOG = logging.getLogger(__name__)
PHOTOS = 16
_Photo = NDArray[np.uint8]


@dataclass(frozen=True)
class Parity:
    """How near an exported graph comes to the network in torch.

    Args:
        images: Number of images compared.
        of: The dataset they are from, or "synthetic".
        difference: The largest difference of logits, over the largest logit; of probabilities for
            a graph that gives these.
        iou: The mean IoU of the masks.
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
    """Photos, and the logits that torch gives for them.

    Args:
        of: The dataset they are from, or "synthetic".
        photos: Each RGB, uint8 (H, W, 3).
        logits: float32 (N, K, h, w).
    """

    of: str
    photos: list[_Photo]
    logits: NDArray[np.float32]


def make_reference(run: Run) -> Reference:
    """Run the network on photos of the test part of its data, or on drawn ones and warn of it."""
    try:
        dataset, split = open_split(run.recipe.data)
        spread = np.linspace(0, len(split.test) - 1, min(PHOTOS, len(split.test))).astype(int)
        name, photos = dataset.name, [read_image(split.test[i].image) for i in spread]
    except EgeunetError as error:  # the data are on another machine
        _LOG.warning(f"files are compared with torch on drawn photos alone: {error}")
        name, photos = "synthetic", [draw(seed, (240, 320))[0] for seed in range(PHOTOS)]
    logits = []
    with torch.no_grad():
        for photo in photos:
            image = torch.from_numpy(to_input(photo, run.recipe.data.shape))
            logits.append(run.model(image[None])[0].numpy())
    return Reference(name, photos, np.stack(logits))


def compare_core(reference: Reference, path: Path) -> Parity:
    """Compare a graph from `image` to `logits`, masks at the network's size."""
    session = open_graph(path)
    size = reference.logits.shape[2:]
    given = np.concatenate(
        [
            session.run(["logits"], {"image": to_input(photo, (size[0], size[1]))[None]})[0]
            for photo in reference.photos
        ]
    )
    largest = max(1.0, float(np.abs(reference.logits).max()))
    difference = float(np.abs(given - reference.logits).max()) / largest
    ious = [_iou(_mask(a), _mask(b)) for a, b in zip(given, reference.logits, strict=True)]
    return Parity(len(ious), reference.of, difference, float(np.mean(ious)))


def compare_photo(reference: Reference, path: Path) -> Parity:
    """Compare a graph from `photo` to `probability`, masks at the photo's size."""
    session = open_graph(path)
    ious, difference = [], 0.0
    for photo, logits in zip(reference.photos, reference.logits, strict=True):
        (given,) = session.run(["probability"], {"photo": photo})
        tensor = torch.from_numpy(logits)
        scores = (tensor.sigmoid() if len(logits) == 1 else tensor.softmax(0)).numpy()
        size = (photo.shape[0], photo.shape[1])
        expected = np.stack([upsample(plane, size) for plane in scores])
        given = given.reshape(expected.shape)
        difference = max(difference, float(np.abs(given - expected).max()))
        ious.append(_iou(_mask(given, 0.5), _mask(expected, 0.5)))
    return Parity(len(ious), reference.of, difference, float(np.mean(ious)))


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _mask(scores: NDArray[np.float32], threshold: float = 0.0) -> NDArray[np.int64]:
    """The class of each pixel, of (K, H, W)."""
    if len(scores) == 1:
        return (scores[0] >= threshold).astype(np.int64)
    return scores.argmax(axis=0)


def _iou(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """The IoU of two masks; of several classes, the share of their pixels that agree."""
    union = np.count_nonzero((first > 0) | (second > 0))
    return np.count_nonzero((first == second) & (first > 0)) / union if union else 1.0
