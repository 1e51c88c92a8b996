"""Scores of the validation split after an epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from egeunet.data.loader import Loader
from egeunet.metrics.counts import Counts, PixelCounts
from egeunet.progress import track
from egeunet.training.distributed import Group
from egeunet.training.losses import DeepSupervisionLoss

PREVIEWS = 4  # images in a TensorBoard preview


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: Loader,
    loss: DeepSupervisionLoss,
    group: Group,
    *,
    total_loss: bool = False,
    show: Callable[[Tensor, Tensor, Tensor], object] | None = None,
) -> dict[str, float]:
    """Score a model on the samples of a loader.

    Args:
        model: Model to score.
        loader: This process' batches; each sample is in one process.
        loss: Loss of the training.
        group: Processes that score together.
        total_loss: Also compute the loss with the weighted stage masks, by which the published
            code selects the epoch.
        show: Called with images, masks and logits of the first batch.

    Returns:
        `val_loss`, the loss term of the output averaged over samples; `val_iou` and `val_dice`
        (0…1) over the pixels of all samples; and `val_total_loss` with `total_loss`. Incomplete
        after a stop request.
    """
    model.eval()
    if total_loss:
        model.training = True  # of the outermost module alone: it returns its stage masks as well
    device = group.fabric.device
    counts = PixelCounts(loader.num_classes, device)
    sums = torch.zeros(2, device=device)
    for batch in track(loader.epoch(), "validation", len(loader)):
        output = model(batch.images)
        logits = output[0] if isinstance(output, tuple) else output
        losses = [loss.term(logits, batch.masks), loss(output, batch.masks)]
        sums += torch.stack(losses).to(sums) * len(batch.ids)
        counts.update(logits, batch.masks)
        if show:
            show(batch.images, batch.masks, logits)
            show = None
        if group.stop.signal_number:
            break
    totals = group.sum(torch.cat((sums.double(), *counts.counts)))  # float64 holds all counts
    counts.counts = Counts(*totals[2:].view(4, -1))
    val_loss, val_total_loss = (totals[:2].float() / len(loader.arrays.ids)).tolist()
    scores = counts.pooled()
    found = {"val_loss": val_loss, "val_iou": scores["iou"], "val_dice": scores["dice"]}
    return found | ({"val_total_loss": val_total_loss} if total_loss else {})


def add_preview(
    board: SummaryWriter, epoch: int, images: Tensor, truth: Tensor, logits: Tensor
) -> None:
    """Show image (0…255), truth and prediction of the first samples side by side in TensorBoard."""
    if logits.shape[1] == 1:
        masks = [truth.float(), torch.sigmoid(logits.float())]
    else:
        masks = [m.unsqueeze(1) / (logits.shape[1] - 1) for m in (truth, logits.argmax(1))]
    columns = [images / 255, *(mask.expand(-1, 3, -1, -1) for mask in masks)]
    rows = torch.cat([column[:PREVIEWS].cpu() for column in columns], dim=3)
    board.add_images("image, truth, prediction", rows.clamp(0, 1), epoch)
