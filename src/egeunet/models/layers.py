"""Layers, initialization and checks shared by several models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.errors import UsageError
from egeunet.models import kernels


class ChannelLayerNorm(nn.Module):
    """Layer normalization over the channels of each pixel (Liu et al. 2022, ConvNeXt).

    Args:
        channels: C.
        groups: Number of equal channel groups, each normalized on its own.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, groups: int = 1, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.groups = groups
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape, in the weight's precision even under autocast."""
        if self.groups == 1 and kernels.usable_channel_norm(x, self.weight, self.bias):
            return kernels.channel_norm(x, self.weight, self.bias, self.eps)
        grouped = x.to(self.weight.dtype).unflatten(1, (self.groups, -1))
        centered = grouped - grouped.mean(2, keepdim=True)  # (B, groups, C / groups, H, W)
        variance = centered.square().mean(2, keepdim=True)
        normal = (centered / torch.sqrt(variance + self.eps)).flatten(1, 2)
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


def conv3x3(in_channels: int, out_channels: int) -> nn.Module:
    """Return a 3×3 convolution with bias, from (B, C_in, H, W) to (B, C_out, H, W)."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def conv_norm(
    in_channels: int, out_channels: int, kernel: int = 1, *, groups: int = 1, bias: bool = True
) -> nn.Sequential:
    """Return a convolution that keeps H and W (odd kernel), followed by batch normalization."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=bias),
        nn.BatchNorm2d(out_channels),
    )


def separable(
    in_channels: int, out_channels: int, *between: nn.Module, kernel: int = 3, bias: bool = True
) -> nn.Sequential:
    """Return a depthwise convolution (odd kernel), the layers `between`, and a 1×1 convolution."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels, in_channels, kernel, padding=kernel // 2, groups=in_channels, bias=bias
        ),
        *between,
        nn.Conv2d(in_channels, out_channels, 1, bias=bias),
    )


def upsample(x: Tensor, factor: int = 2) -> Tensor:
    """Upsample (B, C, H, W) bilinearly by a factor, without aligned corners."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def gelu(x: Tensor) -> Tensor:
    """Return x Φ(x) (Hendrycks & Gimpel 2016), Φ being the normal distribution function."""
    return kernels.gelu(x) if kernels.usable(x) else F.gelu(x)


class GELU(nn.Module):
    """`gelu` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return gelu(x)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, C, h, w) bilinearly to (B, C, *size) with aligned corners."""
    if kernels.usable(x):
        return kernels.resize(x, size)
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=True)


def foreground_logit(logits: Tensor) -> Tensor:
    """Return the foreground logit (B, 1, H, W) of binary or K-class logits (B, K, H, W).

    Its sigmoid is the summed softmax probability of the classes 1 … K-1.
    """
    if logits.shape[1] == 1:
        return logits
    return torch.logsumexp(logits[:, 1:], dim=1, keepdim=True) - logits[:, :1]


def check_input(x: Tensor, in_channels: int, multiple: int) -> None:
    """Check that `x` is (B, in_channels, H, W) with H and W divisible by `multiple`.

    Raises:
        UsageError: It is not; for a wrong size the message names the next valid one.
    """
    if x.dim() != 4 or x.shape[1] != in_channels:
        raise UsageError(
            f"The model takes images of shape (B, {in_channels}, H, W), got {tuple(x.shape)}."
        )
    height, width = x.shape[-2:]
    if height % multiple or width % multiple or not height or not width:
        valid = [max(1, math.ceil(side / multiple)) * multiple for side in (height, width)]
        raise UsageError(
            f"H and W must be divisible by {multiple}, got {height}×{width}: "
            f"resize or pad to {valid[0]}×{valid[1]}."
        )


def init_fan_out(module: nn.Module) -> None:
    """Initialize a convolution from a normal distribution with std √(2 / fan_out); for `apply`.

    2-D: fan_out counts one group, biases are 0. 1-D: fan_out counts all groups, biases keep torch's
    uniform start. Both as in the published code of MALUNet and EGE-UNet.
    """
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        fan_out = math.prod(module.kernel_size) * module.out_channels
        if isinstance(module, nn.Conv2d):
            fan_out //= module.groups
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
