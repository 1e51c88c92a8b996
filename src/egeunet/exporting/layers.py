"""Layers written as operators that run fast, with the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from egeunet.exporting.graph import Graph

Array: TypeAlias = NDArray[np.float64]
Size: TypeAlias = tuple[int, int]


class Layers(Graph):
    """Writes layers. Values are (B, C, H, W), or flat: (B, C, N), N = H·W."""

    def __init__(self) -> None:
        super().__init__()
        self._flats: dict[str, str] = {}  # the flat value of a value
        self._shapes: dict[str, list[int]] = {}

    def flat(self, x: str, channels: int) -> str:
        """Make a value flat, of its own number of channels, once."""
        if x not in self._flats:
            self._flats[x] = self.add("Reshape", x, [0, channels, -1])
        return self._flats[x]

    def tall(self, x: str, channels: int, size: Size) -> str:
        """Undo `flat`; where nobody needs the value it is left out in the end."""
        shape = [0, channels, *size]
        made = self.add("Reshape", x, shape)
        self._flats[made], self._shapes[made] = x, shape
        return made

    def each(self, operator: str, *values: str) -> str:
        """An operator on single elements, done on flat values if there are any."""
        shape = next((self._shapes[one] for one in values if one in self._shapes), None)
        if shape is None or not all(one in self._flats for one in values):
            return self.add(operator, *values)
        made = self.add(operator, *(self._flats[one] for one in values))
        return self.tall(made, shape[1], (shape[2], shape[3]))

    def conv(self, conv: nn.Module, x: str) -> str:
        """A 2-D convolution of stride 1."""
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        settings: dict[str, Any] = {}
        if conv.kernel_size != (1, 1):
            settings["pads"] = [int(pad) for pad in conv.padding] * 2
        if max(conv.dilation) > 1:
            settings["dilations"] = list(conv.dilation)
        if conv.groups > 1:
            settings["group"] = conv.groups
        return self.add("Conv", x, numpy_of(conv.weight), numpy_of(conv.bias), **settings)

    def linear(self, conv: nn.Module, x: str) -> str:
        """A 1×1 convolution of a flat value."""
        matrix, bias = matrix_of(conv)
        return self.product(matrix, x, bias)

    def product(self, matrix: Array, x: str, bias: Array | None = None) -> str:
        """`matrix @ x + bias` of a flat value.

        As a convolution along one axis: one operator, and runtimes leave the layout as it is. One
        or two rows are faster as a product.
        """
        if len(matrix) > 2:
            return self.add("Conv", x, matrix[:, :, None], *(() if bias is None else (bias,)))
        x = self.add("MatMul", matrix, x)
        return x if bias is None else self.add("Add", x, bias[:, None])

    def pointwise(self, conv: nn.Module, x: str, size: Size) -> str:
        """A 1×1 convolution."""
        assert isinstance(conv, nn.Conv2d)
        x = self.linear(conv, self.flat(x, conv.in_channels))
        return self.tall(x, conv.out_channels, size)

    def upsample(self, x: str, factor: Sequence[float] = (2, 2), name: str = "") -> str:
        """Bilinear, the corners kept."""
        return self.add(
            "Resize",
            x,
            "",
            np.array([1, 1, *factor], np.float32),
            name=name,
            mode="linear",
            coordinate_transformation_mode="align_corners",
        )

    def affine(self, x: str, norm: nn.Module) -> str:
        """The weight and bias of a normalization, a pair for each channel."""
        weight, bias = affine_of(norm)
        zero = np.zeros_like(weight)
        return self.add("BatchNormalization", x, weight, bias, zero, zero + 1, epsilon=0.0)

    def layer_norm(self, x: str, channels: int, norm: nn.Module) -> str:
        """Normalize (…, C, N) over C, without the affine part."""
        mean = mean_row(channels)
        return self.divide(self.add("Sub", x, self.add("MatMul", mean, x)), mean, norm)

    def divide(self, x: str, mean: Array, norm: nn.Module) -> str:
        """Divide what has the mean 0 by √(variance + ε)."""
        variance = self.add("MatMul", mean, self.add("Mul", x, x))
        deviation = self.add("Sqrt", self.add("Add", variance, np.array(norm.eps)))
        return self.add("Mul", x, self.add("Reciprocal", deviation))

    def group_norm(self, norm: nn.GroupNorm, x: str, shape: Sequence[int]) -> str:
        """A group normalization without the affine part, its result reshaped."""
        one = np.ones(norm.num_groups)
        x = self.add("Reshape", self._flats.get(x, x), [0, norm.num_groups, -1])
        x = self.add("InstanceNormalization", x, one, 0 * one, epsilon=norm.eps)
        return self.add("Reshape", x, [*shape])

    def pool(self, x: str) -> str:
        """The maximum of 2×2 pixels."""
        return self.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])


def numpy_of(tensor: Tensor) -> Array:
    """A parameter in double precision."""
    return tensor.detach().double().numpy()


def affine_of(norm: nn.Module) -> tuple[Array, Array]:
    """The weight and the bias of a normalization."""
    return numpy_of(norm.weight), numpy_of(norm.bias)  # type: ignore[arg-type]


def matrix_of(conv: nn.Module) -> tuple[Array, Array]:
    """The matrix and the bias of a 1×1 convolution."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    return numpy_of(conv.weight)[:, :, 0, 0], numpy_of(conv.bias)


def mean_row(channels: int) -> Array:
    """The row that takes the mean."""
    return np.full((1, channels), 1 / channels)


def centring(channels: int) -> Array:
    """The matrix that takes the mean away."""
    return np.eye(channels) - 1 / channels
