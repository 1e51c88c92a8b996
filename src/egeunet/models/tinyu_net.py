"""TinyU-Net: Lighter Yet Better U-Net with Cascaded Multi-receptive Fields.

Chen, Chen, Wang, Cheng, Zhang, Chen. MICCAI 2024, LNCS 15009.

Four levels of 64 … 512 channels, each one block of cascaded depthwise convolutions on a sixteenth
of the channels. As in the published code, the deepest pooled map enters the decoder without a block
of its own, upsampling is bicubic, and a batch norm follows every convolution. One output.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.models.layers import check_input
from egeunet.models.registry import register

WIDTHS = (64, 128, 256, 512)
FIELDS = 8
MULTIPLE = 16


class CascadedFields(nn.Module):
    """CMRF, cascaded multi-receptive fields: seven depthwise 3×3 in a row, all kept.

    Args:
        in_channels: C_in.
        out_channels: C_out, divisible by 16.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        field = out_channels // (2 * FIELDS)
        self.narrow = nn.Sequential(*_conv(in_channels, 2 * field), nn.GELU())
        self.cascade = nn.ModuleList(_conv(field, field, 3, field) for _ in range(FIELDS - 1))
        self.mix = nn.Sequential(*_conv(FIELDS * field, out_channels), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        even, odd = self.narrow(x).unflatten(1, (-1, 2)).unbind(2)  # (B, C_out/16, H, W) each
        fields = [even + odd]
        x = odd
        for conv in self.cascade:
            x = conv(x)
            fields.append(x)
        return self.mix(torch.cat(fields, dim=1))


class TinyUNet(nn.Module):
    """TinyU-Net.

    Args:
        in_channels: Channels of the image.
        num_classes: See `create_model`.
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 1) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.encoder = nn.ModuleList(
            CascadedFields(*pair) for pair in itertools.pairwise((in_channels, *WIDTHS))
        )
        # Index 0 is the deepest level, in the order of the decoder.
        self.decoder = nn.ModuleList(
            CascadedFields(deep + skip, skip)
            for deep, skip in itertools.pairwise((WIDTHS[-1], *WIDTHS[::-1]))
        )
        self.head = nn.Conv2d(WIDTHS[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), H and W divisible by 16, to logits (B, num_classes, H, W)."""
        check_input(x, self.in_channels, MULTIPLE)
        skips: list[Tensor] = []
        for encode in self.encoder:
            skips.append(encode(x))
            x = F.max_pool2d(skips[-1], 2)  # at last (B, 512, H/16, W/16)
        for decode in self.decoder:
            x = F.interpolate(x, scale_factor=2.0, mode="bicubic", align_corners=False)
            x = decode(torch.cat((x, skips.pop()), dim=1))
        return self.head(x)


def _conv(in_channels: int, out_channels: int, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03),
    )


register("tinyu_net", TinyUNet, paper="Chen et al., TinyU-Net, MICCAI 2024", licence="MIT")
