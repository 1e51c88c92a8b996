"""EGE-UNet as an ONNX graph that runs faster than torch's own export, with the same numbers.

- Attention maps depend on weights alone: a runtime computes them once, when it loads the graph.
- Means over the channels of a pixel are matrix products: runtimes have no fast reduction along
  that axis.
- A normalization before a 1×1 convolution is part of it; see `egeunet.exporting.engine`. The last
  bridge and the head are one row.
- The four normalizations of a bridge are one. The affine part of a group normalization moves
  behind the pooling (a quarter of the pixels) or before the upsampling (likewise).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from egeunet.exporting.layers import (
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
    """Return whether `fold` knows a model: the whole EGE-UNet with one class."""
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
            channels = decode.norm.num_channels
            x = self.block(decode.block, x, size)
            x = self.group_norm(decode.norm, x, [0, channels, *size])
            x = self.affine(x, decode.norm)
            high = self.pointwise(bridge.project, high, size)
            if level:
                size = (size[0] * 2, size[1] * 2)
                x, high = self.upsample(x), self.upsample(high)
            x = self.add("Gelu", x)
            mask = self.pointwise(model.mask_heads[level], x, size)
            head = None
            if level == len(model.decoder) - 1:
                head = model.head
                x = self.pointwise(head, x, size)
            high = self.bridge(bridge, high, skips.pop(), mask, size, head)
            x = self.each("Add", x, high)
        self.upsample(x, name="logits")

    def block(self, block: nn.Module, x: str, size: Size) -> str:
        return self.ghpa(block, x, size) if isinstance(block, GHPA) else self.conv(block, x)

    def encode(self, block: nn.Module, norm: nn.GroupNorm, x: str, size: Size) -> str:
        """A block, a group normalization and the maximum of 2×2 pixels."""
        x = self.group_norm(norm, self.block(block, x, size), [0, norm.num_channels, *size])
        if (norm.weight >= 0).all():  # then the affine part commutes with the maximum
            return self.affine(self.pool(x), norm)
        return self.pool(self.affine(x, norm))

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
        """Put the four groups together and normalize each."""
        norm = bridge.norm
        channels, quarter = norm.weight.numel(), bridge.project.out_channels // GROUPS
        group = channels // GROUPS
        halves = [self.split(one, [quarter] * GROUPS, axis=1) for one in (high, low)]
        parts = [part for pair in zip(*halves, strict=True) for part in (*pair, mask)]
        x = self.add("Reshape", self.add("Concat", *parts, axis=1), [0, GROUPS, group, -1])
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
