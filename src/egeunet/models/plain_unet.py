"""A timm backbone with a plain decoder: what the mobile networks of Table 1 have in common.

The EGE-UNet paper gives the cost of its two mobile comparators, not their decoder. This one, made
of EGE-UNet's own plain parts, is inferred: it gives both rows of the table exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.models.backbones import Normalize, timm_features
from egeunet.models.layers import check_input, init_fan_out, resize

GROUPS = 4
MULTIPLE = 32


class PlainUNet(nn.Module):
    """A U of a backbone with five feature maps and, per level, one convolution.

    Args:
        backbone: A timm network with feature maps at H/2 … H/32, their channels divisible by 4.
        backbone_options: What timm takes for it besides.
        in_channels: Channels of the image; values 0…255, min–max scaled per image.
        num_classes: 1 for one foreground logit, K > 1 for K classes with background 0.
        pretrained: Start the backbone from ImageNet weights, fetched from the network once.
    """

    def __init__(
        self,
        backbone: str,
        backbone_options: Mapping[str, Any],
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.backbone = timm_features(
            backbone, pretrained=pretrained, in_channels=in_channels, **backbone_options
        )
        self.normalize = Normalize(self.backbone, in_channels)
        widths = self.backbone.feature_info.channels()  # type: ignore[operator, union-attr]
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(deep, shallow, 3, padding=1), nn.GroupNorm(GROUPS, shallow))
            for deep, shallow in itertools.pairwise(widths[::-1])
        )
        self.head = nn.Conv2d(widths[0], num_classes, 1)
        self.decoder.apply(init_fan_out)
        self.head.apply(init_fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), H and W divisible by 32, to logits (B, num_classes, H, W)."""
        check_input(x, self.in_channels, MULTIPLE)
        *skips, y = self.backbone(self.normalize(x))  # y: (B, C5, H/32, W/32)
        for level in self.decoder:
            skip = skips.pop()
            y = F.gelu(resize(level(y), skip.shape[-2:])) + skip
        return resize(self.head(y), x.shape[-2:])
