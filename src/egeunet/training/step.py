"""One training step: forward, loss, backward, optimizer; captured as a CUDA graph if possible."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from egeunet.data.loader import Batch
from egeunet.training.config import Recipe
from egeunet.training.distributed import Group
from egeunet.training.losses import DeepSupervisionLoss

WARM_UP = 5  # steps before one is captured: libraries choose their algorithms in the first ones
_LOG = logging.getLogger(__name__)


class TrainStep:
    """Trains on one batch, or on this process' part of it.

    On one CUDA device a step of the usual batch size is captured once and replayed, because
    launching its several hundred small kernels takes longer than running them. This takes a
    capturable optimizer and no loss scaling (float16), which decides on the host. Where capturing
    fails, a warning is logged and steps run as on the CPU.

    Args:
        recipe: Optimizer and precision.
        group: Processes that train on the batch.
        model: As `fabric.setup` returned it.
        optimizer: Likewise.
        loss: Loss of output, masks and a teacher's masks.
    """

    def __init__(
        self,
        recipe: Recipe,
        group: Group,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: DeepSupervisionLoss,
    ) -> None:
        self.group, self.model, self.optimizer, self.loss = group, model, optimizer, loss
        self.clip_norm = recipe.optimizer.clip_norm
        capturable = recipe.optimizer.name in ("adam", "adamw") and recipe.precision != "16-mixed"
        capture = capturable and group.size == 1 and group.fabric.device.type == "cuda"
        self._steps_to_capture = WARM_UP if capture else -1  # -1: never
        self._captured: tuple[torch.cuda.CUDAGraph, Batch, Tensor] | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Train on a batch; return the mean loss over all its parts, still on the device."""
        if self._steps_to_capture == 0:
            self._capture(batch)
        self._steps_to_capture = max(-1, self._steps_to_capture - 1)
        if self._captured is not None:
            graph, own, loss = self._captured
            if own.images.shape == batch.images.shape:
                own.images.copy_(batch.images)
                own.masks.copy_(batch.masks)
                if own.soft is not None and batch.soft is not None:
                    own.soft.copy_(batch.soft)
                graph.replay()
                return loss.clone()
        return self._run(batch)

    def _run(self, batch: Batch) -> Tensor:
        fabric = self.group.fabric
        self.optimizer.zero_grad()
        loss = self.loss(self.model(batch.images), batch.masks, batch.soft)
        fabric.backward(loss)
        loss = self.group.average(self.model.parameters(), loss)
        if self.clip_norm is not None:
            fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.clip_norm, error_if_nonfinite=False
            )
        self.optimizer.step()
        return loss

    def _capture(self, batch: Batch) -> None:
        """Capture a step on copies of a batch; nothing is computed yet."""
        soft = None if batch.soft is None else batch.soft.clone()
        own = Batch(batch.ids, batch.images.clone(), batch.masks.clone(), soft)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                loss = self._run(own)
        except RuntimeError as error:
            _LOG.warning("Training steps are not captured as a CUDA graph: %s", error)
            self.optimizer.zero_grad()
            return
        self._captured = graph, own, loss
