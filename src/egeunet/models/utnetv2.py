"""UTNetV2: a U-Net whose deep stages exchange information with a small semantic map.

Gao, Zhou, Liu, Metaxas. A Multi-scale Transformer for Medical Image Segmentation: Architectures,
Model Efficiency, and Benchmarks. 2022, arXiv 2203.00131v1 (later versions: MedFormer).

Attention between all pixels is expensive. Here every deep stage keeps, beside its feature, a
semantic map of 4×4 tokens; pixels attend to tokens and tokens to pixels through one matrix of
products (bidirectional attention). A small transformer fuses the maps of three stages in place of
plain skips.

The sizes reproduce the cost in Table 1 of EGE-UNet: the defaults of the public 2-D code of 2022
with maps of 4×4 tokens and expansion 1. As there, the last two decoder stages compute a map that is
never read; `UNREACHED` names those parameters, which every published count includes.
"""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.models.layers import check_input, resize, separable
from egeunet.models.registry import register

MULTIPLE = 16
MAP_SIDE = 4
WIDTHS = (32, 64, 128, 256, 512)
HEADS = (4, 8, 16)  # of the stages with attention, from the shallowest on
ATTENTION_BLOCKS = (1, 2, 2)
FUSION_WIDTH, FUSION_HEADS, FUSION_DEPTH = 512, 16, 2


class ConvBlock(nn.Module):
    """Two pre-activated 3×3 convolutions and a residual: x + f(f(x)), f = BN → GELU → conv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*_conv(channels, channels), *_conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.convs(x)


class InvertedBottleneck(nn.Module):
    """Feed-forward part of an attention block: depthwise 3×3, squeeze-excitation, 1×1.

    Called MBConv in the published code; expansion 1 needs no widening convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = _conv(channels, channels, groups=channels)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            nn.ReLU(),
            nn.Conv2d(channels // 4, channels, 1),
            nn.Sigmoid(),
        )
        self.pointwise = nn.Sequential(
            nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        inner = self.depthwise(x)
        return x + self.pointwise(inner * self.squeeze(inner))


class BidirectionalAttention(nn.Module):
    """Pixels attend to the tokens of the semantic map, tokens to the pixels.

    One matrix of products serves both: its softmax over tokens weights what pixels receive, its
    softmax over pixels what tokens receive.

    Args:
        channels: C of the feature and of the map.
        heads: Divides C.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.BatchNorm2d(channels)
        self.map_norm = nn.BatchNorm2d(channels)
        self.project = separable(channels, 2 * channels, bias=False)
        self.map_project = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.out = separable(channels, channels, bias=False)
        self.map_out = nn.Conv2d(channels, channels, 1, bias=False)
        self.feed_forward = InvertedBottleneck(channels)

    def forward(self, x: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor]:
        """Map feature (B, C, H, W) and map (B, C, 4, 4) to the same shapes."""
        query, value = self._heads(self.project(self.norm(x)))  # each (B, heads, C / heads, HW)
        map_query, map_value = self._heads(self.map_project(self.map_norm(semantic)))
        scale = query.shape[2] ** -0.5
        products = query.transpose(2, 3) @ map_query * scale  # (B, heads, HW, tokens)
        pixels = map_value @ products.softmax(3).transpose(2, 3)  # (B, heads, C / heads, HW)
        tokens = value @ products.softmax(2)
        x = x + self.out(pixels.flatten(1, 2).unflatten(2, x.shape[2:]))
        semantic = semantic + self.map_out(tokens.flatten(1, 2).unflatten(2, semantic.shape[2:]))
        return self.feed_forward(x), semantic

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.flatten(2).unflatten(1, (2, self.heads, -1)).unbind(1)


class MapGeneration(nn.Module):
    """Semantic map: each token is a mean of the pixels, weighted by a learned softmax."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.values = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.weights = nn.Conv2d(channels, MAP_SIDE**2, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 4, 4)."""
        values = self.values(x).flatten(2)  # (B, C, HW)
        weights = self.weights(x).flatten(2).softmax(2)  # (B, 16, HW)
        tokens = values @ weights.transpose(1, 2)  # (B, C, 16)
        return tokens.unflatten(2, (MAP_SIDE, MAP_SIDE))


class FusionLayer(nn.Module):
    """A pre-norm transformer layer: self-attention, then two linear layers with GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, L, C) to the same shape."""
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, L, C / heads)
            for part in self.project(self.norm(x)).chunk(3, dim=2)
        )
        weights = (query @ key.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(3)
        x = x + self.out((weights @ value).transpose(1, 2).flatten(2))
        return x + self.feed_forward(x)


class MapFusion(nn.Module):
    """Self-attention between the tokens of all semantic maps.

    Args:
        widths: Channels of the maps.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.enter = nn.ModuleList(nn.Conv2d(c, FUSION_WIDTH, 1, bias=False) for c in widths)
        self.layers = nn.Sequential(
            *(FusionLayer(FUSION_WIDTH, FUSION_HEADS) for _ in range(FUSION_DEPTH))
        )
        self.leave = nn.ModuleList(nn.Conv2d(FUSION_WIDTH, c, 1, bias=False) for c in widths)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map one (B, C_i, 4, 4) per stage to the same shapes."""
        entered = [enter(x) for enter, x in zip(self.enter, maps, strict=True)]
        tokens = torch.cat([x.flatten(2) for x in entered], dim=2).transpose(1, 2)
        fused = self.layers(tokens).transpose(1, 2).chunk(len(maps), dim=2)
        return [
            leave(x.unflatten(2, (MAP_SIDE, MAP_SIDE)))
            for leave, x in zip(self.leave, fused, strict=True)
        ]


class UTNetV2(nn.Module):
    """UTNetV2 in the size of Table 1 of EGE-UNet.

    Args:
        in_channels: Channels of the image.
        num_classes: See `create_model`.
    """

    UNREACHED: ClassVar[frozenset[str]] = frozenset(
        {"up.1.attend.blocks.0.map_out.weight", "up.2.map_reduce.weight", "up.3.map_reduce.weight"}
    )

    def __init__(self, *, in_channels: int = 3, num_classes: int = 1) -> None:
        super().__init__()
        self.in_channels = in_channels
        stem, first, *deep = WIDTHS
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem, 3, padding=1, bias=False), ConvBlock(stem)
        )
        self.down1 = nn.Sequential(_PatchMerging(stem, first), ConvBlock(first), ConvBlock(first))
        self.down2 = nn.Sequential(_PatchMerging(first, deep[0]), ConvBlock(deep[0]))
        self.generate = MapGeneration(deep[0])
        steps = list(itertools.pairwise(deep))  # between the stages with attention
        self.merge = nn.ModuleList(_PatchMerging(*step) for step in steps)
        self.map_widen = nn.ModuleList(nn.Conv2d(*step, 1, bias=False) for step in steps)
        self.attend = nn.ModuleList(map(_AttentionBlocks, deep, HEADS, ATTENTION_BLOCKS))
        self.fuse = MapFusion(tuple(deep))
        up1 = _Up(deep[2], deep[1], heads=HEADS[1], blocks=2)
        up2 = _Up(deep[1], deep[0], heads=HEADS[0], blocks=1, convs=1)
        up3, up4 = _Up(deep[0], first, convs=2), _Up(first, stem, convs=2)
        self.up = nn.ModuleList([up1, up2, up3, up4])
        self.head = nn.Conv2d(stem, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), H and W divisible by 16, to logits (B, num_classes, H, W)."""
        check_input(x, self.in_channels, MULTIPLE)
        skips = [self.stem(x)]
        skips.append(self.down1(skips[-1]))
        x = self.down2(skips[-1])  # (B, 128, H/4, W/4)
        semantic = self.generate(x)
        maps: list[Tensor] = []
        for level, attend in enumerate(self.attend):
            if level:
                x = self.merge[level - 1](x)
                semantic = self.map_widen[level - 1](semantic)
            x, semantic = attend(x, semantic)
            skips.append(x)
            maps.append(semantic)

        x = skips.pop()  # (B, 512, H/16, W/16)
        maps = self.fuse(maps)
        semantic = maps.pop()
        for up in self.up:
            x, semantic = up(x, skips.pop(), semantic, maps.pop() if maps else None)
        return self.head(x)


class _PatchMerging(nn.Module):
    """Halve the size: 2×2 pixels become channels, then batch norm and a separable convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4 * in_channels)
        self.reduce = separable(4 * in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.norm(F.pixel_unshuffle(x, 2)))


class _AttentionBlocks(nn.Module):
    def __init__(self, channels: int, heads: int, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(BidirectionalAttention(channels, heads) for _ in range(count))

    def forward(self, x: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x, semantic = block(x, semantic)
        return x, semantic


class _Up(nn.Module):
    """A decoder stage: upsample, join the skip (and the skip's map), attend, convolve."""

    def __init__(
        self, deep: int, shallow: int, *, heads: int = 1, blocks: int = 0, convs: int = 0
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(deep + shallow)
        self.reduce = nn.Conv2d(deep + shallow, shallow, 1, bias=False)
        joined = deep + shallow if blocks else deep  # a stage without attention has no map
        self.map_reduce = nn.Conv2d(joined, shallow, 1, bias=False)
        self.attend = _AttentionBlocks(shallow, heads, blocks)
        self.convs = nn.Sequential(*(ConvBlock(shallow) for _ in range(convs)))

    def forward(
        self, x: Tensor, skip: Tensor, semantic: Tensor, map_skip: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x = torch.cat((resize(x, skip.shape[-2:]), skip), dim=1)
        x = self.reduce(self.norm(x))
        if map_skip is not None:
            semantic = torch.cat((semantic, map_skip), dim=1)
        x, semantic = self.attend(x, self.map_reduce(semantic))
        return self.convs(x), semantic


def _conv(in_channels: int, out_channels: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.GELU(),
        nn.Conv2d(in_channels, out_channels, 3, padding=1, groups=groups, bias=False),
    )


register(
    "utnetv2",
    UTNetV2,
    paper="Gao et al., UTNetV2, arXiv 2022",
    arxiv="2203.00131",
    licence="Apache-2.0",
    table=("12.80", "15.50"),
)
