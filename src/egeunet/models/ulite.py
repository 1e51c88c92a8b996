"""U-Lite: a U-Net of axial depthwise convolutions.

Dinh, Nguyen, Tran, Pham. 1M Parameters Are Enough? A Lightweight CNN-Based Model for Medical Image
Segmentation. APSIPA ASC 2023, arXiv 2306.16103.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.models.layers import check_input
from egeunet.models.registry import register

WIDTHS = (16, 32, 64, 128, 256, 512)
MULTIPLE = 32


class AxialDepthwise(nn.Module):
    """x + a depthwise convolution along the height + one along the width (paper, section II).

    Args:
        channels: C.
        kernel: Length of both convolutions, odd.
        dilation: Dilation of both.
    """

    def __init__(self, channels: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        reach = kernel // 2 * dilation
        self.tall, self.wide = (
            nn.Conv2d(channels, channels, size, padding=pad, dilation=dilation, groups=channels)
            for size, pad in (((kernel, 1), (reach, 0)), ((1, kernel), (0, reach)))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.tall(x) + self.wide(x)


class ULite(nn.Module):
    """U-Lite: five levels of an axial convolution of length 7 and a 1×1 convolution on each side.

    Args:
        in_channels: Channels of the image.
        num_classes: See `create_model`.
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 1) -> None:
        super().__init__()
        self.in_channels = in_channels
        levels = list(itertools.pairwise(WIDTHS))
        self.stem = nn.Conv2d(in_channels, WIDTHS[0], 7, padding=3)
        self.encoder = nn.ModuleList(_EncoderStage(*level) for level in levels)
        self.bottleneck = _Bottleneck(WIDTHS[-1])
        # Index 0 is the deepest level, in the order of the decoder.
        self.decoder = nn.ModuleList(_DecoderStage(deep, skip) for skip, deep in levels[::-1])
        self.head = nn.Conv2d(WIDTHS[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), H and W divisible by 32, to logits (B, num_classes, H, W)."""
        check_input(x, self.in_channels, MULTIPLE)
        x = self.stem(x)
        skips: list[Tensor] = []
        for encode in self.encoder:
            x, skip = encode(x)
            skips.append(skip)
        x = self.bottleneck(x)  # (B, 512, H/32, W/32)
        for decode in self.decoder:
            x = decode(x, skips.pop())
        return self.head(x)


class _EncoderStage(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(AxialDepthwise(in_channels, 7), nn.BatchNorm2d(in_channels))
        self.widen = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.mix(x)
        return F.gelu(F.max_pool2d(self.widen(skip), 2)), skip


class _Bottleneck(nn.Module):
    """Three parallel dilated axial convolutions on a quarter of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, channels // 4, 1)
        self.branches = nn.ModuleList(AxialDepthwise(channels // 4, 3, d) for d in (1, 2, 3))
        self.norm = nn.BatchNorm2d(channels)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x)
        x = torch.cat((x, *(branch(x) for branch in self.branches)), dim=1)
        return F.gelu(self.mix(self.norm(x)))


class _DecoderStage(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(in_channels + out_channels, out_channels, 1),
            nn.BatchNorm2d(out_channels),
            AxialDepthwise(out_channels, 7),
            nn.Conv2d(out_channels, out_channels, 1),
            nn.GELU(),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.block(torch.cat((x, skip), dim=1))


register(
    "ulite",
    ULite,
    paper="Dinh et al., U-Lite, APSIPA ASC 2023",
    arxiv="2306.16103",
    licence="no licence",
)
