"""LB-UNet: A Lightweight Boundary-assisted UNet for Skin Lesion Segmentation.

Xu, Tong. MICCAI 2024.

The stages of EGE-UNet, 8 … 64 channels; the deep ones multiply four channel groups by learned
tensors and shuffle them. Each decoder level predicts a mask, the three shallow ones also a boundary
map; they amplify the decoder feature and the skip.

The five masks are supervised as those of EGE-UNet. The paper supervises the boundary maps too, with
targets that a genetic algorithm draws from every mask beforehand, weighted 0.1, 0.2, 0.3; here they
learn from the masks alone. Its loss weights Dice twice as much as cross-entropy.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from egeunet.models.layers import (
    GELU,
    ChannelLayerNorm,
    check_input,
    conv3x3,
    foreground_logit,
    gelu,
    init_fan_out,
    resize,
    separable,
)
from egeunet.models.registry import register

WIDTHS = (8, 16, 24, 32, 48, 64)
GROUPS = 4
ORDER = (1, 3, 0, 2)  # of the groups after a block
MASK_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5)  # of a skip, deepest level first
BOUNDARY_WEIGHTS = (0.1, 0.2, 0.3)  # of a skip, from the third level on
MULTIPLE = 32


class GroupShuffle(nn.Module):
    """Group shuffle attention: four channel groups, each times a learned map, then shuffled.

    Args:
        in_channels: C_in, divisible by 4.
        out_channels: C_out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        group = in_channels // GROUPS
        self.norm = ChannelLayerNorm(in_channels)
        self.tensors = nn.ParameterList(torch.ones(1, group, 8, 8) for _ in range(GROUPS))
        self.refine = nn.ModuleList(separable(group, group, GELU()) for _ in range(GROUPS))
        self.mix = nn.Sequential(
            ChannelLayerNorm(in_channels), *separable(in_channels, out_channels, GELU())
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        triples = zip(self.norm(x).chunk(GROUPS, dim=1), self.tensors, self.refine, strict=True)
        groups = [part * refine(resize(t, x.shape[-2:])) for part, t, refine in triples]
        return self.mix(torch.cat([groups[i] for i in ORDER], dim=1))


class ConvMLP(nn.Sequential):
    """Depthwise 7×7 with reflected borders, then a bottleneck four times as wide.

    From (B, C, H, W) to the same shape; H and W are at least 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels, padding_mode="reflect"),
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, 4 * channels, 1),
            GELU(),
            nn.Conv2d(4 * channels, channels, 1),
            nn.BatchNorm2d(channels),
            GELU(),
        )


class LBUNet(nn.Module):
    """LB-UNet.

    Args:
        in_channels: Channels of the image.
        num_classes: See `create_model`.
        deep_supervision: Return the mask logits of the five decoder levels too in training mode.
            They guide the skips either way.
    """

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1, deep_supervision: bool = True
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.deep_supervision = deep_supervision
        levels = list(itertools.pairwise(WIDTHS))  # (C, C of the next deeper level)
        first, second, third, fourth, fifth, _ = WIDTHS
        self.encoder = nn.ModuleList(
            (
                nn.Sequential(conv3x3(in_channels, first), *_down(first)),
                nn.Sequential(conv3x3(first, second), *_down(second)),
                nn.Sequential(conv3x3(second, third), ConvMLP(third), *_down(third)),
                nn.Sequential(GroupShuffle(third, fourth), *_pool(fourth)),
                nn.Sequential(GroupShuffle(fourth, fifth), *_pool(fifth)),
            )
        )
        self.bottleneck = GroupShuffle(*levels[-1])
        # From here on index 0 is the deepest level, in the order of the decoder.
        blocks = [GroupShuffle, GroupShuffle, GroupShuffle, conv3x3, conv3x3]
        self.decoder = nn.ModuleList(
            nn.Sequential(build(deep, shallow), nn.GroupNorm(GROUPS, shallow))
            for build, (shallow, deep) in zip(blocks, levels[::-1], strict=True)
        )
        self.mask_heads = nn.ModuleList(
            nn.Conv2d(shallow, num_classes, 1) for shallow, _ in levels[::-1]
        )
        self.boundary_heads = nn.ModuleList(
            nn.Conv2d(width, 1, 1) for width in (third, second, first)
        )
        self.head = nn.Conv2d(first, num_classes, 1)
        self.apply(init_fan_out)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """Map images (B, C, H, W), H and W divisible by 32, to logits (B, num_classes, H, W).

        In training mode with deep supervision: `(logits, (stage5, …, stage1))`, the mask logits
        of the decoder levels from the deepest on, each upsampled to (B, num_classes, H, W).
        """
        check_input(x, self.in_channels, MULTIPLE)
        size = x.shape[-2:]
        skips: list[Tensor] = []
        for encode in self.encoder:
            x = gelu(encode(x))  # (B, C1, H/2, W/2) … (B, C5, H/32, W/32)
            skips.append(x)
        x = gelu(self.bottleneck(x))  # (B, C6, H/32, W/32)

        stages: list[Tensor] = []
        for level, decode in enumerate(self.decoder):
            skip = skips.pop()
            x = gelu(resize(decode(x), skip.shape[-2:]))
            stages.append(self.mask_heads[level](x))
            mask = torch.sigmoid(foreground_logit(stages[-1]))
            gain, skip_gain = 1 + mask, 1 + MASK_WEIGHTS[level] * mask
            if (shallow := level - 2) >= 0:
                boundary = torch.sigmoid(self.boundary_heads[shallow](x))
                gain = gain + boundary
                skip_gain = skip_gain + BOUNDARY_WEIGHTS[shallow] * boundary
            x = x * gain + skip * skip_gain
        logits = resize(self.head(x), size)
        if self.training and self.deep_supervision:
            return logits, tuple(resize(stage, size) for stage in stages)
        return logits


def _down(channels: int) -> Sequence[nn.Module]:
    """Normalize and halve height and width by a convolution."""
    return (
        nn.GroupNorm(GROUPS, channels),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, channels, 2, stride=2),
    )


def _pool(channels: int) -> Sequence[nn.Module]:
    return nn.GroupNorm(GROUPS, channels), nn.MaxPool2d(2)


register("lb_unet", LBUNet, paper="Xu & Tong, LB-UNet, MICCAI 2024", licence="no licence")
