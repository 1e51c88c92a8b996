"""SANet: Shallow Attention Network for Polyp Segmentation, a Res2Net-50 with one light head.

Wei, Hu, Zhang, Li, Zhou, Cui. MICCAI 2021, arXiv 2108.00882.

Three backbone stages are reduced to 64 channels. Each shallower one is multiplied by the deeper
ones, whose zeros switch the background off. As in the public code, prediction is at 1/8 of the
input size. Left out, since neither changes parameters nor a mask at threshold 0.5: the exchange of
color statistics between training images, and the probability correction at inference. The authors
train this one output with cross-entropy + Dice at 352×352.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from egeunet.models.backbones import Normalize, timm_model
from egeunet.models.layers import check_input, conv_norm, resize
from egeunet.models.registry import register

MULTIPLE = 32
BACKBONE = "res2net50d.in1k"  # timm's name of Res2Net50-v1b 26w×4s
BACKBONE_WIDTHS = (512, 1024, 2048)
WIDTH = 64


class SANet(nn.Module):
    """SANet.

    Args:
        in_channels: Channels of the image, in 0…255; the model normalizes them itself.
        num_classes: See `create_model`.
        pretrained: Start the backbone from ImageNet weights, downloaded once.
    """

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.backbone = timm_model(
            BACKBONE,
            pretrained=pretrained,
            in_channels=in_channels,
            features_only=True,
            out_indices=(2, 3, 4),
            zero_init_last=False,  # timm starts residual blocks at 0, the authors do not
        )
        self.normalize = Normalize(self.backbone, in_channels)
        self.reduce = nn.ModuleList(
            nn.Sequential(*conv_norm(width, WIDTH), nn.ReLU()) for width in BACKBONE_WIDTHS
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
        deep = resize(deep, size)  # (B, 64, H/8, W/8), like the other two from here on
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
