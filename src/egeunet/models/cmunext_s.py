"""CMUNeXt: An Efficient Medical Image Segmentation Network Based on Large Kernel and Skip Fusion.

Tang, Ding, Quan, Wang, Ning, Zhou. ISBI 2024, arXiv 2308.01239. The small variant CMUNeXt-S.

Five levels of 8 … 128 channels. Each encoder block mixes space by a large depthwise kernel and
channels by an inverted bottleneck; a skip is fused by a 3×3 convolution in two groups, one of the
encoder and one of the decoder, and an inverted bottleneck. One output, which its authors train with
cross-entropy + Dice and SGD at a learning rate of 0.01.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.models.layers import check_input, conv_norm, upsample
from egeunet.models.registry import register

WIDTHS = (8, 16, 32, 64, 128)
KERNELS = (3, 3, 7, 7, 9)
EXPANSION = 4
MULTIPLE = 16


class CMUNeXtBlock(nn.Module):
    """Large depthwise kernel with a residual, inverted bottleneck, then a 3×3 that widens.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel: Side of the depthwise kernel, odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = _conv_gelu(in_channels, in_channels, kernel, groups=in_channels)
        self.mix = _bottleneck(in_channels, EXPANSION * in_channels, in_channels)
        self.widen = _conv3x3(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        return self.widen(self.mix(x + self.depthwise(x)))


class SkipFusion(nn.Module):
    """Fuse encoder and decoder feature: 3×3 in two groups, then an inverted bottleneck.

    Args:
        channels: C of both and of the result.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        both = 2 * channels
        self.groups = _conv_gelu(both, both, 3, groups=2)
        self.mix = _bottleneck(both, EXPANSION * channels, channels)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Map both, (B, C, H, W) each, to (B, C, H, W)."""
        return self.mix(self.groups(torch.cat((skip, x), dim=1)))


class CMUNeXtS(nn.Module):
    """CMUNeXt-S.

    Args:
        in_channels: Channels of the image.
        num_classes: See `create_model`.
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 1) -> None:
        super().__init__()
        self.in_channels = in_channels
        levels = list(itertools.pairwise(WIDTHS))
        self.stem = _conv3x3(in_channels, WIDTHS[0])
        self.encoder = nn.ModuleList(
            CMUNeXtBlock(*pair, kernel)
            for pair, kernel in zip([(WIDTHS[0], WIDTHS[0]), *levels], KERNELS, strict=True)
        )
        # From here on index 0 is the deepest level, in the order of the decoder.
        self.ups = nn.ModuleList(_conv3x3(deep, shallow) for shallow, deep in levels[::-1])
        self.fusions = nn.ModuleList(SkipFusion(shallow) for shallow, _ in levels[::-1])
        self.head = nn.Conv2d(WIDTHS[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), H and W divisible by 16, to logits (B, num_classes, H, W)."""
        check_input(x, self.in_channels, MULTIPLE)
        x = self.stem(x)
        skips: list[Tensor] = []
        for level, encode in enumerate(self.encoder):
            x = encode(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        x = skips.pop()  # (B, 128, H/16, W/16)
        for up, fuse in zip(self.ups, self.fusions, strict=True):
            x = fuse(skips.pop(), up(upsample(x)))
        return self.head(x)


def _conv3x3(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(*conv_norm(in_channels, out_channels, 3), nn.ReLU())


def _conv_gelu(
    in_channels: int, out_channels: int, kernel: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution → GELU → batch normalization."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups),
        nn.GELU(),
        nn.BatchNorm2d(out_channels),
    )


def _bottleneck(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    """Two 1×1 convolutions, each followed by GELU and batch normalization."""
    return nn.Sequential(*_conv_gelu(in_channels, hidden), *_conv_gelu(hidden, out_channels))


register(
    "cmunext_s",
    CMUNeXtS,
    paper="Tang et al., CMUNeXt, ISBI 2024",
    arxiv="2308.01239",
    licence="MIT",
)
