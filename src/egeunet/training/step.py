"""One step of training: forward, loss, backward, optimiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from egeunet.data.loader import Batch
from egeunet.reporting import Reporter
from egeunet.training.distributed import Ranks

WARM_UP = 5  # steps before one is recorded: libraries choose their algorithms in the first ones


class Step:
    """Trains on a batch, or a part of one; the loss stays on the device: nobody waits for it.

    On CUDA a step of the usual batch size is recorded once and replayed: starting its several
    hundred small kernels one by one takes longer than they run. Where that fails, steps run one
    kernel after the other as on the CPU, and the reporter hears why.

    Args:
        ranks: Who else trains on the batch.
        model: As `fabric.setup` gave it.
        optimizer: Likewise.
        loss: From the model's output, masks and a teacher's masks, if any, to the loss.
        clip_norm: Largest norm of the gradient; None does not clip.
        record: Whether steps may be recorded: on one CUDA device, with a capturable optimiser and
            without the loss scaling of float16, which decides on the host.
        reporter: Hears of what could not be done.
    """

    def __init__(
        self,
        ranks: Ranks,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[..., Tensor],
        clip_norm: float | None,
        record: bool,
        reporter: Reporter,
    ) -> None:
        self.ranks, self.model, self.optimizer, self.loss = ranks, model, optimizer, loss
        self.clip_norm, self.reporter = clip_norm, reporter
        self._left = WARM_UP if record else -1  # -1: never
        self._recorded: tuple[torch.cuda.CUDAGraph, Batch, Tensor] | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Train on a batch; return the loss of all its parts, a number without a gradient."""
        if self._left == 0:
            self._record(batch)
        self._left = max(-1, self._left - 1)
        if self._recorded is not None:
            graph, own, loss = self._recorded
            if own.images.shape == batch.images.shape:
                own.images.copy_(batch.images)
                own.masks.copy_(batch.masks)
                if own.soft is not None and batch.soft is not None:
                    own.soft.copy_(batch.soft)
                graph.replay()
                return loss.clone()
        return self._run(batch)

    def _run(self, batch: Batch) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss(self.model(batch.images), batch.masks, batch.soft)
        self.ranks.fabric.backward(loss)
        loss = self.ranks.average(self.model.parameters(), loss)
        if self.clip_norm is not None:
            self.ranks.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.clip_norm, error_if_nonfinite=False
            )
        self.optimizer.step()
        return loss

    def _record(self, batch: Batch) -> None:
        """Record a step on copies of a batch; nothing is computed yet."""
        soft = None if batch.soft is None else batch.soft.clone()
        own = Batch(batch.ids, batch.images.clone(), batch.masks.clone(), soft)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                loss = self._run(own)
        except RuntimeError as error:
            self.reporter.warn(f"Steps are not recorded as a CUDA graph: {error}")
            self.optimizer.zero_grad()
            return
        self._recorded = graph, own, loss
