"""TransFuse: Fusing Transformers and CNNs for Medical Image Segmentation; the variant TransFuse-S.

Zhang, Liu, Hu. MICCAI 2021, arXiv 2102.08005.

A transformer (the first eight blocks of DeiT-S on 16×16 patches, upsampled twice) and a CNN
(ResNet-34 without its last stage) yield features at three scales. BiFusion blocks join the two at
each scale, attention gates lead from one scale to the next. Three outputs are supervised: the joint
one, the coarsest fusion, and the transformer alone.

As in the authors' code, whose input is 192×256 or 12×16 tokens (`tokens=(12, 16)`); the default of
16×16 tokens for 256×256 is what Table 1 of EGE-UNet fits. Other sizes resize the learned position
embeddings. The class token (`UNREACHED`) and the two extra outputs in eval mode have no effect and
are kept because every published count includes them; exported files have neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.errors import UsageError
from egeunet.models.backbones import Normalize, timm_model
from egeunet.models.layers import check_input, conv_norm, resize
from egeunet.models.registry import register

MULTIPLE = 16
CNN, TRANSFORMER = "resnet34.tv_in1k", "deit_small_patch16_224.fb_in1k"
DEPTH = 8
TOKEN_WIDTH = 384
WIDTHS = (64, 128, 256)  # of both branches at H/4, H/8, H/16, but for the tokens themselves
DROPOUT = 0.2


class TokenBranch(nn.Module):
    """The first blocks of DeiT-S, their tokens arranged as a feature map.

    Args:
        in_channels: C, channels of the image.
        tokens: Rows and columns of the learned position embeddings.
        pretrained: Start from ImageNet weights, position embeddings resized.
    """

    def __init__(self, in_channels: int, tokens: Sequence[int], pretrained: bool) -> None:
        super().__init__()
        deit = timm_model(TRANSFORMER, pretrained=pretrained, in_channels=in_channels)
        self.embed: nn.Module = deit.patch_embed.proj
        self.class_token = deit.cls_token
        position = deit.pos_embed.detach()[:, 1:].transpose(1, 2)  # (1, 384, 14·14)
        grid = resize(position.unflatten(2, (14, 14)), tokens)
        self.position = nn.Parameter(grid.contiguous())
        self.blocks: Any = deit.blocks[:DEPTH]
        for block in self.blocks:
            block.attn.fused_attn = False  # plain products have a deterministic gradient on CUDA
        self.norm: nn.Module = deit.norm

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 384, H/16, W/16)."""
        x = self.embed(x)
        size, position = x.shape[-2:], self.position
        x = x + (position if position.shape[-2:] == size else resize(position, size))
        tokens = self.norm(self.blocks(x.flatten(2).transpose(1, 2)))
        return tokens.transpose(1, 2).unflatten(2, size)


class BiFusion(nn.Module):
    """Join a CNN and a transformer feature of one scale (paper, "BiFusion Module").

    Spatial attention on the first, channel attention on the second, and a convolution of their
    product are mixed by a residual bottleneck.

    Args:
        cnn: Channels of the CNN feature and of the output.
        transformer: Channels of the transformer feature.
        reduction: Reduction of the channel attention.
    """

    def __init__(self, cnn: int, transformer: int, reduction: int) -> None:
        super().__init__()
        self.spatial = nn.Sequential(*conv_norm(2, 1, 7, bias=False), nn.Sigmoid())
        self.channel = nn.Sequential(
            nn.Conv2d(transformer, transformer // reduction, 1),
            nn.ReLU(),
            nn.Conv2d(transformer // reduction, transformer, 1),
            nn.Sigmoid(),
        )
        self.project_cnn = conv_norm(cnn, cnn, 1)
        self.project_transformer = conv_norm(transformer, cnn, 1)
        self.product = nn.Sequential(conv_norm(cnn, cnn, 3), nn.ReLU())
        joined = cnn + transformer + cnn
        self.mix = nn.Sequential(
            _norm_conv(joined, cnn // 2, 1),
            _norm_conv(cnn // 2, cnn // 2, 3),
            _norm_conv(cnn // 2, cnn, 1),
        )
        self.shortcut = nn.Conv2d(joined, cnn, 1)
        self.drop = nn.Dropout2d(DROPOUT / 2)

    def forward(self, cnn: Tensor, transformer: Tensor) -> Tensor:
        """Map (B, C, H, W) and (B, C_t, H, W) to (B, C, H, W)."""
        product = self.product(self.project_cnn(cnn) * self.project_transformer(transformer))
        pooled = torch.cat((cnn.amax(1, keepdim=True), cnn.mean(1, keepdim=True)), dim=1)
        mean = transformer.mean((2, 3), keepdim=True)
        attended = cnn * self.spatial(pooled), transformer * self.channel(mean), product
        joined = torch.cat(attended, dim=1)  # (B, 2 C + C_t, H, W)
        return self.drop(self.mix(joined) + self.shortcut(joined))


class Up(nn.Module):
    """Upsample ×2, join a gated skip if there is one, then two convolutions with a residual.

    Args:
        deep: Channels of the deeper feature.
        channels: Channels of the output.
        skip: Channels of the skip, 0 for none.
    """

    def __init__(self, deep: int, channels: int, skip: int = 0) -> None:
        super().__init__()
        self.gate = AttentionGate(deep, skip, channels) if skip else None
        self.convs = nn.Sequential(
            conv_norm(deep + skip, channels, 3), nn.ReLU(), conv_norm(channels, channels, 3)
        )
        self.shortcut = conv_norm(deep + skip, channels, 1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map (B, C_deep, H, W), skip (B, C_skip, 2H, 2W) to (B, C, 2H, 2W)."""
        x = resize(x, [2 * side for side in x.shape[-2:]])
        if self.gate is not None and skip is not None:
            x = torch.cat((self.gate(x, skip), x), dim=1)
        return F.relu(self.convs(x) + self.shortcut(x))


class AttentionGate(nn.Module):
    """Pixel weights of a skip, computed from it and a deeper feature (Oktay et al. 2018)."""

    def __init__(self, deep: int, skip: int, channels: int) -> None:
        super().__init__()
        self.deep = conv_norm(deep, channels, 1)
        self.skip = conv_norm(skip, channels, 1)
        self.weight = nn.Sequential(nn.ReLU(), conv_norm(channels, 1, 1), nn.Sigmoid())

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Map (B, C_deep, H, W) and (B, C_skip, H, W) to the shape of the skip."""
        return skip * self.weight(self.deep(deep) + self.skip(skip))


class TransFuse(nn.Module):
    """TransFuse-S.

    Args:
        in_channels: Channels of the image, in 0…255; the model normalizes them itself.
        num_classes: See `create_model`.
        tokens: Rows and columns of the learned position embeddings: input size / 16.
        pretrained: Start both branches from ImageNet weights, downloaded once.
    """

    UNREACHED: ClassVar[frozenset[str]] = frozenset({"transformer.class_token"})

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        tokens: Sequence[int] = (16, 16),
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        if len(tokens) != 2 or min(tokens) < 1:
            raise UsageError(
                f"tokens must be rows and columns, such as (12, 16), got {list(tokens)}."
            )
        self.in_channels = in_channels
        shallow, middle, deep = WIDTHS
        self.up_tokens = nn.ModuleList([Up(TOKEN_WIDTH, middle), Up(middle, shallow)])
        sizes = (deep, TOKEN_WIDTH, 4), (middle, middle, 2), (shallow, shallow, 1)
        self.fuse = nn.ModuleList(BiFusion(*size) for size in sizes)  # from the deepest scale on
        self.up = nn.ModuleList([Up(deep, middle, skip=middle), Up(middle, shallow, skip=shallow)])
        self.head = _head(shallow, num_classes)
        self.fusion_head = nn.Sequential(
            conv_norm(deep, shallow, 1), nn.ReLU(), _head(shallow, num_classes)
        )
        self.transformer_head = _head(shallow, num_classes)
        self.apply(_init)
        # After `apply`: the branches keep timm's initialization.
        self.transformer = TokenBranch(in_channels, tokens, pretrained)
        resnet = timm_model(  # timm starts residual blocks at 0, the authors do not
            CNN, pretrained=pretrained, in_channels=in_channels, zero_init_last=False
        )
        self.normalize = Normalize(resnet, in_channels)
        stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.act1, resnet.maxpool, resnet.layer1)
        self.cnn = nn.ModuleList([stem, resnet.layer2, resnet.layer3])
        self.drop = nn.Dropout2d(DROPOUT)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map images (B, C, H, W), H and W divisible by 16, to logits (B, num_classes, H, W).

        In training mode: `(logits, (fusion, transformer))`, the logits of the coarsest fusion and
        of the transformer alone, each upsampled to (B, num_classes, H, W).
        """
        check_input(x, self.in_channels, MULTIPLE)
        size = x.shape[-2:]
        x = self.normalize(x)
        tokens = [self.drop(self.transformer(x))]  # H/16, then H/8, H/4
        for up in self.up_tokens:
            tokens.append(self.drop(up(tokens[-1])))
        features = []  # H/4, then H/8, H/16
        for stage in self.cnn:
            x = self.drop(stage(x))
            features.append(x)

        fused = [
            fuse(feature, token)
            for fuse, feature, token in zip(self.fuse, features[::-1], tokens, strict=True)
        ]
        joint = fused[0]
        for up, skip in zip(self.up, fused[1:], strict=True):
            joint = up(joint, skip)
        logits = resize(self.head(joint), size)
        fusion = resize(self.fusion_head(fused[0]), size)
        transformer = resize(self.transformer_head(tokens[-1]), size)
        return (logits, (fusion, transformer)) if self.training else logits


def _norm_conv(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2),
    )


def _head(channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm(channels, channels, 3),
        nn.ReLU(),
        nn.Conv2d(channels, num_classes, 3, padding=1),
    )


def _init(module: nn.Module) -> None:
    """Initialize convolution weights (Kaiming normal); biases and norms keep torch's defaults."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


register(
    "transfuse",
    TransFuse,
    paper="Zhang et al., TransFuse, MICCAI 2021",
    arxiv="2102.08005",
    licence="no licence",
    table=("26.16", "11.50"),
)
