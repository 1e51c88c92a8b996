"""EGE-UNet as a graph made for speed: the same numbers in less time.

What a general exporter writes down operator by operator is rearranged here, by hand and exactly:

- What depends on weights alone, such as attention maps, a runtime computes once, when it loads.
- Means over the channels of a pixel are matrix products: runtimes have no fast reduction along
  that axis. In the bridge of the largest map one product puts the groups together and takes their
  means away.
- A normalisation before a 1×1 convolution is part of it: with C the centring matrix I - 11ᵀ/n,
  `W norm(x) + b = (W diag(w) C) x / σ + (W bias + b)`. The last bridge and the head are one row.
- The four normalisations of a bridge are one. The affine part of a group normalisation moves
  behind the pooling (a quarter of the pixels) or before the upsampling (likewise).
- Runtimes with a layout in blocks of 16 channels waste half a block on 8 of them: there two rows
  of the image are computed as one. 1×1 convolutions stay in the plain layout; upsampling leaves it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from egeunet.exporting.layers import (
    BLOCK,
    Array,
    Layers,
    Size,
    affine_of,
    centring,
    matrix_of,
    mean_row,
    numpy_of,
)
from egeunet.models.egeunet import GAB, GHPA, GROUPS, EGEUNet


def can_fold(model: nn.Module) -> bool:
    """Tell whether `fold` knows a network: the whole EGE-UNet with one class."""
    if not isinstance(model, EGEUNet) or not model.mask_heads or model.head.out_channels != 1:
        return False
    blocks = [stage.block for stage in [*model.encoder, *model.decoder]] + [model.bottleneck]
    return all(isinstance(block, (nn.Conv2d, GHPA)) for block in blocks) and (
        len(model.bridges) > 0 and all(isinstance(bridge, GAB) for bridge in model.bridges)
    )


def fold(model: EGEUNet, size: Size) -> onnx.ModelProto:
    """Write an EGE-UNet as `image`, float32 (B, 3, H, W), to `logits`, float32 (B, 1, H, W).

    Args:
        model: In eval mode; see `can_fold`.
        size: H and W, divisible by 32.

    Returns:
        The graph; B is free.
    """
    writer = _Writer()
    writer.network(model, size)
    image, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, *size])
        for name, channels in (("image", model.in_channels), ("logits", 1))
    )
    return writer.model([image], [logits], "core")


class _Writer(Layers):
    """Writes the parts of the network."""

    def network(self, model: Any, full: Size) -> None:
        x, size = "image", full
        skips: list[str] = []
        for stage in model.encoder:
            x = self.add("Gelu", self.encode(stage.block, stage.norm, x, size))
            size = (size[0] // 2, size[1] // 2)
            skips.append(x)
        x = self.block(model.bottleneck, x, size)
        x = high = self.each("Gelu", x)
        for level, decode in enumerate(model.decoder):
            bridge = model.bridges[level]
            x = self.decode(decode.block, decode.norm, x, size)
            high = self.pointwise(bridge.project, high, size)
            if level:
                size = (size[0] * 2, size[1] * 2)
                x, high = self.double(x, decode.norm, high)
            else:
                x = self.affine(x, decode.norm)
            x = self.add("Gelu", x)
            if level < len(model.decoder) - 1:
                mask = self.pointwise(model.mask_heads[level], x, size)
                high = self.bridge(bridge, high, skips.pop(), mask, size)
            else:
                mask, x = self.both(model.mask_heads[level], model.head, x, size)
                high = self.bridge(bridge, high, skips.pop(), mask, size, model.head)
            x = self.each("Add", x, high)
        self.upsample(x, name="logits")

    def block(self, block: nn.Module, x: str, size: Size) -> str:
        return self.ghpa(block, x, size) if isinstance(block, GHPA) else self.conv(block, x)

    def encode(self, block: nn.Module, norm: nn.GroupNorm, x: str, size: Size) -> str:
        """A block, a group normalisation and the maximum of 2×2 pixels."""
        channels = norm.num_channels
        # Where the weights are positive the affine part commutes with the maximum.
        commutes = bool((norm.weight >= 0).all())
        if isinstance(block, nn.Conv2d) and commutes and channels in (BLOCK, BLOCK // 2):
            return self.encode_blocked(block, norm, x)
        x = self.group_norm(norm, self.block(block, x, size), [0, channels, *size])
        if commutes:
            return self.affine(self.pool(x), norm)
        return self.pool(self.affine(x, norm))

    def encode_blocked(self, conv: nn.Conv2d, norm: nn.GroupNorm, x: str) -> str:
        """The same; convolution, statistics and pooling stay in the blocked layout."""
        channels, rows = norm.num_channels, BLOCK // norm.num_channels
        weight, bias = affine_of(norm)
        x = self.rows(conv, x, rows, axis=0)
        group = np.arange(BLOCK) % channels // (channels // norm.num_groups)
        even = (group[:channels, None] == group) * norm.num_groups / BLOCK  # mean over the group
        mean, square = (
            self.product(even, self.flat(self.add("GlobalAveragePool", one), BLOCK), shift)
            for one, shift in ((x, None), (self.add("Mul", x, x), np.full(channels, norm.eps)))
        )
        deviation = self.add("Sqrt", self.add("Sub", square, self.add("Mul", mean, mean)))
        factor = self.add("Div", weight[:, None], deviation)
        offset = self.add("Sub", bias[:, None], self.add("Mul", mean, factor))
        x = self.pool(x, height=2 // rows)
        if rows > 1:
            x = self.add("Max", *self.split(x, [channels] * rows, axis=1))
        x = self.add("Mul", x, self.tall(factor, channels, (1, 1)))
        return self.add("Add", x, self.tall(offset, channels, (1, 1)))

    def decode(self, block: nn.Module, norm: nn.GroupNorm, x: str, size: Size) -> str:
        """A block and a group normalisation without its affine part."""
        channels = norm.num_channels
        if not isinstance(block, nn.Conv2d) or channels != BLOCK // 2:
            return self.group_norm(norm, self.block(block, x, size), [0, channels, *size])
        x = self.rows(block, x, 2, axis=1)
        x = self.group_norm(norm, x, [-1, 2, size[0] // 2, size[1]])
        x = self.add("Transpose", x, perm=[0, 2, 1, 3])
        return self.add("Reshape", x, [-1, channels, *size])

    def both(self, one: nn.Conv2d, other: nn.Conv2d, x: str, size: Size) -> list[str]:
        """Two 1×1 convolutions of the same to one channel each."""
        parts = [
            np.concatenate(pair) for pair in zip(matrix_of(one), matrix_of(other), strict=True)
        ]
        x = self.product(parts[0], self.flat(x, one.in_channels), parts[1])
        return [self.tall(part, 1, size) for part in self.split(x, [1, 1], axis=1)]

    def double(self, x: str, norm: nn.Module, high: str) -> list[str]:
        """The affine part of x, and high, upsampled together.

        A convolution brings them into the blocked layout, where upsampling is fastest.
        """
        weight, bias = affine_of(norm)
        channels = len(weight)
        weight = np.concatenate([weight, np.ones(channels)])[:, None, None, None]
        bias = np.concatenate([bias, np.zeros(channels)])
        x = self.add("Concat", x, high, axis=1)
        x = self.add("Conv", x, weight, bias, group=2 * channels)
        return self.split(self.upsample(x), [channels, channels], axis=1)

    # Grouped multi-axis Hadamard product attention

    def ghpa(self, block: GHPA, x: str, size: Size) -> str:
        channels = block.norm.weight.numel()
        group = channels // GROUPS
        x = self.layer_norm(self.flat(x, channels), channels, block.norm)
        x = self.affine(x, block.norm)
        held, rest = self.split(x, [3 * group, group], axis=1)
        held = self.add("Mul", held, self.attention(block, size))
        first, _, second = block.local
        rest = self.add("Gelu", self.linear(first, rest))
        rest = self.flat(self.conv(second, self.tall(rest, group, size)), group)
        norm, depthwise, _, last = block.mix
        x = self.layer_norm(self.add("Concat", held, rest, axis=1), channels, norm)
        x = self.tall(self.affine(x, norm), channels, size)
        return self.pointwise(last, self.add("Gelu", self.conv(depthwise, x)), size)

    def attention(self, block: GHPA, size: Size) -> str:
        """The three maps over each other, (3C/4, N)."""
        with torch.no_grad():
            tall = block.channel_height(size[0])[0].unsqueeze(-1)
            wide = block.channel_width(size[1])[0].unsqueeze(-2)
        plane = block.height_width
        factor = [side / length for side, length in zip(size, plane.tensor.shape[2:], strict=True)]
        x = self.upsample(self.constant(numpy_of(plane.tensor)), factor)
        if isinstance(plane.refine, nn.Sequential):
            first, _, second = plane.refine
            x = self.conv(second, self.add("Gelu", self.conv(first, x)))
        shape = [1, len(tall), *size]
        maps = [x, *(self.add("Expand", numpy_of(one), shape) for one in (tall, wide))]
        return self.add("Reshape", self.add("Concat", *maps, axis=0), [3 * len(tall), -1])

    # Group aggregation bridge

    def join(self, bridge: Any, high: str, low: str, mask: str, size: Size) -> str:
        """Put the four groups together and normalise each."""
        norm = bridge.norm
        channels, low_channels = norm.weight.numel(), bridge.project.out_channels
        group, quarter = channels // GROUPS, low_channels // GROUPS
        grouped = [0, GROUPS, group, -1]
        if low_channels < BLOCK:
            x = self.flat(self.add("Concat", high, low, mask, axis=1), 2 * low_channels + 1)
            without_means = np.kron(np.eye(GROUPS), centring(group))
            x = self.product(without_means @ _assembly(low_channels), x)
            x = self.divide(self.add("Reshape", x, grouped), mean_row(group), norm)
        else:
            halves = [self.split(one, [quarter] * GROUPS, axis=1) for one in (high, low)]
            parts = [part for pair in zip(*halves, strict=True) for part in (*pair, mask)]
            x = self.add("Reshape", self.add("Concat", *parts, axis=1), grouped)
            x = self.layer_norm(x, group, norm)
        return self.affine(self.add("Reshape", x, [0, channels, *size]), norm)

    def bridge(
        self,
        bridge: Any,
        high: str,
        low: str,
        mask: str,
        size: Size,
        head: nn.Conv2d | None = None,
    ) -> str:
        """A bridge; with `head` its 1×1 convolution of all this, but for the bias of the head."""
        group = bridge.norm.weight.numel() // GROUPS
        parts = self.split(self.join(bridge, high, low, mask, size), [group] * GROUPS, axis=1)
        mixed = [self.conv(conv, part) for conv, part in zip(bridge.convs, parts, strict=True)]
        norm, last = bridge.tail
        channels = norm.weight.numel()
        x = self.flat(self.add("Concat", *mixed, axis=1), channels)
        weight, shift = affine_of(norm)
        matrix, bias = matrix_of(last)
        row = mean_row(channels)
        square = self.add("MatMul", row, self.add("Mul", x, x))
        if head is None:
            mean = self.add("MatMul", row, x)
            bias = bias + matrix @ shift
            x = self.product(matrix * weight @ centring(channels), x)
        else:
            of_head, _ = matrix_of(head)
            matrix, bias = of_head @ matrix, of_head @ (bias + matrix @ shift)
            both = np.concatenate([matrix * weight @ centring(channels), row])
            x, mean = self.split(self.product(both, x), [len(matrix), 1], axis=1)
        variance = self.add("Sub", square, self.add("Mul", mean, mean))
        deviation = self.add("Sqrt", self.add("Add", variance, np.array(norm.eps)))
        x = self.add("Add", self.add("Div", x, deviation), bias[:, None])
        return self.tall(x, len(bias), size)


def _assembly(channels: int) -> Array:
    """The 0-1 matrix from (high, low, mask) to four groups of a quarter of each and the mask."""
    quarter = channels // GROUPS
    rows = []
    for start in range(0, channels, quarter):
        own = range(start, start + quarter)
        rows += [*own, *(channels + one for one in own), 2 * channels]
    return np.eye(2 * channels + 1)[rows]
