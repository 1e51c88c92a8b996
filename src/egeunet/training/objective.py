"""What a training minimises, by the name in its recipe."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.training.losses import DeepSupervisionLoss, Output, cross_entropy_dice
from egeunet.training.overlap_losses import (
    bce_jaccard,
    bce_jaccard_batch,
    bce_lovasz,
    focal_tversky,
    lovasz,
    tversky,
)
from egeunet.training.recipe import LossSettings
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


def distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return the cross-entropy to a teacher's probabilities, of logits (B, K, H, W) of both.

    Hinton, Vinyals, Dean. Distilling the knowledge in a neural network. arXiv 1503.02531, with
    temperature 1: a mask's soft border is all that there is to soften.
    """
    logits, teacher = logits.float(), teacher.float()
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits, torch.sigmoid(teacher))
    return F.cross_entropy(logits, F.softmax(teacher, dim=1))


class Objective:
    """What a step minimises: the loss to the true masks, and that to a teacher's.

    Args:
        loss: To the true masks.
        teacher: A frozen network in eval mode, which sees the images as the student does; None for
            none.
        weight: Of `distillation`, on the output alone.
    """

    def __init__(
        self, loss: DeepSupervisionLoss, teacher: nn.Module | None = None, weight: float = 0.0
    ) -> None:
        self.loss, self.teacher, self.weight = loss, teacher, weight

    def __call__(self, images: Tensor, output: Output, masks: Tensor) -> Tensor:
        """Return the loss of a model's output for images and their masks."""
        total = self.loss(output, masks).total
        if self.teacher is None:
            return total
        with torch.no_grad():
            soft = self.teacher(images)
        logits = output[0] if isinstance(output, tuple) else output
        return total + self.weight * distillation(logits, soft)
