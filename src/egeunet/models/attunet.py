"""Attention U-Net: Learning Where to Look for the Pancreas.

Oktay, Schlemper, Le Folgoc et al. MIDL 2018, arXiv 1804.03999.

A gate on every skip multiplies each pixel of the encoder feature by a weight in 0…1, computed from
it and the decoder feature of the same level.

Differs from the text, as the widely used code does (at half its widths): two dimensions; the gating
signal is the upsampled decoder feature, at the resolution of the skip; the finest skip is gated
too; no deep supervision; batch normalization in the gate.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from egeunet.models.layers import check_input, conv_norm
from egeunet.models.registry import register
from egeunet.models.unet import WIDTHS, UNet, encode


class AttentionGate(nn.Module):
    """Additive attention on a skip connection.

    Args:
        channels: C of the skip and of the gating signal; the gate works in C // 2 channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = conv_norm(channels, channels // 2)
        self.skip = conv_norm(channels, channels // 2)
        self.attention = conv_norm(channels // 2, 1)

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """Return the skip (B, C, H, W) times an attention map (B, 1, H, W) in 0…1."""
        query = torch.relu(self.gate(gate) + self.skip(skip))
        return skip * torch.sigmoid(self.attention(query))


class AttentionUNet(UNet):
    """UNet with nearest-neighbor upsampling and gated skips; see `UNet` for the arguments."""

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1, widths: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes, widths=widths)
        levels = list(itertools.pairwise(widths))[::-1]  # (C, C of the next deeper level)
        self.ups = nn.ModuleList(_upsample(deep, shallow) for shallow, deep in levels)
        self.gates = nn.ModuleList(AttentionGate(shallow) for shallow, _ in levels)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), H and W divisible by 16, to logits (B, num_classes, H, W)."""
        check_input(x, self.in_channels, self.multiple)
        skips = encode(self.encoder, x)
        x = skips.pop()  # (B, C5, H/16, W/16)
        for up, gate, decode in zip(self.ups, self.gates, self.decoder, strict=True):
            x = up(x)  # (B, C, 2h, 2w)
            x = decode(torch.cat((gate(x, skips.pop()), x), dim=1))
        return self.head(x)


def _upsample(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2),  # nearest
        *conv_norm(in_channels, out_channels, 3),
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
