"""SANet: Shallow Attention Network, a Res2Net-50 under one light head.

Wei, Hu, Zhang, Li, Zhou, Cui. Shallow Attention Network for Polyp Segmentation. MICCAI 2021,
arXiv 2108.00882.

Three stages of the backbone are reduced to 64 channels. Deep features are clean but coarse, shallow
ones sharp but noisy; so each shallower one is multiplied by the deeper ones, which are ≥ 0 and
switch its background off.

As in the public code, prediction is at 1/8 of the size. Two more parts of the paper concern neither
the parameters nor a mask at threshold 0.5 and are not here: training images take the colour
statistics of each other (colour exchange), and at inference positive and negative logits are
divided by the shares of pixels they cover (probability correction).
The authors train with cross-entropy + Dice on this one output, at 352×352.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from egeunet.models.backbones import Normalize, timm_features
from egeunet.models.layers import check_input, resize
from egeunet.models.registry import register

MULTIPLE = 32
BACKBONE = "res2net50d.in1k"  # timm's name of Res2Net50-v1b 26w×4s
BACKBONE_WIDTHS = (512, 1024, 2048)
WIDTH = 64


class SANet(nn.Module):
    """SANet.

    Args:
        in_channels: Channels of the image; values 0…255, min–max scaled per image. The network
            brings them to the mean and spread of ImageNet itself.
        num_classes: 1 for one foreground logit, K > 1 for K classes with background 0.
        pretrained: Start the backbone from its ImageNet weights.
    """

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.backbone = timm_features(
            BACKBONE,
            pretrained=pretrained,
            in_channels=in_channels,
            out_indices=(2, 3, 4),
            zero_init_last=False,  # timm's own start silences every block; the authors' does not
        )
        self.normalize = Normalize(self.backbone, in_channels)
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, WIDTH, 1), nn.BatchNorm2d(WIDTH), nn.ReLU())
            for width in BACKBONE_WIDTHS
        )
        self.head = nn.Conv2d(3 * WIDTH, num_classes, 1)
        for module in (*self.reduce.modules(), self.head):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), H and W divisible by 32, to logits (B, num_classes, H, W)."""
        check_input(x, self.in_channels, MULTIPLE)
        features = self.backbone(self.normalize(x))  # strides 8, 16, 32
        shallow, middle, deep = (
            reduce(feature) for reduce, feature in zip(self.reduce, features, strict=True)
        )
        size = shallow.shape[-2:]
        deep = resize(deep, size)  # (B, 64, H/8, W/8), as the other two from here on
        middle = resize(middle, size) * deep
        logits = self.head(torch.cat((deep, middle, shallow * middle), dim=1))
        return resize(logits, x.shape[-2:])


register(
    "sanet",
    SANet,
    paper="Wei et al., SANet, MICCAI 2021",
    arxiv="2108.00882",
    licence="MIT",
    table=("23.90", "5.96"),
)
