"""EGE-UNet: an Efficient Group Enhanced UNet for skin lesion segmentation, and its ablations.

Ruan, Xie, Gao, Liu, Fu. MICCAI 2023, arXiv 2307.08473.

Six stages of 8 … 64 channels. The deep stages are GHPA blocks, whose attention maps are learned
tensors, not functions of the image. Every skip passes a GAB, which mixes two scales guided by a
mask that the decoder predicts at that level; these masks are supervised too.

Where text and published code differ, this follows the code, as the published numbers do: the third
group of Algorithm 1 uses P_zy (the text prints P_zx again); the final 1×1 convolution comes before
the last upsampling; the sixth stage neither normalizes nor pools.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.errors import UsageError
from egeunet.models import kernels
from egeunet.models.layers import (
    GELU,
    ChannelLayerNorm,
    check_input,
    conv3x3,
    foreground_logit,
    gelu,
    init_fan_out,
    resize,
    separable,
)
from egeunet.models.registry import StateDict, register

GROUPS = 4
MULTIPLE = 32


class PlaneAttention(nn.Module):
    """The attention map of the height-width plane: a learned tensor, resized and refined.

    Args:
        channels: C of the map.
        refine: Pass the resized tensor through a depthwise and a pointwise convolution.
    """

    def __init__(self, channels: int, refine: bool = True) -> None:
        super().__init__()
        self.tensor = nn.Parameter(torch.ones(1, channels, 8, 8))
        self.refine = _refine(nn.Conv2d, channels) if refine else nn.Identity()

    def forward(self, height: int, width: int) -> Tensor:
        """Return the map, (1, C, height, width)."""
        return self.refine(resize(self.tensor, (height, width)))


class AxisAttention(nn.Module):
    """The attention map of the plane of channels and one image axis; see `PlaneAttention`."""

    def __init__(self, channels: int, refine: bool = True) -> None:
        super().__init__()
        self.tensor = nn.Parameter(torch.ones(1, 1, channels, 8))
        self.refine = _refine(nn.Conv1d, channels) if refine else nn.Identity()

    def forward(self, length: int) -> Tensor:
        """Return the map, (1, C, length).

        Resizing the channel-axis plane bilinearly, channels unchanged, is resizing the axis alone.
        """
        tensor = F.interpolate(self.tensor[0], size=length, mode="linear", align_corners=True)
        return self.refine(tensor)


class GHPA(nn.Module):
    """Grouped multi-axis Hadamard Product Attention (paper, section 2 and Algorithm 1).

    Three channel groups are multiplied by attention maps of the height-width, channel-height and
    channel-width planes, the fourth passes a small convolution; then all are mixed.

    Args:
        in_channels: C_in, divisible by 4.
        out_channels: C_out.
        refine: False removes the convolutions on the learned tensors (ablation of Table 2).
    """

    def __init__(self, in_channels: int, out_channels: int, refine: bool = True) -> None:
        super().__init__()
        group = in_channels // GROUPS
        self.norm = ChannelLayerNorm(in_channels)
        self.height_width = PlaneAttention(group, refine)
        self.channel_height = AxisAttention(group, refine)
        self.channel_width = AxisAttention(group, refine)
        self.local = nn.Sequential(
            nn.Conv2d(group, group, 1),
            GELU(),
            nn.Conv2d(group, group, 3, padding=1, groups=group),
        )
        self.mix = _mix(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        height, width = x.shape[-2:]
        plane, tall, wide, rest = self.norm(x).chunk(GROUPS, dim=1)
        plane = plane * self.height_width(height, width)
        tall = tall * self.channel_height(height).unsqueeze(-1)  # (1, C/4, H, 1)
        wide = wide * self.channel_width(width).unsqueeze(-2)  # (1, C/4, 1, W)
        return self.mix(torch.cat((plane, tall, wide, self.local(rest)), dim=1))


class PlaneGHPA(nn.Module):
    """GHPA without grouping: one height-width map for all channels (ablation of Table 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = ChannelLayerNorm(in_channels)
        self.height_width = PlaneAttention(in_channels)
        self.mix = _mix(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        return self.mix(self.norm(x) * self.height_width(*x.shape[-2:]))


class GAB(nn.Module):
    """Group Aggregation Bridge (paper, section 2): skip connection over two scales and a mask.

    Args:
        high_channels: C_h of the feature from the next deeper level.
        low_channels: C of the encoder feature of this level, divisible by 4.
        mask: False removes the mask channel (ablation of Table 2).
        dilations: One per group; all 1 removes the dilation (ablation of Table 2).
    """

    def __init__(
        self,
        high_channels: int,
        low_channels: int,
        mask: bool = True,
        dilations: Sequence[int] = (1, 2, 5, 7),
    ) -> None:
        super().__init__()
        group = low_channels // GROUPS * 2 + mask
        self.project = nn.Conv2d(high_channels, low_channels, 1)
        self.norm = ChannelLayerNorm(GROUPS * group, groups=GROUPS)
        self.convs = nn.ModuleList(
            nn.Conv2d(group, group, 3, padding=d, dilation=d, groups=group) for d in dilations
        )
        self.tail = nn.Sequential(
            ChannelLayerNorm(GROUPS * group), nn.Conv2d(GROUPS * group, low_channels, 1)
        )

    def forward(self, high: Tensor, low: Tensor, mask: Tensor | None) -> Tensor:
        """Map high (B, C_h, h, w), low (B, C, H, W), mask logit (B, 1, H, W) to low's shape."""
        high = self.project(high)
        layers = self.norm, self.convs, self.tail
        if kernels.usable_bridge(high, low, mask, *layers):
            return kernels.bridge(high, low, mask, *layers)
        high = resize(high, low.shape[-2:])
        parts: list[Tensor] = []
        for pair in zip(high.chunk(GROUPS, dim=1), low.chunk(GROUPS, dim=1), strict=True):
            parts += [*pair] if mask is None else [*pair, mask]
        groups = self.norm(torch.cat(parts, dim=1)).chunk(GROUPS, dim=1)
        mixed = [conv(group) for conv, group in zip(self.convs, groups, strict=True)]
        return self.tail(torch.cat(mixed, dim=1))


class EGEUNet(nn.Module):
    """EGE-UNet; the last three arguments build the ablations of Table 2.

    Args:
        in_channels: Channels of the image, in 0…255, min-max scaled per image.
        num_classes: 1 for one foreground logit, K > 1 for K classes with background 0.
        widths: Channels of the six stages, each divisible by 4.
        deep_supervision: Return the mask logits of the five decoder levels too in training mode.
            They guide the GABs either way.
        block: Constructor of stages 4 to 6 and their mirror images, from (C_in, C_out).
        bridge: Constructor of a level's skip, from (C_high, C_low); None: add the encoder feature.
        mask: False removes the mask heads, and with them deep supervision.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        widths: Sequence[int] = (8, 16, 24, 32, 48, 64),
        deep_supervision: bool = True,
        block: Callable[[int, int], nn.Module] = GHPA,
        bridge: Callable[[int, int], nn.Module] | None = GAB,
        mask: bool = True,
    ) -> None:
        super().__init__()
        if len(widths) != 6 or any(width < GROUPS or width % GROUPS for width in widths):
            raise UsageError(
                f"EGE-UNet takes six widths, each divisible by {GROUPS}, got {list(widths)}."
            )
        self.in_channels = in_channels
        self.deep_supervision = deep_supervision and mask
        levels = list(itertools.pairwise(widths))  # (C, C of the next deeper level)
        blocks = [conv3x3, conv3x3, block, block, block]
        self.encoder = nn.ModuleList([_EncoderStage(conv3x3(in_channels, widths[0]), widths[0])])
        self.encoder.extend(
            _EncoderStage(build(shallow, deep), deep)
            for build, (shallow, deep) in zip(blocks[:-1], levels[:-1], strict=True)
        )
        self.bottleneck = block(*levels[-1])
        # From here on index 0 is the deepest level, in the order of the decoder.
        self.decoder = nn.ModuleList(
            _DecoderStage(build(deep, shallow), shallow)
            for build, (shallow, deep) in zip(blocks[::-1], levels[::-1], strict=True)
        )
        self.bridges = nn.ModuleList(
            bridge(deep, shallow) for shallow, deep in levels[::-1] if bridge
        )
        self.mask_heads = nn.ModuleList(
            nn.Conv2d(shallow, num_classes, 1) for shallow, _ in levels[::-1] if mask
        )
        self.head = nn.Conv2d(widths[0], num_classes, 1)
        self.apply(init_fan_out)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """Map images (B, C, H, W), H and W divisible by 32, to logits (B, num_classes, H, W).

        In training mode with deep supervision: `(logits, (stage5, …, stage1))`, the mask logits
        of the decoder levels from the deepest on, each upsampled to (B, num_classes, H, W).
        """
        check_input(x, self.in_channels, MULTIPLE)
        size = x.shape[-2:]
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)  # (B, C1, H/2, W/2) … (B, C5, H/32, W/32)
            skips.append(x)
        x = high = gelu(self.bottleneck(x))  # (B, C6, H/32, W/32)

        stages: list[Tensor] = []
        for level, decode in enumerate(self.decoder):
            skip = skips.pop()
            x = decode(x, skip.shape[-2:])  # (B, C5, H/32, W/32) … (B, C1, H/2, W/2)
            if self.mask_heads:
                stages.append(self.mask_heads[level](x))
            if self.bridges:
                mask = foreground_logit(stages[-1]) if stages else None
                skip = high = self.bridges[level](high, skip, mask)
            x = x + skip
        logits = resize(self.head(x), size)
        if self.training and self.deep_supervision:
            return logits, tuple(resize(stage, size) for stage in stages)
        return logits


class _EncoderStage(nn.Module):
    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.block = block
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        if kernels.usable_norm(x, self.norm):
            return gelu(kernels.norm_pool(x, self.norm))
        return gelu(F.max_pool2d(self.norm(x), 2))


class _DecoderStage(nn.Module):
    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.block = block
        self.norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        x = self.block(x)
        if kernels.usable_norm(x, self.norm):
            return gelu(kernels.norm_resize(x, self.norm, size))
        return gelu(resize(self.norm(x), size))


def _refine(conv: type[nn.Conv1d | nn.Conv2d], channels: int) -> nn.Sequential:
    return nn.Sequential(
        conv(channels, channels, 3, padding=1, groups=channels),
        nn.GELU(),
        conv(channels, channels, 1),
    )


def _mix(in_channels: int, out_channels: int) -> nn.Sequential:
    """The end of a GHPA block: LayerNorm → depthwise 3×3 → GELU → 1×1."""
    return nn.Sequential(
        ChannelLayerNorm(in_channels), *separable(in_channels, out_channels, GELU())
    )


def _convert_official(published: StateDict) -> dict[str, Tensor]:
    """Rename published tensors; the four normalizations of a GAB are one of four groups here."""
    modules = {"bottleneck": "encoder6.0", "head": "final"}
    for i in range(1, 6):
        modules |= {f"encoder.{i - 1}.block": f"encoder{i}.0", f"encoder.{i - 1}.norm": f"ebn{i}"}
        modules |= {f"decoder.{i - 1}.block": f"decoder{i}.0", f"decoder.{i - 1}.norm": f"dbn{i}"}
        modules |= {f"mask_heads.{i - 1}": f"gt_conv{i}.0", f"bridges.{i - 1}": f"GAB{6 - i}"}
    layers = {"height_width.tensor": "params_xy", "height_width.refine": "conv_xy"}
    layers |= {"channel_height.tensor": "params_zx", "channel_height.refine": "conv_zx"}
    layers |= {"channel_width.tensor": "params_zy", "channel_width.refine": "conv_zy"}
    layers |= {"local": "dw", "norm": "norm1", "mix.0": "norm2", "mix.1": "ldw.0", "mix.3": "ldw.2"}
    layers |= {"project": "pre_project", "tail": "tail_conv"}
    layers |= {f"convs.{group}": f"g{group}.1" for group in range(GROUPS)}

    converted = {}
    for key in EGEUNet().state_dict():
        module = next(name for name in modules if key.startswith(name + "."))
        rest = key.removeprefix(module + ".")
        if module.startswith("bridges") and rest.startswith("norm."):
            kind = rest.removeprefix("norm.")
            groups = [f"{modules[module]}.g{group}.0.{kind}" for group in range(GROUPS)]
            converted[key] = torch.cat([published[name] for name in groups])
            continue
        layer = next((n for n in layers if rest == n or rest.startswith(n + ".")), None)
        if layer:
            rest = layers[layer] + rest.removeprefix(layer)
        converted[key] = published[f"{modules[module]}.{rest}"]
    return converted


# name: (what is changed, parameters (M) and GFLOPs as printed)
_ABLATIONS: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "": ({}, ("0.053", "0.072")),
    "_baseline": ({"block": conv3x3, "bridge": None, "mask": False}, ("0.107", "0.076")),
    "_baseline_ghpa": ({"bridge": None, "mask": False}, ("0.034", "0.058")),
    "_baseline_gab": ({"block": conv3x3}, ("0.126", "0.086")),
    "_no_multi_axis": ({"block": PlaneGHPA}, ("0.074", "0.074")),
    "_no_dw": ({"block": functools.partial(GHPA, refine=False)}, ("0.050", "0.072")),
    "_no_mask": (
        {"bridge": functools.partial(GAB, mask=False), "mask": False},
        ("0.052", "0.070"),
    ),
    "_no_dilation": (
        {"bridge": functools.partial(GAB, dilations=(1, 1, 1, 1))},
        ("0.053", "0.072"),
    ),
}
for _name, (_changed, _table) in _ABLATIONS.items():
    register(
        f"egeunet{_name}",
        functools.partial(EGEUNet, **_changed) if _changed else EGEUNet,
        paper="Ruan et al., EGE-UNet, MICCAI 2023",
        arxiv="2307.08473",
        licence="Apache-2.0",
        table=_table,
        convert_official=None if _changed else _convert_official,
    )
