"""UNeXt: MLP-based Rapid Medical Image Segmentation Network; the small variant UNeXt-S.

Valanarasu, Patel. MICCAI 2022, arXiv 2203.04967.

Three convolution stages, then two stages of tokenized MLPs. Their channel groups are shifted along
one image axis before each linear layer, so that a layer on single pixels sees neighbors.

Follows the published code: it shifts along the height first and the width second (the text: the
other way round), fills with zeros, and its MLPs are as wide inside as their stage. That code has
253,561 parameters; the 0.32 M printed in papers are not reproducible from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egeunet.errors import UsageError
from egeunet.models.layers import ChannelLayerNorm, check_input, conv_norm, init_fan_out, upsample
from egeunet.models.registry import StateDict, register

MULTIPLE = 32
REACH = 2  # channel groups are shifted by -2 … 2 pixels
EPS = 1e-5  # of the layer norms


class ShiftedMLP(nn.Module):
    """Tokenized MLP block: two layers on shifted channel groups, a depthwise 3×3 between them.

    Args:
        channels: C of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelLayerNorm(channels, eps=EPS)
        self.first = nn.Conv2d(channels, channels, 1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.second = nn.Conv2d(channels, channels, 1)
        self.apply(init_fan_out)
        for layer in (self.first, self.second):
            nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        y = self.first(shift(self.norm(x), dim=2))
        y = F.gelu(self.depthwise(y))
        return x + self.second(shift(y, dim=3))


class UNeXtS(nn.Module):
    """UNeXt-S.

    Args:
        in_channels: Channels of the image.
        num_classes: See `create_model`.
        widths: Channels of the five stages; (16, 32, 128, 160, 256) is the full UNeXt.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        widths: Sequence[int] = (8, 16, 32, 64, 128),
    ) -> None:
        super().__init__()
        if len(widths) != 5 or any(width < 1 for width in widths):
            raise UsageError(f"UNeXt takes five widths, each at least 1, got {list(widths)}.")
        self.in_channels = in_channels
        stages = list(itertools.pairwise((in_channels, *widths)))
        self.convs = nn.ModuleList(conv_norm(*pair, 3) for pair in stages[:3])
        self.tokens = nn.ModuleList(_embed(*pair) for pair in stages[3:])
        # From here on index 0 is the deepest level, in the order of the decoder.
        self.decoder = nn.ModuleList(conv_norm(deep, shallow, 3) for shallow, deep in stages[:0:-1])
        self.decoder_tokens = nn.ModuleList(_mlp(width) for width in (widths[3], widths[2]))
        self.last = nn.Conv2d(widths[0], widths[0], 3, padding=1)
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), H and W divisible by 32, to logits (B, num_classes, H, W)."""
        check_input(x, self.in_channels, MULTIPLE)
        skips: list[Tensor] = []
        for conv in self.convs:
            x = F.relu(F.max_pool2d(conv(x), 2))
            skips.append(x)
        for tokens in self.tokens:
            x = tokens(x)
            skips.append(x)
        x = skips.pop()  # (B, C5, H/32, W/32)
        for level, decode in enumerate(self.decoder):
            x = F.relu(upsample(decode(x))) + skips.pop()
            if level < len(self.decoder_tokens):
                x = self.decoder_tokens[level](x)
        return self.head(F.relu(upsample(self.last(x))))


def shift(x: Tensor, dim: int) -> Tensor:
    """Shift five channel groups of (B, C, H, W) by -2 … 2 pixels along `dim`, filled with zeros."""
    length = x.shape[dim]
    pad = (0, 0, REACH, REACH) if dim == 2 else (REACH, REACH)
    groups = F.pad(x, pad).chunk(2 * REACH + 1, dim=1)
    # Group i is shifted by i - 2.
    return torch.cat([g.narrow(dim, 2 * REACH - i, length) for i, g in enumerate(groups)], dim=1)


def _mlp(channels: int) -> nn.Sequential:
    return nn.Sequential(ShiftedMLP(channels), ChannelLayerNorm(channels, eps=EPS))


def _embed(in_channels: int, out_channels: int) -> nn.Sequential:
    """Overlapping patch embedding at half the resolution, then an MLP block."""
    project = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
    init_fan_out(project)
    return nn.Sequential(project, ChannelLayerNorm(out_channels, eps=EPS), *_mlp(out_channels))


def _convert_official(published: StateDict) -> dict[str, Tensor]:
    """Rename published tensors; linear layers over the channels are 1×1 convolutions here."""
    blocks = {"tokens.0.2": "block1", "tokens.1.2": "block2"}
    blocks |= {"decoder_tokens.0.0": "dblock1", "decoder_tokens.1.0": "dblock2"}
    names = {"last": "decoder5", "head": "final"}
    for i in range(3):
        names |= {f"convs.{i}.0": f"encoder{i + 1}", f"convs.{i}.1": f"ebn{i + 1}"}
    for i in range(4):
        names |= {f"decoder.{i}.0": f"decoder{i + 1}", f"decoder.{i}.1": f"dbn{i + 1}"}
    for i in range(2):
        embed = f"patch_embed{i + 3}"
        names |= {f"tokens.{i}.0": f"{embed}.proj", f"tokens.{i}.1": f"{embed}.norm"}
        names |= {f"tokens.{i}.3": f"norm{i + 3}", f"decoder_tokens.{i}.1": f"dnorm{i + 3}"}
    for ours, theirs in blocks.items():
        names |= {f"{ours}.norm": f"{theirs}.0.norm2", f"{ours}.first": f"{theirs}.0.mlp.fc1"}
        names |= {f"{ours}.depthwise": f"{theirs}.0.mlp.dwconv.dwconv"}
        names |= {f"{ours}.second": f"{theirs}.0.mlp.fc2"}
    converted = {}
    for key in UNeXtS().state_dict():
        module, _, kind = key.rpartition(".")
        tensor = published[f"{names[module]}.{kind}"]
        converted[key] = tensor[:, :, None, None] if tensor.dim() == 2 else tensor
    return converted


register(
    "unext_s",
    UNeXtS,
    paper="Valanarasu & Patel, UNeXt, MICCAI 2022",
    arxiv="2203.04967",
    licence="MIT",
    table=("0.32", "0.10"),
    convert_official=_convert_official,
)
