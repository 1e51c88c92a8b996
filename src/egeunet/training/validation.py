"""Scores of the validation part after an epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from egeunet.data.loader import Loader
from egeunet.metrics.counts import PixelCounts
from egeunet.reporting import Reporter
from egeunet.training.distributed import Ranks
from egeunet.training.losses import DeepSupervisionLoss


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: Loader,
    loss: DeepSupervisionLoss,
    ranks: Ranks,
    reporter: Reporter,
    *,
    show: Callable[[Tensor, Tensor, Tensor], object] | None,
    stop_if_asked: Callable[[], None],
) -> dict[str, float]:
    """Score a model on the samples of a loader, every one once, whichever process has it.

    Args:
        model: What to score.
        loader: Of this process' part.
        loss: The loss; it is averaged over samples.
        ranks: The processes that score together.
        reporter: Hears of the progress.
        show: Called with images, masks and logits of the first batch.
        stop_if_asked: Called where all processes know of a request to stop; raises for one.

    Returns:
        `val_loss`, and `val_iou` and `val_dice` (0…1) of the pixels of all samples.
    """
    model.eval()
    device = ranks.fabric.device
    counts = PixelCounts(loader.num_classes).to(device)
    loss_sum = torch.zeros((), device=device)
    with reporter.bar("validation", len(loader)) as bar:
        for batch in loader.epoch():
            logits = model(batch.images)
            loss_sum += loss(logits, batch.masks).output * len(batch.ids)
            counts.update(logits, batch.masks)
            if show:
                show(batch.images, batch.masks, logits)
                show = None
            bar.advance()
            if ranks.stop.signal_number:
                break
    loss_sum = ranks.total(loss_sum[None])
    stop_if_asked()
    pooled = counts.pooled()
    return {
        "val_loss": float(loss_sum) / len(loader.arrays.ids),
        "val_iou": pooled["iou"],
        "val_dice": pooled["dice"],
    }
