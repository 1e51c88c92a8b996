"""Attention U-Net: learning where to look for the pancreas.

Oktay, Schlemper, Le Folgoc et al. MIDL 2018, arXiv 1804.03999.

A gate on every skip multiplies each pixel of the encoder feature by a number in 0…1 that the
decoder feature of the same level decides.

Differs from the text, as the widely used code does (halved widths): two dimensions instead of
three; the gating signal is the upsampled decoder feature, at the resolution of the skip, instead of
the coarser one; the finest skip is gated too; no deep supervision; batch normalisation in the gate.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from egeunet.models.layers import check_input
from egeunet.models.registry import register
from egeunet.models.unet import WIDTHS, DoubleConv, encode, size_multiple


class AttentionGate(nn.Module):
    """Additive attention on a skip connection.

    Args:
        channels: C of both the skip and the gating signal; the gate works in C // 2 channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = _conv1x1(channels, channels // 2)
        self.skip = _conv1x1(channels, channels // 2)
        self.attention = _conv1x1(channels // 2, 1)

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """Return the skip, (B, C, H, W), times an attention map (B, 1, H, W) in 0…1."""
        query = torch.relu(self.gate(gate) + self.skip(skip))
        return skip * torch.sigmoid(self.attention(query))


class AttentionUNet(nn.Module):
    """Attention U-Net.

    Args:
        in_channels: Channels of the image.
        num_classes: 1 for one foreground logit, K > 1 for K classes with background 0.
        widths: Channels of the levels from the image down; n of them halve the image n - 1 times.
            The widely used code has twice the default.
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
        # From here on index 0 is the deepest level, the order in which the decoder runs.
        self.ups = nn.ModuleList(_upsample(deep, shallow) for shallow, deep in levels[::-1])
        self.gates = nn.ModuleList(AttentionGate(shallow) for shallow, _ in levels[::-1])
        self.decoder = nn.ModuleList(
            DoubleConv(2 * shallow, shallow) for shallow, _ in levels[::-1]
        )
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), H and W divisible by 16, to logits (B, num_classes, H, W)."""
        check_input(x, self.in_channels, self.multiple)
        skips = encode(self.encoder, x)
        x = skips.pop()  # (B, C5, H/16, W/16)
        for up, gate, decode in zip(self.ups, self.gates, self.decoder, strict=True):
            x = up(x)
            x = decode(torch.cat((gate(x, skips.pop()), x), dim=1))
        return self.head(x)


def _conv1x1(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))


def _upsample(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2),  # nearest
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


register(
    "attunet",
    AttentionUNet,
    paper="Oktay et al., Attention U-Net, MIDL 2018",
    arxiv="1804.03999",
    licence="no licence",
    table=("8.73", "16.71"),
)
