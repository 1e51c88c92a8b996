"""What a training minimises, by the name in its recipe."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from egeunet.training.losses import DeepSupervisionLoss, cross_entropy_dice
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
