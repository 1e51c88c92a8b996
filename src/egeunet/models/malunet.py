"""MALUNet: A Multi-Attention and Light-weight UNet for Skin Lesion Segmentation.

Ruan, Xiang, Xie, Liu, Fu. IEEE BIBM 2022, arXiv 2211.01784.

Six stages of 8 … 64 channels. The deep stages are an inverted external attention (IEA) and a
dilated gated attention (DGA); all skips together pass a bridge of spatial (SAB) and channel (CAB)
attention. As in the published code, the bottleneck takes the fifth encoder feature from before the
bridge, the final 1×1 convolution comes before the last upsampling, and the keys of an external
attention are the transpose of its values.

The published code keeps both as parameters in one storage: its 177,943 parameters count both,
146,711 are free. A deep copy or a move to another device or precision unties them. Here both are
parameters too, so that counts and checkpoints agree, but their mean computes: nothing unties it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.errors import EgeunetError, UsageError
from egeunet.models.layers import check_input, conv3x3, init_fan_out, resize, separable
from egeunet.models.registry import StateDict, register

GROUPS = 4
MULTIPLE = 32
DILATIONS = (7, 5, 2, 1)


class ExternalAttention(nn.Module):
    """IEA, inverted external attention: pixels attend to a learned memory.

    Args:
        channels: C; the memory holds 4 C vectors.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, channels, 1)
        value = torch.randn(channels, 4 * channels) * math.sqrt(2 / channels)
        self.key = nn.Parameter(value.T.contiguous())
        self.value = nn.Parameter(value)
        self.leave = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, channels)

    def memory(self) -> Tensor:
        """Return the keys (4 C, C), which are also the transposed values.

        Key and value start as transposes and get the same gradient, so they stay transposes.
        """
        return (self.key + self.value.T) / 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        memory = self.memory()
        scores = memory @ self.enter(x).flatten(2)  # (B, 4 C, H·W)
        attention = torch.softmax(scores, dim=-1)
        attention = attention / (attention.sum(dim=1, keepdim=True) + 1e-9)
        mixed = (memory.T @ attention).unflatten(-1, x.shape[-2:])
        return F.gelu(self.norm(self.leave(mixed)) + x)


class DilatedGatedAttention(nn.Module):
    """DGA: four dilations in four channel groups, then a gated attention.

    Args:
        in_channels: C_in, divisible by 4.
        out_channels: C_out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        group = in_channels // GROUPS
        self.convs = nn.ModuleList(
            nn.Conv2d(group, group, 3, padding=d, dilation=d, groups=group) for d in DILATIONS
        )
        self.norm = nn.GroupNorm(GROUPS, in_channels)
        self.mix = nn.Conv2d(in_channels, in_channels, 1)
        self.gate = _separable(in_channels, in_channels, 3)
        self.content = _separable(in_channels, in_channels, 5)
        self.out = _separable(in_channels, out_channels, 3)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        groups = zip(self.convs, x.chunk(GROUPS, dim=1), strict=True)
        x = torch.cat([conv(group) for conv, group in groups], dim=1)
        x = F.gelu(self.mix(self.norm(x)))
        gated = torch.sigmoid(self.gate(x)) * F.gelu(self.content(x))
        return F.gelu(self.out(gated)) + self.shortcut(x)


class SpatialAttention(nn.Module):
    """SAB: pixel weights from one dilated 7×7 convolution, shared by all levels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=9, dilation=3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention map, (B, 1, H, W) in 0…1, of a feature (B, C, H, W)."""
        summary = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)
        return torch.sigmoid(self.conv(summary))


class ChannelAttention(nn.Module):
    """CAB: channel weights from the mean channels of all levels.

    Args:
        widths: C of each level.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        heads = [nn.Linear(sum(widths), width) for width in widths]
        for head in heads:
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        self.heads = nn.ModuleList(heads)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Return, for each level (B, C, H, W), its channel weights (B, C, 1, 1) in 0…1."""
        means = torch.cat([x.mean((2, 3)) for x in levels], dim=1)  # (B, ΣC)
        mixed = self.mix(means.unsqueeze(1)).squeeze(1)
        return [torch.sigmoid(head(mixed))[:, :, None, None] for head in self.heads]


def _attend_down(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(
        ExternalAttention(in_channels), DilatedGatedAttention(in_channels, out_channels)
    )


def _attend_up(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(
        DilatedGatedAttention(in_channels, out_channels), ExternalAttention(out_channels)
    )


class MALUNet(nn.Module):
    """MALUNet.

    Args:
        in_channels: Channels of the image, in 0…255, min-max scaled per image.
        num_classes: See `create_model`.
        widths: Channels of the six stages, each divisible by 4.
        down: Constructor of the block of a deep encoder stage, from (C_in, C_out).
        up: Constructor of the block of a deep decoder stage, from (C_in, C_out).
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        widths: Sequence[int] = (8, 16, 24, 32, 48, 64),
        down: Callable[[int, int], nn.Module] = _attend_down,
        up: Callable[[int, int], nn.Module] = _attend_up,
    ) -> None:
        super().__init__()
        if len(widths) != 6 or any(width < GROUPS or width % GROUPS for width in widths):
            raise UsageError(
                f"MALUNet takes six widths, each divisible by {GROUPS}, got {list(widths)}."
            )
        self.in_channels = in_channels
        stages = list(itertools.pairwise((in_channels, *widths)))
        blocks = [conv3x3, conv3x3, conv3x3, down, down]
        self.encoder = nn.ModuleList(
            nn.Sequential(build(*pair), nn.GroupNorm(GROUPS, pair[1]))
            for build, pair in zip(blocks, stages[:-1], strict=True)
        )
        self.bottleneck = down(*stages[-1])
        self.spatial = SpatialAttention()
        self.channel = ChannelAttention(widths[:-1])
        # From here on index 0 is the deepest level, in the order of the decoder.
        blocks = [up, up, up, conv3x3, conv3x3]
        self.decoder = nn.ModuleList(
            nn.Sequential(build(deep, shallow), nn.GroupNorm(GROUPS, shallow))
            for build, (shallow, deep) in zip(blocks, stages[:0:-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], num_classes, 1)
        self.apply(init_fan_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), H and W divisible by 32, to logits (B, num_classes, H, W)."""
        check_input(x, self.in_channels, MULTIPLE)
        size = x.shape[-2:]
        features: list[Tensor] = []
        for stage in self.encoder:
            x = F.gelu(F.max_pool2d(stage(x), 2))
            features.append(x)
        x = F.gelu(self.bottleneck(x))  # (B, C6, H/32, W/32)
        seen = [feature * self.spatial(feature) for feature in features]
        sums = [feature + y for feature, y in zip(features, seen, strict=True)]
        triples = zip(seen, sums, self.channel(sums), strict=True)
        skips = [y + weight * total for y, total, weight in triples]
        for decode in self.decoder:
            skip = skips.pop()
            x = decode(x)
            if x.shape[-2:] != skip.shape[-2:]:  # the deepest level has the size of the bottleneck
                x = resize(x, skip.shape[-2:])
            x = F.gelu(x) + skip
        return resize(self.head(x), size)


def _separable(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Depthwise convolution → GroupNorm → 1×1 convolution."""
    return separable(in_channels, out_channels, nn.GroupNorm(GROUPS, in_channels), kernel=kernel)


def _convert_official(published: StateDict) -> dict[str, Tensor]:
    """Rename published tensors; the two matrices of an external attention must still be tied."""
    names = {"bottleneck": "encoder6", "head": "final"}
    names |= {"spatial.conv": "scab.satt.shared_conv2d.0", "channel.mix": "scab.catt.get_all_att"}
    for i in range(5):
        names |= {
            f"encoder.{i}.0": f"encoder{i + 1}" if i > 2 else f"encoder{i + 1}.0",
            f"encoder.{i}.1": f"ebn{i + 1}",
            f"channel.heads.{i}": f"scab.catt.att{i + 1}",
            f"decoder.{i}.0": f"decoder{i + 1}" if i < 3 else f"decoder{i + 1}.0",
            f"decoder.{i}.1": f"dbn{i + 1}",
        }
    inner = {"enter": "conv1", "key": "linear_0.weight", "value": "linear_1.weight"}
    inner |= {"leave": "conv2", "norm": "norm_layer", "mix": "conv", "shortcut": "gau.cw"}
    inner |= {f"convs.{i}": f"mda{i}" for i in range(len(DILATIONS))}
    for ours, theirs in {"gate": "w1", "content": "w2", "out": "wo"}.items():
        for i, part in enumerate(("conv1", "norm_layer", "conv2")):
            inner[f"{ours}.{i}"] = f"gau.{theirs}.0.{part}"

    converted = {}
    for key in MALUNet().state_dict():
        ours = next(name for name in names if key.startswith(name + "."))
        rest = key.removeprefix(ours + ".")
        block, _, part = rest.partition(".")
        for mine, theirs in inner.items():
            if part == mine or part.startswith(mine + "."):
                rest = f"{block}.{theirs}{part.removeprefix(mine)}"
                break
        tensor = published[f"{names[ours]}.{rest}"]
        converted[key] = tensor.squeeze(-1) if key.endswith((".key", ".value")) else tensor
    for key in [key for key in converted if key.endswith(".key")]:
        if not torch.equal(converted[key], converted[key.removesuffix("key") + "value"].T):
            raise EgeunetError(
                "Cannot load this MALUNet checkpoint: linear_1 of an external attention is not the "
                "transpose of linear_0, as training on a GPU with the published code leaves it. "
                "Train the model with this package."
            )
    return converted


register(
    "malunet",
    MALUNet,
    paper="Ruan et al., MALUNet, BIBM 2022",
    arxiv="2211.01784",
    licence="no licence",
    table=("0.177", "0.085"),
    convert_official=_convert_official,
)
