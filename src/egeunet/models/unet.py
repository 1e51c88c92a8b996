"""U-Net: Convolutional Networks for Biomedical Image Segmentation.

Ronneberger, Fischer, Brox. MICCAI 2015, arXiv 1505.04597.

This is the form that segmentation papers compare with, EGE-UNet's Table 1 included. It differs from
the text: half the widths, padded convolutions (the mask has the size of the image), batch
normalization after every convolution, the upsampling ones included, and no dropout.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.errors import UsageError
from egeunet.models.layers import check_input, conv_norm
from egeunet.models.registry import register

WIDTHS = (32, 64, 128, 256, 512)


class DoubleConv(nn.Sequential):
    """Twice conv3×3 → batch norm → ReLU, from (B, C_in, H, W) to (B, C_out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            *conv_norm(in_channels, out_channels, 3),
            nn.ReLU(),
            *conv_norm(out_channels, out_channels, 3),
            nn.ReLU(),
        )


class UNet(nn.Module):
    """U-Net with batch normalization and padded convolutions.

    Args:
        in_channels: Channels of the image.
        num_classes: See `create_model`.
        widths: Channels of the levels from the image down; n of them halve the image n - 1 times.
    """

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1, widths: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.multiple = size_multiple(widths)
        levels = list(itertools.pairwise(widths))  # (C, C of the next deeper level)
        self.encoder = nn.ModuleList(
            DoubleConv(*pair) for pair in itertools.pairwise((in_channels, *widths))
        )
        # From here on index 0 is the deepest level, in the order of the decoder.
        self.ups = nn.ModuleList(_upsample(deep, shallow) for shallow, deep in levels[::-1])
        self.decoder = nn.ModuleList(
            DoubleConv(2 * shallow, shallow) for shallow, _ in levels[::-1]
        )
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), H and W divisible by 16, to logits (B, num_classes, H, W)."""
        check_input(x, self.in_channels, self.multiple)
        skips = encode(self.encoder, x)
        x = skips.pop()  # (B, C5, H/16, W/16)
        for up, decode in zip(self.ups, self.decoder, strict=True):
            x = decode(torch.cat((skips.pop(), up(x)), dim=1))  # (B, C, 2h, 2w)
        return self.head(x)


def encode(levels: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """Return the features of all levels; a 2×2 max-pooling stands between two levels."""
    features: list[Tensor] = []
    for level in levels:
        x = level(F.max_pool2d(x, 2) if features else x)
        features.append(x)
    return features


def size_multiple(widths: Sequence[int]) -> int:
    """Return the number that H and W must be divisible by, given one width per level.

    Raises:
        UsageError: Fewer than two widths, or one below 2.
    """
    if len(widths) < 2 or any(width < 2 for width in widths):
        raise UsageError(f"A UNet takes two or more widths, each at least 2, got {list(widths)}.")
    return 2 ** (len(widths) - 1)


def _upsample(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


register(
    "unet",
    UNet,
    paper="Ronneberger et al., U-Net, MICCAI 2015",
    arxiv="1505.04597",
    table=("7.77", "13.76"),
)
