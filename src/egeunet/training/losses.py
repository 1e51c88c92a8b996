"""Segmentation losses on logits, by name, and their sum over deep-supervision outputs.

Every term takes logits (B, 1, H, W) with a target (B, 1, H, W) in 0…1; or logits (B, K, H, W) with
integer class indices (B, H, W), where region terms are the mean over the classes 1 … K-1. It
returns a scalar, the mean over images unless its docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.errors import UsageError
from egeunet.models import kernels

Output = Tensor | tuple[Tensor, Sequence[Tensor]]
SMOOTH = 1.0
STAGE_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5)  # stage 5 (deepest) … stage 1
FALSE_POSITIVES, FALSE_NEGATIVES = 0.3, 0.7  # Tversky weights of Salehi et al., Abraham & Khan
TVERSKY_EXPONENT = 3 / 4  # 1 / γ of Abraham & Khan
BOUNDARY_WINDOW, BOUNDARY_WEIGHT = 31, 5.0  # pixels and factor of F³Net


class DeepSupervisionLoss(nn.Module):
    """Weighted sum of a loss term over the output and the stage masks of a model.

    L = λ₀ l(Y, P) + Σ λᵢ l(Y, Pᵢ) (EGE-UNet, section 2, equations 1 and 2), plus
    w · distillation(P, soft) where a teacher's probabilities are given.

    Args:
        stage_weights: λᵢ from the deepest stage on. A model with fewer stages takes as many of
            them from the end.
        output_weight: λ₀.
        term: l, from logits and target to a scalar.
        distill_weight: w.
    """

    def __init__(
        self,
        stage_weights: Sequence[float] = STAGE_WEIGHTS,
        output_weight: float = 1.0,
        term: Callable[[Tensor, Tensor], Tensor] | None = None,
        distill_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.stage_weights, self.output_weight = tuple(stage_weights), output_weight
        self.term, self.distill_weight = term or cross_entropy_dice, distill_weight

    def forward(self, output: Output, target: Tensor, soft: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            output: What the model returned: logits, or (logits, stage logits).
            target: See the module.
            soft: A teacher's probabilities (B, 1, H, W), if any.

        Raises:
            UsageError: If there are more stages than weights.
        """
        logits, stages = output if isinstance(output, tuple) else (output, ())
        if len(stages) > len(self.stage_weights):
            raise UsageError(
                f"The model supervises {len(stages)} stages, but loss.stage_weights has "
                f"{len(self.stage_weights)}: give one weight for each."
            )
        total = self.output_weight * self.term(logits, target)
        weights = self.stage_weights[len(self.stage_weights) - len(stages) :]
        for weight, stage in zip(weights, stages, strict=True):
            total = total + weight * self.term(stage, target)
        return total if soft is None else total + self.distill_weight * distillation(logits, soft)


def distillation(logits: Tensor, soft: Tensor) -> Tensor:
    """Return the cross-entropy of logits to a teacher's probabilities, both (B, 1, H, W).

    Hinton, Vinyals, Dean, arXiv 1503.02531, with temperature 1.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), soft)


def cross_entropy(logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy, binary for one logit; the mean is over pixels."""
    if logits.shape[1] == 1:
        truth = target.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, truth, reduction=reduction)
    return F.cross_entropy(logits, target.long(), reduction=reduction)


def dice_loss(logits: Tensor, target: Tensor, smooth: float = SMOOTH) -> Tensor:
    """Return 1 − mean of (2 Σ p y + smooth) / (Σ p + Σ y + smooth); `smooth` is for empty masks."""
    probability, truth = (part.flatten(2) for part in _foreground(logits, target))  # (B, K, H·W)
    overlap = (probability * truth).sum(-1)
    return 1 - ((2 * overlap + smooth) / (probability.sum(-1) + truth.sum(-1) + smooth)).mean()


def cross_entropy_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Return cross-entropy + Dice loss, the term of EGE-UNet."""
    logits = _at_least_float32(logits)
    if logits.shape[1] == 1 and kernels.usable(logits, target):
        return kernels.bce_dice(logits, target, SMOOTH)
    return cross_entropy(logits, target) + dice_loss(logits, target)


def bce_jaccard(logits: Tensor, target: Tensor) -> Tensor:
    """Return cross-entropy + 1 − (Σ p y + 1) / (Σ p + Σ y − Σ p y + 1) (Rahman & Wang 2016)."""
    entropy, *sums = _region_sums(logits, target)
    return entropy + 1 - _tversky_index(sums, 1, 1).mean()


def bce_jaccard_batch(logits: Tensor, target: Tensor) -> Tensor:
    """Return `bce_jaccard` with sums over all images of the batch, as the pooled score has them."""
    entropy, *sums = _region_sums(logits, target)
    return entropy + 1 - _tversky_index([part.sum(0) for part in sums], 1, 1).mean()


def tversky(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 − T, T = (TP + 1) / (TP + 0.3 FP + 0.7 FN + 1) (Salehi et al., MLMI 2017)."""
    _, *sums = _region_sums(logits, target)
    return 1 - _tversky_index(sums, FALSE_POSITIVES, FALSE_NEGATIVES).mean()


def focal_tversky(logits: Tensor, target: Tensor) -> Tensor:
    """Return (1 − T)^(3/4) with T of `tversky` (Abraham & Khan, ISBI 2019)."""
    _, *sums = _region_sums(logits, target)
    missing = 1 - _tversky_index(sums, FALSE_POSITIVES, FALSE_NEGATIVES)
    return missing.clamp(min=1e-6).pow(TVERSKY_EXPONENT).mean()  # the slope at 0 is infinite


def lovasz(logits: Tensor, target: Tensor) -> Tensor:
    """Return the Lovász hinge; of classes, the Lovász-softmax loss.

    Berman, Rannen Triki, Blaschko, CVPR 2018, equations 9 and 11.
    """
    logits = _at_least_float32(logits)
    probability, truth = _foreground(logits, target)
    binary = logits.shape[1] == 1
    errors = (1 - logits * (2 * truth - 1)).relu() if binary else (truth - probability).abs()
    errors, order = errors.flatten(2).sort(dim=-1, descending=True)  # (B, K, H·W)
    truth = truth.flatten(2).gather(-1, order)
    total = truth.sum(-1, keepdim=True)
    jaccard = 1 - (total - truth.cumsum(-1)) / (total + (1 - truth).cumsum(-1))
    weights = jaccard.diff(dim=-1, prepend=torch.zeros_like(total))
    return (errors * weights).sum(-1).mean()


def bce_lovasz(logits: Tensor, target: Tensor) -> Tensor:
    """Return cross-entropy + `lovasz`; the hinge alone does not give probabilities."""
    return cross_entropy(_at_least_float32(logits), target) + lovasz(logits, target)


def structure_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return weighted cross-entropy + weighted IoU loss, with the weights of `boundary_weights`.

    With w the weights, sums over the pixels of an image, probability p and truth y:
    Σ w CE / Σ w + 1 − (Σ w p y + 1) / (Σ w (p + y − p y) + 1).

    F³Net (Wei, Wang, Huang, AAAI 2020), as in TransFuse: the public code of F³Net loses the weights
    of the cross-entropy through a misspelt argument.
    """
    logits = _at_least_float32(logits)
    probability, truth = _foreground(logits, target)
    entropy = cross_entropy(logits, target, reduction="none").view_as(truth[:, :1])
    weights = boundary_weights(truth)
    entropy = (weights * entropy).sum((2, 3)) / weights.sum((2, 3))  # (B, 1)
    overlap = (weights * probability * truth).sum((2, 3))  # (B, K)
    union = (weights * (probability + truth)).sum((2, 3)) - overlap
    return (entropy + 1 - (overlap + SMOOTH) / (union + SMOOTH)).mean()


def boundary_weights(truth: Tensor) -> Tensor:
    """Return 1 + 5 |mean of the 31×31 neighbourhood − truth| per pixel, 1 … 6, as (B, 1, H, W).

    Args:
        truth: (B, K, H, W), 0 or 1 for each of K foreground classes, of which the largest
            difference counts. Outside the image is background.
    """
    # A mean over a square is one over rows of means over columns: 62 sums a pixel, not 961.
    size, pad = BOUNDARY_WINDOW, BOUNDARY_WINDOW // 2
    mean = F.avg_pool2d(truth, (size, 1), stride=1, padding=(pad, 0))
    mean = F.avg_pool2d(mean, (1, size), stride=1, padding=(0, pad))
    return 1 + BOUNDARY_WEIGHT * (mean - truth).abs().amax(1, keepdim=True)


TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bce_dice": cross_entropy_dice,
    "bce_jaccard": bce_jaccard,
    "bce_jaccard_batch": bce_jaccard_batch,
    "bce_lovasz": bce_lovasz,
    "lovasz": lovasz,
    "tversky": tversky,
    "focal_tversky": focal_tversky,
    "structure": structure_loss,
}


def _foreground(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability and the truth of each foreground class, both (B, K, H, W)."""
    if logits.shape[1] == 1:
        return torch.sigmoid(logits), target.to(logits.dtype)
    truth = F.one_hot(target.long(), logits.shape[1]).movedim(-1, 1)[:, 1:]
    return F.softmax(logits, dim=1)[:, 1:], truth.to(logits.dtype)


def _at_least_float32(logits: Tensor) -> Tensor:
    """Return half-precision logits as float32: sums over an image need its digits."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _region_sums(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the mean cross-entropy, and Σ p y, Σ p and Σ y per image and class, (B, K)."""
    logits = _at_least_float32(logits)
    if logits.shape[1] == 1 and kernels.usable(logits, target):
        entropy, overlap, predicted, true = kernels.mask_sums(logits, target).split(1, dim=1)
        return entropy.sum() / logits.numel(), overlap, predicted, true
    probability, truth = (part.flatten(2) for part in _foreground(logits, target))
    overlap = (probability * truth).sum(-1)
    return cross_entropy(logits, target), overlap, probability.sum(-1), truth.sum(-1)


def _tversky_index(sums: Sequence[Tensor], alpha: float, beta: float) -> Tensor:
    """TP / (TP + α FP + β FN), 1 added above and below; Jaccard for α = β = 1, Dice for ½.

    Args:
        sums: Σ p y, Σ p and Σ y.
        alpha: Weight of false positives.
        beta: Weight of false negatives.
    """
    overlap, predicted, true = sums
    wrong = alpha * (predicted - overlap) + beta * (true - overlap)
    return (overlap + SMOOTH) / (overlap + wrong + SMOOTH)
