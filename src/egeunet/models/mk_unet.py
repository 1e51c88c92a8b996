"""MK-UNet: Multi-kernel Lightweight CNN for Medical Image Segmentation, in three sizes.

Rahman, Marculescu. ICCV 2025 workshop CVAMD, arXiv 2509.18493.

Five stages of inverted residuals with parallel depthwise kernels 1, 3 and 5. Channel and spatial
attention precede each decoder stage; a grouped attention gate weights each skip. The published
network owns three more mask heads than the one it returns, and published parameter counts include
them; here they are supervised outputs in training mode.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.errors import UsageError
from egeunet.models.layers import check_input, conv_norm, upsample
from egeunet.models.registry import register

KERNELS = (1, 3, 5)
EXPANSION = 2
MULTIPLE = 32


class MultiKernelBlock(nn.Module):
    """Multi-kernel inverted residual (paper, section 3): widen, mix in space, narrow, add.

    Args:
        in_channels: C_in.
        out_channels: C_out; if different, the residual passes a 1×1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        wide = in_channels * EXPANSION
        self.widen = nn.Sequential(conv_norm(in_channels, wide, bias=False), nn.ReLU6())
        self.depthwise = nn.ModuleList(
            nn.Sequential(conv_norm(wide, wide, kernel, groups=wide, bias=False), nn.ReLU6())
            for kernel in KERNELS
        )
        self.shuffle_groups = math.gcd(wide, out_channels)
        self.narrow = conv_norm(wide, out_channels, bias=False)
        self.residual = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        wide = self.widen(x)
        mixed = torch.stack([conv(wide) for conv in self.depthwise]).sum(0)
        shuffled = mixed.unflatten(1, (self.shuffle_groups, -1)).transpose(1, 2).flatten(1, 2)
        return self.residual(x) + self.narrow(shuffled)


class ChannelAttention(nn.Module):
    """Channel attention from averages and maxima over the image (Woo et al. 2018, CBAM).

    Args:
        channels: C.
        reduction: The hidden layer has C / reduction units, at least 1.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        pooled = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        average, maximum = (self.excite(F.relu(self.squeeze(seen))) for seen in pooled)
        return x * torch.sigmoid(average + maximum)


class SpatialAttention(nn.Module):
    """Pixel attention from averages and maxima over the channels (Woo et al. 2018, CBAM)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        seen = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.conv(seen))


class GroupedAttentionGate(nn.Module):
    """Gate on a skip: pixel weights from it and the decoder feature by grouped 3×3 convolutions.

    Args:
        channels: C of both, even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.gate = conv_norm(channels, half, 3, groups=half)
        self.skip = conv_norm(channels, half, 3, groups=half)
        self.weigh = nn.Sequential(nn.ReLU(), conv_norm(half, 1), nn.Sigmoid())

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map the decoder feature x and the skip, both (B, C, H, W), to the weighted skip."""
        return skip * self.weigh(self.gate(x) + self.skip(skip))


class MKUNet(nn.Module):
    """MK-UNet.

    Args:
        in_channels: Channels of the image.
        num_classes: See `create_model`.
        widths: Channels of the five stages, each even.
        deep_supervision: Return the mask logits at 1/8, 1/4 and 1/2 too in training mode.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        widths: Sequence[int] = (16, 32, 64, 96, 160),
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        if len(widths) != 5 or any(width < 2 or width % 2 for width in widths):
            raise UsageError(f"MK-UNet takes five widths, each even, got {list(widths)}.")
        self.in_channels = in_channels
        self.encoder = nn.ModuleList(
            MultiKernelBlock(*pair) for pair in itertools.pairwise((in_channels, *widths))
        )
        # From here on index 0 is the deepest level, the order in which the decoder runs.
        deep, shallow = widths[::-1], (*widths[-2::-1], widths[0])
        self.channel_attention = nn.ModuleList(
            ChannelAttention(*pair) for pair in zip(deep, (16, 16, 16, 8, 4), strict=True)
        )
        self.spatial_attention = SpatialAttention()  # one, shared by all levels
        self.decoder = nn.ModuleList(
            MultiKernelBlock(*pair) for pair in zip(deep, shallow, strict=True)
        )
        self.gates = nn.ModuleList(GroupedAttentionGate(width) for width in shallow[:-1])
        self.apply(_init)
        self.mask_heads = nn.ModuleList(
            nn.Conv2d(width, num_classes, 1) for width in shallow[1:-1] if deep_supervision
        )
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """Map images (B, C, H, W), H and W divisible by 32, to logits (B, num_classes, H, W).

        In training mode with deep supervision: `(logits, (stage3, stage2, stage1))`, the mask
        logits from the deepest on, each upsampled to (B, num_classes, H, W).
        """
        check_input(x, self.in_channels, MULTIPLE)
        skips: list[Tensor] = []
        for encode in self.encoder:
            x = F.max_pool2d(encode(x), 2)
            skips.append(x)
        skips.pop()  # the deepest, (B, C5, H/32, W/32), is x itself

        stages: list[Tensor] = []
        for level, decode in enumerate(self.decoder):
            x = self.spatial_attention(self.channel_attention[level](x))
            x = F.relu(upsample(decode(x)))
            if self.training and self.mask_heads and 1 <= level <= 3:
                stages.append(upsample(self.mask_heads[level - 1](x), 2 ** (4 - level)))
            if skips:
                x = x + self.gates[level](x, skips.pop())
        logits = self.head(x)
        return (logits, tuple(stages)) if stages else logits


def _init(module: nn.Module) -> None:
    """Initialize weights from a normal distribution with std 0.02, as published; biases 0.

    Weights before the ReLU of a channel attention start positive, like most of their input:
    otherwise its few units, one in the small sizes, would often be dead from the start.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ChannelAttention):
        with torch.no_grad():
            module.squeeze.weight.abs_()


for _name, _widths in {
    "mk_unet_t": (4, 8, 16, 24, 32),
    "mk_unet_s": (8, 16, 32, 48, 80),
    "mk_unet": (16, 32, 64, 96, 160),
}.items():
    register(
        _name,
        functools.partial(MKUNet, widths=_widths),
        paper="Rahman & Marculescu, MK-UNet, ICCV 2025 workshops",
        arxiv="2509.18493",
        licence="BSD-3-Clause",
    )
