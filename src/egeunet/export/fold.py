"""EGE-UNet as a graph made for speed: the same numbers in less time.

What a general exporter writes down operator by operator is rearranged here, by hand and exactly:

- The attention maps are functions of the weights alone and become constants.
- Means over the channels of a pixel are matrix products: runtimes have no fast reduction along
  that axis. In the bridges of large maps one product puts the groups together and takes their
  means away.
- A normalisation before a 1×1 convolution is part of it: with C the centring matrix I - 11ᵀ/n,
  `W norm(x) + b = (W diag(w) C) x / σ + (W bias + b)`. The last bridge and the head are one row.
- The four normalisations of a bridge are one. The affine part of a group normalisation moves
  behind the pooling (a quarter of the pixels) or before the upsampling (likewise).
- 1×1 convolutions and small upsamplings are matrix products, which stay in the plain layout:
  runtimes with a layout in blocks of 8 or 16 channels pad one channel to a block.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from egeunet.export.graph import Graph
from egeunet.models.egeunet import GAB, GHPA, GROUPS, EGEUNet

Array: TypeAlias = NDArray[np.float64]
Size: TypeAlias = tuple[int, int]

_BLOCK = 16  # channels of a block of ONNX Runtime's layout with AVX-512 or NEON; others divide it
_HALVE: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}


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


class _Writer(Graph):
    """Writes the parts of the network. Values are (B, C, H, W), or flat: (B, C, N), N = H·W."""

    def __init__(self) -> None:
        super().__init__()
        self.doublings: dict[int, str] = {}

    def network(self, model: Any, full: Size) -> None:
        x, size = "image", full
        skips: list[str] = []
        for stage in model.encoder:
            x = self.block(stage.block, x, size)
            x = self.add("Gelu", self.pooled_norm(stage.norm, x, size))
            size = (size[0] // 2, size[1] // 2)
            skips.append(x)
        x = high = self.add("Gelu", self.block(model.bottleneck, x, size))
        for level, decode in enumerate(model.decoder):
            bridge = model.bridges[level]
            x = self.norm(decode.norm, self.block(decode.block, x, size), size)
            high = self.pointwise(bridge.project, high, size)
            if level:
                size = (size[0] * 2, size[1] * 2)
                x, high = self.double(x, size), self.double(high, size)
            x = self.add("Gelu", x)
            mask = self.pointwise(model.mask_heads[level], x, size)
            joined = self.join(bridge, high, skips.pop(), mask, size)
            if level < len(model.decoder) - 1:
                high = self.mix_scales(bridge, joined, size)
            else:
                x = self.pointwise(model.head, x, size)
                high = self.mix_scales(bridge, joined, size, model.head)
            x = self.add("Add", x, high)
        self.add(
            "Resize",
            x,
            "",
            np.array([1, 1, 2, 2], np.float32),
            name="logits",
            mode="linear",
            coordinate_transformation_mode="align_corners",
        )

    # Parts that blocks share

    def flat(self, x: str, channels: int) -> str:
        return self.add("Reshape", x, [0, channels, -1])

    def tall(self, x: str, channels: int, size: Size) -> str:
        return self.add("Reshape", x, [0, channels, *size])

    def block(self, block: nn.Module, x: str, size: Size) -> str:
        return self.ghpa(block, x, size) if isinstance(block, GHPA) else self.conv(block, x)

    def conv(self, conv: nn.Module, x: str) -> str:
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        settings: dict[str, Any] = {}
        if conv.kernel_size != (1, 1):
            settings["pads"] = [int(pad) for pad in conv.padding] * 2
        if max(conv.dilation) > 1:
            settings["dilations"] = list(conv.dilation)
        if conv.groups > 1:
            settings["group"] = conv.groups
        return self.add("Conv", x, _numpy(conv.weight), _numpy(conv.bias), **settings)

    def linear(self, conv: nn.Module, x: str) -> str:
        """A 1×1 convolution of a flat value."""
        matrix, bias = _matrix(conv)
        return self.add("Add", self.add("MatMul", matrix, x), bias[:, None])

    def pointwise(self, conv: nn.Module, x: str, size: Size) -> str:
        assert isinstance(conv, nn.Conv2d)
        x = self.linear(conv, self.flat(x, conv.in_channels))
        return self.tall(x, conv.out_channels, size)

    def double(self, x: str, size: Size) -> str:
        """Upsample to `size` by two products with matrices that the runtime makes when it loads."""
        rows, columns = (self.doubling(length) for length in size)
        x = self.add("MatMul", rows, x)
        return self.add("MatMul", x, self.add("Transpose", columns, perm=[1, 0]))

    def doubling(self, length: int) -> str:
        """The matrix (length, length / 2): the identity, upsampled."""
        if length not in self.doublings:
            zeros = self.add("ConstantOfShape", [length // 2] * 2)
            self.doublings[length] = self.add(
                "Resize",
                self.add("EyeLike", zeros),
                "",
                np.array([2, 1], np.float32),
                mode="linear",
                coordinate_transformation_mode="align_corners",
            )
        return self.doublings[length]

    def affine(self, x: str, norm: nn.Module) -> str:
        weight, bias = _affine(norm)
        zero = np.zeros_like(weight)
        return self.add("BatchNormalization", x, weight, bias, zero, zero + 1, epsilon=0.0)

    def mean(self, x: str, channels: int) -> str:
        return self.add("MatMul", np.full((1, channels), 1 / channels), x)

    def divide(self, x: str | Array, variance: str, norm: nn.Module) -> str:
        eps = np.array(norm.eps)
        return self.add("Div", x, self.add("Sqrt", self.add("Add", variance, eps)))

    def layer_norm(self, x: str, channels: int, norm: nn.Module) -> str:
        """Normalise (…, C, N) over C, without the affine part."""
        x = self.add("Sub", x, self.mean(x, channels))
        return self.divide(x, self.mean(self.add("Mul", x, x), channels), norm)

    # Group normalisation

    def plain_norm(self, norm: nn.GroupNorm, x: str, size: Size) -> str:
        """A group normalisation without the affine part."""
        one = np.ones(norm.num_groups)
        x = self.flat(x, norm.num_groups)
        x = self.add("InstanceNormalization", x, one, 0 * one, epsilon=norm.eps)
        return self.tall(x, norm.num_channels, size)

    def norm(self, norm: nn.GroupNorm, x: str, size: Size) -> str:
        return self.affine(self.plain_norm(norm, x, size), norm)

    def pooled_norm(self, norm: nn.GroupNorm, x: str, size: Size) -> str:
        """A group normalisation and the maximum of 2×2 pixels, in the other order if possible."""
        weight, bias = _affine(norm)
        if (weight < 0).any():  # then the affine part does not commute with the maximum
            return self.add("MaxPool", self.norm(norm, x, size), **_HALVE)
        if norm.num_channels != _BLOCK:
            return self.affine(self.add("MaxPool", self.plain_norm(norm, x, size), **_HALVE), norm)
        # What pools and multiplies stays in the blocked layout, where it is full.
        groups = norm.num_groups
        weight, bias = weight.reshape(groups, -1), bias.reshape(groups, -1)
        even = np.full((_BLOCK // groups, 1), groups / _BLOCK)
        mean, square = (
            self.add("MatMul", self.add("Reshape", pooled, [0, groups, -1]), even)
            for pooled in (
                self.add("GlobalAveragePool", x),
                self.add("GlobalAveragePool", self.add("Mul", x, x)),
            )
        )
        variance = self.add("Sub", square, self.add("Mul", mean, mean))
        factor = self.divide(weight, variance, norm)
        offset = self.add("Sub", bias, self.add("Mul", mean, factor))
        x = self.add("Mul", self.add("MaxPool", x, **_HALVE), self.tall(factor, _BLOCK, (1, 1)))
        return self.add("Add", x, self.tall(offset, _BLOCK, (1, 1)))

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
        """The three maps over each other, (3C/4, N), spread out when the runtime loads."""
        with torch.no_grad():
            plane = block.height_width(*size)[0]
            tall = block.channel_height(size[0])[0].unsqueeze(-1)
            wide = block.channel_width(size[1])[0].unsqueeze(-2)
        shape = list(plane.shape)
        spread = [self.add("Expand", _numpy(one), shape) for one in (tall, wide)]
        maps = self.add("Concat", self.constant(_numpy(plane)), *spread, axis=0)
        return self.add("Reshape", maps, [3 * len(plane), -1])

    # Group aggregation bridge

    def join(self, bridge: Any, high: str, low: str, mask: str, size: Size) -> str:
        """Put the four groups together and normalise each."""
        norm = bridge.norm
        channels, low_channels = norm.weight.numel(), bridge.project.out_channels
        group, quarter = channels // GROUPS, low_channels // GROUPS
        grouped = [0, GROUPS, group, -1]
        if low_channels < _BLOCK:
            x = self.flat(self.add("Concat", high, low, mask, axis=1), 2 * low_channels + 1)
            centring = np.kron(np.eye(GROUPS), _centring(group))
            joining = self.constant(centring @ _assembly(low_channels), exact=True)
            x = self.add("MatMul", joining, x)
            x = self.add("Reshape", x, grouped)
            x = self.divide(x, self.mean(self.add("Mul", x, x), group), norm)
        else:
            halves = [self.split(one, [quarter] * GROUPS, axis=1) for one in (high, low)]
            parts = [part for pair in zip(*halves, strict=True) for part in (*pair, mask)]
            x = self.add("Reshape", self.add("Concat", *parts, axis=1), grouped)
            x = self.layer_norm(x, group, norm)
        return self.affine(self.tall(x, channels, size), norm)

    def mix_scales(self, bridge: Any, x: str, size: Size, head: nn.Conv2d | None = None) -> str:
        """The dilated convolutions, the normalisation and the 1×1 convolution after them.

        With `head` it is its 1×1 convolution of all this, but for the bias of the head.
        """
        group = bridge.norm.weight.numel() // GROUPS
        parts = self.split(x, [group] * GROUPS, axis=1)
        mixed = [self.conv(conv, part) for conv, part in zip(bridge.convs, parts, strict=True)]
        norm, last = bridge.tail
        channels = norm.weight.numel()
        matrix, bias = _matrix(last)
        if head is not None:
            row, _ = _matrix(head)
            matrix, bias = row @ matrix, row @ bias
        weight, shift = _affine(norm)
        bias = bias + matrix @ shift
        matrix = matrix * weight @ _centring(channels)
        x = self.flat(self.add("Concat", *mixed, axis=1), channels)
        mean, square = self.mean(x, channels), self.mean(self.add("Mul", x, x), channels)
        variance = self.add("Sub", square, self.add("Mul", mean, mean))
        x = self.divide(self.add("MatMul", matrix, x), variance, norm)
        return self.tall(self.add("Add", x, bias[:, None]), len(matrix), size)


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def _affine(norm: nn.Module) -> tuple[Array, Array]:
    return _numpy(norm.weight), _numpy(norm.bias)  # type: ignore[arg-type]


def _matrix(conv: nn.Module) -> tuple[Array, Array]:
    """The matrix and the bias of a 1×1 convolution."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    return _numpy(conv.weight)[:, :, 0, 0], _numpy(conv.bias)


def _centring(channels: int) -> Array:
    """The matrix that takes the mean away."""
    return np.eye(channels) - 1 / channels


def _assembly(channels: int) -> Array:
    """The 0-1 matrix from (high, low, mask) to four groups of a quarter of each and the mask."""
    quarter = channels // GROUPS
    rows = []
    for start in range(0, channels, quarter):
        own = range(start, start + quarter)
        rows += [*own, *(channels + one for one in own), 2 * channels]
    return np.eye(2 * channels + 1)[rows]
