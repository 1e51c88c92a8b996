"""What a training minimises, by the name in its recipe."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from egeunet.training.config import LossSettings
from egeunet.training.losses import DeepSupervisionLoss, Output, cross_entropy_dice
from egeunet.training.overlap_losses import (
    bce_jaccard,
    bce_jaccard_batch,
    bce_lovasz,
    focal_tversky,
    lovasz,
    tversky,
)
from egeunet.training.structure_loss import structure_loss

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


def make_loss(settings: LossSettings) -> DeepSupervisionLoss:
    """Return the loss that a recipe names."""
    return DeepSupervisionLoss(settings.stage_weights, settings.output_weight, TERMS[settings.name])


def distillation(logits: Tensor, soft: Tensor) -> Tensor:
    """Return the cross-entropy of logits to a teacher's probabilities, both (B, 1, H, W).

    Hinton, Vinyals, Dean. Distilling the knowledge in a neural network. arXiv 1503.02531, with
    temperature 1: a mask's soft border is all that there is to soften.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), soft)


class Objective:
    """What a step minimises: the loss to the true masks, and that to a teacher's.

    Args:
        loss: To the true masks.
        weight: Of `distillation`, on the output alone.
    """

    def __init__(self, loss: DeepSupervisionLoss, weight: float = 0.0) -> None:
        self.loss, self.weight = loss, weight

    def __call__(self, output: Output, masks: Tensor, soft: Tensor | None = None) -> Tensor:
        """Return the loss of a model's output to the masks and, where given, to a teacher's."""
        total = self.loss(output, masks).total
        if soft is None:
            return total
        logits = output[0] if isinstance(output, tuple) else output
        return total + self.weight * distillation(logits, soft)
