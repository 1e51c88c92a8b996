"""Curves and preview images for TensorBoard."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

SHOWN = 4


class Board:
    """Writes TensorBoard events into a run folder.

    Args:
        folder: The run folder.
        first_epoch: Events from this epoch on, left by a run that was stopped, are superseded.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def scalars(self, epoch: int, values: dict[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)

    def preview(self, epoch: int, images: Tensor, truth: Tensor, logits: Tensor) -> None:
        """Show image, truth and prediction of the first samples beside each other.

        Args:
            epoch: Where on the time line.
            images: (B, 3, H, W), 0…255.
            truth: (B, 1, H, W), or class indices (B, H, W).
            logits: (B, K, H, W).
        """
        if logits.shape[1] == 1:
            masks = [truth.float(), torch.sigmoid(logits.float())]
        else:
            top = logits.shape[1] - 1
            masks = [m.unsqueeze(1).float() / top for m in (truth, logits.argmax(1))]
        columns = [images / 255, *(mask.expand(-1, 3, -1, -1) for mask in masks)]
        rows = torch.cat([column[:SHOWN].cpu() for column in columns], dim=3)
        self.writer.add_images("image, truth, prediction", rows.clamp(0, 1), epoch)

    def close(self) -> None:
        """Write what is pending."""
        self.writer.close()
