"""Losses of overlap: smooth forms of the score, the Jaccard index |A ∩ B| / |A ∪ B|.

All take logits (B, 1, H, W) and a target (B, 1, H, W) of 0 and 1; or (B, K, H, W) and class indices
(B, H, W) of an integer type, for the mean over the classes 1 … K-1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from egeunet.models import kernels
from egeunet.training.losses import SMOOTH, at_least_float32, cross_entropy, foreground

FALSE_POSITIVES, FALSE_NEGATIVES = 0.3, 0.7  # weights of Salehi et al. and of Abraham & Khan
FOCUS = 4 / 3  # γ of Abraham & Khan


def bce_jaccard(logits: Tensor, target: Tensor) -> Tensor:
    """Return cross-entropy + 1 − mean over images of (Σ p y + 1) / (Σ p + Σ y − Σ p y + 1).

    Rahman & Wang 2016, with cross-entropy beside it as in the paper's loss.
    """
    entropy, overlap, said, true = _sums(logits, target)
    return entropy + 1 - _tversky_index(overlap, said, true, 1, 1).mean()


def bce_jaccard_batch(logits: Tensor, target: Tensor) -> Tensor:
    """Return `bce_jaccard` with sums over all images of the batch: large lesions weigh more.

    Nearest to the score, whose sums are over all images of the test part.
    """
    entropy, *sums = _sums(logits, target)
    overlap, said, true = (each.sum(0) for each in sums)
    return entropy + 1 - _tversky_index(overlap, said, true, 1, 1).mean()


def tversky(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 − mean over images of the Tversky index with weights 0.3 and 0.7.

    Salehi, Erdogmus, Gholipour. Tversky loss function for image segmentation using 3D fully
    convolutional deep networks. MLMI 2017. T = (TP + 1) / (TP + 0.3 FP + 0.7 FN + 1).
    """
    _, overlap, said, true = _sums(logits, target)
    return 1 - _tversky_index(overlap, said, true, FALSE_POSITIVES, FALSE_NEGATIVES).mean()


def focal_tversky(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over images of (1 − T)^(3/4), T as in `tversky`.

    Abraham, Khan. A novel focal Tversky loss function with improved attention U-Net for lesion
    segmentation. ISBI 2019.
    """
    _, overlap, said, true = _sums(logits, target)
    missing = 1 - _tversky_index(overlap, said, true, FALSE_POSITIVES, FALSE_NEGATIVES)
    return missing.clamp(min=1e-6).pow(1 / FOCUS).mean()  # the slope at 0 is infinite


def lovasz(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over images of the Lovász hinge; of classes, the Lovász-softmax loss.

    Berman, Rannen Triki, Blaschko. The Lovász-Softmax loss: a tractable surrogate for the
    optimization of the intersection-over-union measure in neural networks. CVPR 2018, equations 9
    and 11. Where every pixel is right or wrong by 1 it is 1 − Jaccard, without smoothing.
    """
    logits = at_least_float32(logits)
    probability, truth = foreground(logits, target)
    binary = logits.shape[1] == 1
    errors = (1 - logits * (2 * truth - 1)).relu() if binary else (truth - probability).abs()
    errors, order = errors.flatten(2).sort(dim=-1, descending=True)  # (B, K, H·W)
    truth = truth.flatten(2).gather(-1, order)
    total = truth.sum(-1, keepdim=True)
    losses = 1 - (total - truth.cumsum(-1)) / (total + (1 - truth).cumsum(-1))
    weights = losses.diff(dim=-1, prepend=torch.zeros_like(total))
    return (errors * weights).sum(-1).mean()


def bce_lovasz(logits: Tensor, target: Tensor) -> Tensor:
    """Return cross-entropy + `lovasz`: the hinge alone gives no probabilities."""
    return cross_entropy(at_least_float32(logits), target) + lovasz(logits, target)


def _sums(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean cross-entropy; Σ p y, Σ p and Σ y over the pixels of each image and class, (B, K)."""
    logits = at_least_float32(logits)
    if logits.shape[1] == 1 and kernels.usable(logits, target):
        entropy, overlap, said, true = kernels.mask_sums(logits, target).split(1, dim=1)
        return entropy.sum() / logits.numel(), overlap, said, true
    probability, truth = (part.flatten(2) for part in foreground(logits, target))
    overlap = (probability * truth).sum(-1)
    return cross_entropy(logits, target), overlap, probability.sum(-1), truth.sum(-1)


def _tversky_index(
    overlap: Tensor, said: Tensor, true: Tensor, false_positives: float, false_negatives: float
) -> Tensor:
    """TP / (TP + α FP + β FN), 1 added above and below; Jaccard for α = β = 1, Dice for ½."""
    wrong = false_positives * (said - overlap) + false_negatives * (true - overlap)
    return (overlap + SMOOTH) / (overlap + wrong + SMOOTH)
