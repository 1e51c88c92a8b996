"""Pixel counts (true and false positives and negatives) and the scores computed from them.

Scores per image and pooled scores (one confusion matrix over all pixels of a set, as in the paper)
are the same formulas over counts summed at different places.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SCORES = ("iou", "dice", "accuracy", "sensitivity", "specificity")


class Counts(NamedTuple):
    """Pixels counted per class, each class against all the others.

    All four have one shape, (…, K). A binary task has K = 1, the foreground; a task of K > 1
    classes has one column per class, background (0) included.
    """

    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor


def predict_classes(logits: Tensor, threshold: float = 0.5) -> Tensor:
    """Turn logits (B, K, H, W) into class indices.

    Args:
        logits: One channel is binary; with more, the largest wins.
        threshold: Probability from which a pixel of a binary task is foreground, inclusive.

    Returns:
        int64 (B, H, W) in 0…max(K - 1, 1).
    """
    if logits.shape[1] == 1:
        return (logits[:, 0] >= math.log(threshold / (1 - threshold))).long()
    return logits.argmax(dim=1)


def count_pixels(prediction: Tensor, target: Tensor, num_classes: int = 1) -> Counts:
    """Count correct and wrong pixels of each image.

    Args:
        prediction: Class indices (B, H, W), of any number type.
        target: Class indices, (B, H, W) or (B, 1, H, W), of any number type.
        num_classes: 1 for a binary task (indices 0 and 1), else the number of classes with the
            background.

    Returns:
        int64 counts (B, K), K = `num_classes`.

    Raises:
        ValueError: If the shapes differ.
    """
    if target.ndim == 4:
        target = target.squeeze(1)
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must both be "
            "class indices of shape (B, H, W)."
        )
    first = 1 if num_classes == 1 else 0
    classes = torch.arange(first, first + num_classes, device=target.device).view(1, -1, 1, 1)
    predicted = prediction.unsqueeze(1) == classes  # (B, K, H, W)
    true = target.unsqueeze(1) == classes
    tp = (predicted & true).sum(dim=(2, 3))
    fp = predicted.sum(dim=(2, 3)) - tp
    fn = true.sum(dim=(2, 3)) - tp
    pixels = target.shape[1] * target.shape[2]
    return Counts(tp, fp, fn, pixels - tp - fp - fn)


def scores(counts: Counts) -> dict[str, Tensor]:
    """Compute every score that needs counts only.

    ```
    iou         = tp / (tp + fp + fn)            (Jaccard)
    dice        = 2 tp / (2 tp + fp + fn)
    accuracy    = (tp + tn) / (tp + fp + fn + tn)
    sensitivity = tp / (tp + fn)                 (recall)
    specificity = tn / (tn + fp)
    ```

    Returns:
        One float64 tensor of the counts' shape per name in `SCORES`, in 0…1; nan where the
        denominator is 0 (see `mean_foreground`).
    """
    tp, fp, fn, tn = (count.double() for count in counts)
    return {
        "iou": tp / (tp + fp + fn),
        "dice": 2 * tp / (2 * tp + fp + fn),
        "accuracy": (tp + tn) / (tp + fp + fn + tn),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
    }


def mean_foreground(score: Tensor, empty: float = 1.0) -> Tensor:
    """Average a score over the foreground classes: all but class 0, or the only one.

    Args:
        score: (…, K), nan where undefined. Classes in which it is undefined are left out: neither
            truth nor prediction has them.
        empty: The mean where no class is left, such as the IoU of an empty prediction on an empty
            truth.

    Returns:
        (…), free of nan if `empty` is.
    """
    foreground = score if score.shape[-1] == 1 else score[..., 1:]
    return foreground.nanmean(dim=-1).nan_to_num(nan=empty)


class PixelCounts:
    """Counts pooled over all pixels of all images seen: the paper's way to score.

    Args:
        num_classes: 1 for a binary task, else the number of classes with the background.
        device: Device of the counts.

    Attributes:
        counts: The counts so far, int64 (K,).

    Example:
        >>> counts = PixelCounts()
        >>> counts.update(torch.tensor([[[[2.0, -1.0]]]]), torch.tensor([[[1, 1]]]))
        >>> counts.pooled()["iou"]
        0.5
    """

    def __init__(self, num_classes: int = 1, device: torch.device | str = "cpu") -> None:
        self.num_classes = num_classes
        self.counts = Counts(*torch.zeros(4, num_classes, dtype=torch.int64, device=device))

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch: logits (B, K, H, W), class indices (B, H, W) or (B, 1, H, W)."""
        new = count_pixels(predict_classes(logits), target, self.num_classes)
        self.counts = Counts(*(a + b.sum(dim=0) for a, b in zip(self.counts, new, strict=True)))

    def pooled(self) -> dict[str, float]:
        """Return each score averaged over the foreground classes, by its name in `SCORES`."""
        found = scores(self.counts)
        return {name: float(mean_foreground(score)) for name, score in found.items()}
