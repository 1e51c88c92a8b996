"""ImageNet backbones with one plain decoder: MobileViTv2, MobileNetV3 and EfficientNet-Lite0.

- Mehta, Rastegari. Separable Self-attention for Mobile Vision Transformers. TMLR 2023,
  arXiv 2206.02680; width 0.5.
- Howard et al. Searching for MobileNetV3. ICCV 2019, arXiv 1905.02244; Small.
- Tan, Le. EfficientNet. ICML 2019, arXiv 1905.11946; Lite0, without squeeze-and-excitation. Not in
  the EGE-UNet paper: it is a teacher that a CPU can train.

The EGE-UNet paper prints the cost of its two mobile comparators but not their decoder. This one,
built from EGE-UNet's plain parts, is inferred; it has exactly both costs.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.models.backbones import Normalize, timm_model
from egeunet.models.layers import check_input, conv3x3, init_fan_out, resize
from egeunet.models.registry import register

GROUPS = 4
MULTIPLE = 32


class PlainUNet(nn.Module):
    """A backbone with five feature maps and a decoder of one convolution per level.

    Args:
        backbone: Name of a timm model with feature maps at H/2 … H/32, channels divisible by 4.
        backbone_options: Further arguments of timm.
        in_channels: Channels of the image, in 0…255.
        num_classes: See `create_model`.
        pretrained: Start the backbone from ImageNet weights, downloaded once.
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
        self.backbone = timm_model(
            backbone,
            pretrained=pretrained,
            in_channels=in_channels,
            features_only=True,
            **backbone_options,
        )
        self.normalize = Normalize(self.backbone, in_channels)
        widths = self.backbone.feature_info.channels()
        self.decoder = nn.ModuleList(
            nn.Sequential(conv3x3(deep, shallow), nn.GroupNorm(GROUPS, shallow))
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
            y = F.gelu(resize(level(y), skip.shape[-2:])) + skip  # (B, C, 2h, 2w)
        return resize(self.head(y), x.shape[-2:])


register(
    "mobilevitv2",
    # timm starts residual blocks at 0, the authors do not.
    functools.partial(PlainUNet, "mobilevitv2_050", {"zero_init_last": False}),
    paper="Mehta & Rastegari, MobileViTv2, TMLR 2023",
    arxiv="2206.02680",
    licence="Apache-2.0 (timm)",
    table=("1.87", "0.70"),
)
register(
    "mobilenetv3",
    functools.partial(PlainUNet, "mobilenetv3_small_100", {}),
    paper="Howard et al., MobileNetV3, ICCV 2019",
    arxiv="1905.02244",
    licence="Apache-2.0 (timm)",
    table=("1.19", "0.10"),
)
register(
    "efficientnet_lite0",
    functools.partial(PlainUNet, "tf_efficientnet_lite0", {}),
    paper="Tan & Le, EfficientNet, ICML 2019",
    arxiv="1905.11946",
    licence="Apache-2.0 (timm)",
)
