"""The deep-supervision loss of EGE-UNet, on logits.

Paper, section 2, equations 1 and 2: L = λ₀ l(Y, P) + Σ λᵢ l(Y, Pᵢ), with l = BCE + Dice and the
mask predictions Pᵢ of the five decoder levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.errors import UsageError
from egeunet.models import kernels

Output = Tensor | tuple[Tensor, Sequence[Tensor]]
SMOOTH = 1.0
STAGE_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5)  # stage 5 (deepest) … stage 1


@dataclass(frozen=True)
class LossParts:
    """A loss and what it is made of.

    Attributes:
        total: Scalar to minimise.
        output: The term of the final output alone, detached.
    """

    total: Tensor
    output: Tensor


def foreground(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability and the truth of each foreground class, both (B, K, H, W).

    Args:
        logits: (B, 1, H, W), or (B, K + 1, H, W) with the background first.
        target: (B, 1, H, W) in 0…1, or class indices (B, H, W) of an integer type.
    """
    if logits.shape[1] == 1:
        return torch.sigmoid(logits), target.to(logits.dtype)
    truth = F.one_hot(target.long(), logits.shape[1]).movedim(-1, 1)[:, 1:]
    return F.softmax(logits, dim=1)[:, 1:], truth.to(logits.dtype)


def cross_entropy(logits: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy, binary for one logit; see `foreground` for the arguments."""
    if logits.shape[1] == 1:
        truth = target.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, truth, reduction=reduction)
    return F.cross_entropy(logits, target.long(), reduction=reduction)


def at_least_float32(logits: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32: sums over an image want its digits."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def dice_loss(logits: Tensor, target: Tensor, smooth: float = SMOOTH) -> Tensor:
    """Return 1 − mean over images (and classes) of (2 Σ p y + smooth) / (Σ p + Σ y + smooth).

    Args:
        logits: (B, 1, H, W), or (B, K, H, W) where the mean is over the classes 1 … K-1.
        target: (B, 1, H, W) in 0…1, or class indices (B, H, W) of an integer type for K > 1.
        smooth: Keeps an empty mask from dividing by zero.
    """
    probability, truth = (part.flatten(2) for part in foreground(logits, target))  # (B, K, H·W)
    overlap = (probability * truth).sum(-1)
    return 1 - ((2 * overlap + smooth) / (probability.sum(-1) + truth.sum(-1) + smooth)).mean()


def cross_entropy_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Return cross-entropy (binary for one logit) + Dice loss; see `dice_loss`."""
    logits = at_least_float32(logits)
    if logits.shape[1] == 1 and kernels.usable(logits, target):
        return kernels.bce_dice(logits, target, SMOOTH)
    return cross_entropy(logits, target) + dice_loss(logits, target)


class DeepSupervisionLoss(nn.Module):
    """A loss on the output and, weighted, on the further masks that a system predicts in training.

    Args:
        stage_weights: λ from the deepest level on; the paper's are 0.1, 0.2, 0.3, 0.4, 0.5. A
            system with fewer supervised levels takes as many of them from the end.
        output_weight: λ of the output.
        term: From logits and target to a scalar; cross-entropy + Dice is the paper's.
    """

    def __init__(
        self,
        stage_weights: Sequence[float] = STAGE_WEIGHTS,
        output_weight: float = 1.0,
        term: Callable[[Tensor, Tensor], Tensor] = cross_entropy_dice,
    ) -> None:
        super().__init__()
        self.stage_weights = tuple(stage_weights)
        self.output_weight = output_weight
        self.term = term

    def forward(self, output: Output, target: Tensor) -> LossParts:
        """Compare what a model returned, in either mode, with the target; see `dice_loss`.

        Raises:
            UsageError: If there are more stages than weights.
        """
        logits, stages = output if isinstance(output, tuple) else (output, ())
        main = self.term(logits, target)
        total = self.output_weight * main
        if len(stages) > len(self.stage_weights):
            raise UsageError(
                f"The system supervises {len(stages)} stages, but loss.stage_weights has "
                f"{len(self.stage_weights)}: give one weight for each."
            )
        weights = self.stage_weights[len(self.stage_weights) - len(stages) :]
        for weight, stage in zip(weights, stages, strict=True):
            total = total + weight * self.term(stage, target)
        return LossParts(total, main.detach())
