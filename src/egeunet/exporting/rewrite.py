"""Networks rewritten for deployment runtimes, with the same numbers."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.models.egeunet import GHPA, EGEUNet
from egeunet.models.layers import ChannelLayerNorm

_SCALE = 1 / 32


def fit_float16(model: nn.Module) -> nn.Module:
    """Return an EGE-UNet whose values fit float16; return other models as they are.

    The first convolution gives values up to 800 away from their mean, whose squares float16 cannot
    hold. Its GroupNorm undoes any scale, and a power of two is exact: the results are the same.
    """
    if not isinstance(model, EGEUNet):
        return model
    model = copy.deepcopy(model)
    first: Any = model.encoder[0]
    with torch.no_grad():
        for parameter in first.block.parameters():
            parameter.mul_(_SCALE)
    first.norm.eps *= _SCALE**2
    return model


def for_mobile(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Return a model in operators that mobile runtimes run fast, for images of one size.

    Normalizations become 1×1 convolutions and means, and the attention maps of EGE-UNet constants.
    """
    model = copy.deepcopy(fit_float16(model)).eval()
    maps: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: Any, output: Tensor) -> None:
        maps[module] = output

    ghpas = [block for block in model.modules() if isinstance(block, GHPA)]
    attentions = [(b.height_width, b.channel_height, b.channel_width) for b in ghpas]
    hooks = [one.register_forward_hook(keep) for three in attentions for one in three]
    with torch.no_grad():
        model(torch.zeros(1, 3, *size))
    for hook in hooks:
        hook.remove()
    for parent in [*model.modules()]:
        for name, child in parent.named_children():
            if child in maps:
                setattr(parent, name, _Constant(maps[child]))
            elif isinstance(child, ChannelLayerNorm):
                setattr(parent, name, _ConvNorm(child, child.groups, pooled=False))
            elif isinstance(child, nn.GroupNorm):
                setattr(parent, name, _ConvNorm(child, child.num_groups, pooled=True))
    return model


class _Constant(nn.Module):
    """A tensor that does not depend on the input."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, *_: int) -> Tensor:
        return self.value


class _ConvNorm(nn.Module):
    """A normalization with 1×1 convolutions for the means over groups of channels."""

    mean: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, norm: Any, groups: int, pooled: bool) -> None:
        super().__init__()
        self.eps, self.pooled = norm.eps, pooled
        size = norm.weight.numel() // groups
        mean = torch.block_diag(*[torch.full((size, size), 1 / size)] * groups)
        self.register_buffer("mean", mean[:, :, None, None])
        self.register_buffer("weight", norm.weight.detach()[None, :, None, None])
        self.register_buffer("bias", norm.bias.detach()[None, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = x - self._mean(x)
        return x * torch.rsqrt(self._mean(x * x) + self.eps) * self.weight + self.bias

    def _mean(self, x: Tensor) -> Tensor:
        return F.conv2d(x.mean((2, 3), keepdim=True) if self.pooled else x, self.mean)
