"""Batch normalisation over the parts of a batch that several processes hold."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

from egeunet.errors import UsageError
from egeunet.training.distributed import add_up


def share_statistics(model: nn.Module, system: str) -> None:
    """Let each `BatchNorm2d` of a model take its statistics over the parts of all processes.

    torch's SyncBatchNorm does this on CUDA alone.

    Args:
        model: Changed in place; names and values of its tensors stay.
        system: Its name, for the message.

    Raises:
        UsageError: If it has batch normalisation of another kind.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise UsageError(
                f"The statistics of {type(module).__name__} in {system} are those of one device's "
                "part of a batch: train it with devices=1."
            )


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d`; in training its statistics are those of the whole batch.

    Every process holds equally many pixels, and they are combined as means of means, without the
    cancellation of a difference of squares.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W); see `torch.nn.BatchNorm2d`."""
        if not self.training:
            return super().forward(x)
        own = torch.stack(torch.var_mean(x.float(), (0, 2, 3), correction=0))  # (2, C)
        variances, means = _Gather.apply(own).unbind(1)  # (processes, C) each
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        self._follow(mean.detach(), variance.detach(), len(means) * x.numel() // x.shape[1])
        scale = (variance + self.eps).rsqrt() * self.weight
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], x.float(), scale[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics; the variance there is that of a sample, n − 1."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


class _Gather(Function):
    """A tensor of each process, stacked."""

    @staticmethod
    def forward(_: Any, own: Tensor) -> Tensor:
        every = own.new_zeros(dist.get_world_size(), *own.shape)
        every[dist.get_rank()] = own
        return add_up(every)

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        return add_up(grad.contiguous())[dist.get_rank()]
