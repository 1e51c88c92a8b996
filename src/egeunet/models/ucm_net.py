"""UCM-Net: A Lightweight and Efficient Solution for Skin Lesion Segmentation using MLP and CNN.

Yuan, Zhao, Agaian. Biomedical Signal Processing and Control 96, 2024, arXiv 2310.09457.

Six levels of 8 … 64 channels: one convolution, then blocks of two linear layers and two depthwise
convolutions. Five masks of the decoder are supervised with the weights of EGE-UNet; the paper's
loss of each is cross-entropy + a Dice of squared sums.

As in the published code: the residual of a block is its normalized input, through which no gradient
flows, and the block returns twice the sum; maps are normalized over the pixels of each channel
before a depthwise convolution, whose own scale and shift (`UNREACHED`) have no effect and are kept
because published counts include them; the last convolution has three channels.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.models.layers import ChannelLayerNorm, check_input, init_fan_out, resize, upsample
from egeunet.models.registry import register

WIDTHS = (8, 16, 24, 32, 48, 64)
LAST = 3  # channels before the head
GROUPS = 4
EPS = 1e-5  # of the layer norms
MULTIPLE = 32


class NormalizedDepthwise(nn.Module):
    """Depthwise 3×3 of a map whose channels have mean 0 and variance 1 over the pixels.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.unused_scale = nn.Parameter(torch.ones(channels))
        self.unused_shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.conv(F.layer_norm(x, x.shape[-2:]))


class UCMBlock(nn.Module):
    """UCM block: linear → depthwise → GELU → linear → depthwise, and its normalized input.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelLayerNorm(channels, eps=EPS)
        first, second = (nn.Conv2d(channels, channels, 1) for _ in range(2))
        self.mlp = nn.Sequential(
            first, NormalizedDepthwise(channels), nn.GELU(), second, NormalizedDepthwise(channels)
        )
        self.apply(init_fan_out)
        for linear in (first, second):
            nn.init.trunc_normal_(linear.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = self.norm(x)
        return 2 * (self.mlp(x) + x.detach())


class UCMNet(nn.Module):
    """UCM-Net.

    Args:
        in_channels: Channels of the image.
        num_classes: See `create_model`.
        deep_supervision: Return the mask logits of the five decoder levels too in training mode.
    """

    UNREACHED: ClassVar[frozenset[str]] = frozenset(
        f"{block.format(level)}.mlp.{layer}.unused_{what}"
        for block in ("encoder.{}.2", "decoder.{}.0")
        for level in range(len(WIDTHS) - 1)
        for layer in (1, 4)
        for what in ("scale", "shift")
    )

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1, deep_supervision: bool = True
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        levels = list(itertools.pairwise(WIDTHS))
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1), nn.GroupNorm(GROUPS, WIDTHS[0])
        )
        self.encoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(shallow, deep, 1, stride=2),
                ChannelLayerNorm(deep, eps=EPS),
                *_block(deep),
            )
            for shallow, deep in levels
        )
        # From here on index 0 is the deepest level, in the order of the decoder.
        self.narrow = nn.ModuleList(
            nn.Sequential(nn.Conv2d(deep, shallow, 1), nn.GroupNorm(GROUPS, shallow))
            for shallow, deep in levels[::-1]
        )
        self.mask_heads = nn.ModuleList(
            nn.Conv2d(shallow, num_classes, 1) for shallow, _ in levels[::-1] if deep_supervision
        )
        self.decoder = nn.ModuleList(_block(shallow) for shallow, _ in levels[::-1])
        self.last = nn.Conv2d(WIDTHS[0], LAST, 1)
        self.head = nn.Conv2d(LAST, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """Map images (B, C, H, W), H and W divisible by 32, to logits (B, num_classes, H, W).

        In training mode with deep supervision: `(logits, (stage5, …, stage1))`, the mask logits
        of the decoder levels from the deepest on, each upsampled to (B, num_classes, H, W).
        """
        check_input(x, self.in_channels, MULTIPLE)
        size = x.shape[-2:]
        x = F.relu(F.max_pool2d(self.stem(x), 2))
        skips: list[Tensor] = []
        for encode in self.encoder:
            skips.append(x)  # (B, C1, H/2, W/2) … (B, C5, H/32, W/32)
            x = encode(x)

        stages: list[Tensor] = []
        for level, decode in enumerate(self.decoder):
            skip = skips.pop()
            # Twice the size of x, but for odd sizes.
            x = F.interpolate(self.narrow[level](x), size=skip.shape[-2:], mode="bilinear")
            x = F.relu(x) + skip
            if self.training and self.mask_heads:
                stages.append(resize(self.mask_heads[level](x), size))
            x = decode(x)
        logits = self.head(F.relu(upsample(self.last(x))))
        return (logits, tuple(stages)) if stages else logits


def _block(channels: int) -> nn.Sequential:
    return nn.Sequential(UCMBlock(channels), ChannelLayerNorm(channels, eps=EPS))


register(
    "ucm_net",
    UCMNet,
    paper="Yuan et al., UCM-Net, Biomed. Signal Process. Control 2024",
    arxiv="2310.09457",
    licence="Apache-2.0",
)
