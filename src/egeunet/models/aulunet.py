"""AULUNet: An Adaptive Ultra-Lightweight U-Net Framework for Efficient Skin Lesion Segmentation.

Rahman, Jung, Hammond. BMVC 2025.

Six levels of 5 … 60 channels. Every stage mixes a plain and a dilated depthwise convolution by a
gate from the global average; a global descriptor rescales the deepest map; a gate weights each
skip. One output, trained with cross-entropy + Dice. As in the published code, which averages to
pool and projects after upsampling.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.models.layers import check_input, conv_norm, resize
from egeunet.models.registry import register

WIDTHS = (5, 10, 15, 25, 35, 60)
MULTIPLE = 32


class AdaptiveKernelFusion(nn.Module):
    """AKF: a plain and a dilated depthwise convolution, weighted per channel, then a 1×1.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near, self.far = (
            nn.Conv2d(channels, channels, 3, padding=d, dilation=d, groups=channels, bias=False)
            for d in (1, 2)
        )
        self.gate = nn.Conv2d(channels, channels, 1)
        self.mix = _project(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        near, far = self.near(x), self.far(x)
        weight = torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))  # (B, C, 1, 1)
        return self.mix(weight * near + (1 - weight) * far)


class ResidualGlobalFusion(nn.Module):
    """RGF: channels rescaled by 1 ± a function of their global averages.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.describe = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + x * torch.tanh(self.describe(x.mean((2, 3), keepdim=True)))


class LightSkipGate(nn.Module):
    """LSG: add the encoder feature, weighted per pixel and channel from both features.

    Args:
        channels: C of both.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(*conv_norm(2 * channels, channels, bias=False), nn.Sigmoid())

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map the decoder and the encoder feature, both (B, C, H, W), to their sum."""
        return x + self.gate(torch.cat((x, skip), dim=1)) * skip


class AULUNet(nn.Module):
    """AULUNet.

    Args:
        in_channels: Channels of the image.
        num_classes: See `create_model`.
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 1) -> None:
        super().__init__()
        self.in_channels = in_channels
        levels = list(itertools.pairwise(WIDTHS))
        self.stem = nn.Sequential(
            *conv_norm(in_channels, WIDTHS[0], 3, bias=False),
            nn.ReLU(),
            AdaptiveKernelFusion(WIDTHS[0]),
        )
        self.encoder = nn.ModuleList(
            nn.Sequential(AdaptiveKernelFusion(shallow), _project(shallow, deep))
            for shallow, deep in levels
        )
        self.bottleneck = ResidualGlobalFusion(WIDTHS[-1])
        # From here on index 0 is the deepest level, in the order of the decoder.
        self.projections = nn.ModuleList(_project(deep, shallow) for shallow, deep in levels[::-1])
        self.gates = nn.ModuleList(LightSkipGate(shallow) for shallow, _ in levels[::-1])
        self.decoder = nn.ModuleList(AdaptiveKernelFusion(shallow) for shallow, _ in levels[::-1])
        self.head = nn.Conv2d(WIDTHS[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), H and W divisible by 32, to logits (B, num_classes, H, W)."""
        check_input(x, self.in_channels, MULTIPLE)
        x = self.stem(x)
        skips: list[Tensor] = []
        for encode in self.encoder:
            skips.append(x)
            x = encode(F.avg_pool2d(x, 2))
        x = self.bottleneck(x)  # (B, 60, H/32, W/32)
        for project, gate, decode in zip(self.projections, self.gates, self.decoder, strict=True):
            skip = skips.pop()
            x = decode(gate(project(resize(x, skip.shape[-2:])), skip))
        return self.head(x)


def _project(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(*conv_norm(in_channels, out_channels, bias=False), nn.ReLU())


register("aulunet", AULUNet, paper="Rahman et al., AULUNet, BMVC 2025", licence="no licence")
