"""UNet++: A Nested U-Net Architecture for Medical Image Segmentation.

Zhou, Siddiquee, Tajbakhsh, Liang. DLMIA 2018, arXiv 1807.10165.

The skips of a U-Net are filled with convolution nodes X(i, j): node j on level i takes all earlier
nodes of its level and the next deeper level's node j - 1. So U-Nets of every depth share one
encoder; X(0, 1) … X(0, 4) are their outputs.

Differs from the text, as the widely used code does: batch normalization after every convolution, no
dropout, and the prediction is that of X(0, 4), not the mean of all outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from egeunet.models.layers import check_input, resize
from egeunet.models.registry import register
from egeunet.models.unet import WIDTHS, DoubleConv, encode, size_multiple


class UNetPlusPlus(nn.Module):
    """UNet++.

    Args:
        in_channels: Channels of the image.
        num_classes: See `create_model`.
        widths: Channels of the levels from the image down; n of them halve the image n - 1 times.
        deep_supervision: Give the shallower U-Nets, X(0, 1) … X(0, n - 2), their own heads and
            return their logits too in training mode.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        widths: Sequence[int] = WIDTHS,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.multiple = size_multiple(widths)
        self.encoder = nn.ModuleList(
            DoubleConv(*pair) for pair in itertools.pairwise((in_channels, *widths))
        )
        self.depth = len(widths)
        self.nodes = nn.ModuleDict(
            {
                f"{i}_{j}": DoubleConv(j * widths[i] + widths[i + 1], widths[i])
                for i, j in self._grid()
            }
        )
        self.head = nn.Conv2d(widths[0], num_classes, 1)
        self.extra_heads = nn.ModuleList(
            nn.Conv2d(widths[0], num_classes, 1) for _ in range(self.depth - 2) if deep_supervision
        )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """Map images (B, C, H, W), H and W divisible by 16, to logits (B, num_classes, H, W).

        In training mode with deep supervision: `(logits, (X(0, 1), X(0, 2), X(0, 3)))`, the logits
        of the shallower U-Nets, each (B, num_classes, H, W).
        """
        check_input(x, self.in_channels, self.multiple)
        rows = [[feature] for feature in encode(self.encoder, x)]  # rows[i] = X(i, 0), X(i, 1), …
        for i, j in self._grid():
            up = resize(rows[i + 1][j - 1], rows[i][0].shape[-2:])
            rows[i].append(self.nodes[f"{i}_{j}"](torch.cat((*rows[i], up), dim=1)))
        _, *shallower, last = rows[0]
        logits = self.head(last)
        if self.training and self.extra_heads:
            extra = zip(self.extra_heads, shallower, strict=True)
            return logits, tuple(head(feature) for head, feature in extra)
        return logits

    def _grid(self) -> list[tuple[int, int]]:
        """The nodes (i, j) in the order of computation."""
        return [(i, j) for j in range(1, self.depth) for i in range(self.depth - j)]


register(
    "unetpp",
    UNetPlusPlus,
    paper="Zhou et al., UNet++, DLMIA 2018",
    arxiv="1807.10165",
    licence="MIT",
    table=("9.16", "34.86"),
)
