"""Smaller files: weights in half precision or in eight bits, and convolutions in eight bits."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.helper import make_node, make_tensor
from onnx.numpy_helper import from_array, to_array

from egeunet.export.graph import shorten
from egeunet.inference.preprocess import to_input

_FEW = 8  # values in a row that has a scale of its own; shorter rows stay in half precision


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its constants in float16; it computes in float32 as before.

    The conversion back depends on constants alone, so that a runtime does it once, at loading.
    """
    return _store(model, eight_bits=False)


def store_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its weights in int8; it computes in float32 as before.

    Each row of a weight (an output channel) is rounded to 255 steps, symmetric around 0, and has
    its own scale. Vectors, such as biases, are kept in float16.
    """
    return _store(model, eight_bits=True)


def _store(model: onnx.ModelProto, eight_bits: bool) -> onnx.ModelProto:
    """Stack the constants whose rows have the same shape, round them, and split them again.

    One array for many constants saves what the file would say of each.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph = small.graph
    kept: list[onnx.TensorProto] = []
    made: list[onnx.NodeProto] = []
    alike: dict[tuple[int, ...], list[tuple[str, NDArray[np.float32]]]] = defaultdict(list)
    for constant in graph.initializer:
        values = to_array(constant)
        if values.dtype != np.float32 or not values.shape:
            kept.append(constant)
        elif (values == values.flat[0]).all():
            # Exactly: the rows of 1 / C that means are taken with would suffer most.
            shape = from_array(np.array(values.shape, np.int64), f"{constant.name}n")
            value = make_tensor("", TensorProto.FLOAT, [1], values.flat[:1])
            kept.append(shape)
            made.append(make_node("ConstantOfShape", [shape.name], [constant.name], value=value))
        else:
            alike[values.shape[1:]].append((constant.name, values))
    for row, members in alike.items():
        names = [name for name, _ in members]
        stack = np.concatenate([values for _, values in members])
        name = f"s{len(made)}"
        if eight_bits and math.prod(row) >= _FEW:
            steps, scales = _round(stack)
            kept += [from_array(steps, f"{name}q"), from_array(scales, f"{name}h")]
            made += [
                make_node("Cast", [f"{name}q"], [f"{name}x"], to=TensorProto.FLOAT),
                make_node("Cast", [f"{name}h"], [f"{name}y"], to=TensorProto.FLOAT),
                make_node("Mul", [f"{name}x", f"{name}y"], [name]),
            ]
        else:
            kept.append(from_array(stack.astype(np.float16), f"{name}h"))
            made.append(make_node("Cast", [f"{name}h"], [name], to=TensorProto.FLOAT))
        kept.append(from_array(np.array([len(one) for _, one in members], np.int64), f"{name}n"))
        made.append(make_node("Split", [name, f"{name}n"], names, axis=0))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(made + nodes)
    return small


def _round(rows: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Return int8 steps and the scale of each row such that steps · scale is near `rows`."""
    largest = np.abs(rows).max(axis=tuple(range(1, rows.ndim)), keepdims=True)
    scale = np.maximum(largest / 127, 1e-6).astype(np.float16)
    steps = np.rint(rows / scale.astype(np.float32))
    return steps.clip(-127, 127).astype(np.int8), scale


def quantize_static(model: onnx.ModelProto, photos: Sequence[NDArray[np.uint8]]) -> onnx.ModelProto:
    """Return the graph with its convolutions in int8, and its other weights stored in int8.

    Weights are symmetric with a scale per channel; the ranges of the activations are the largest
    that the photos give. What normalises and attends stays in float32.

    Args:
        model: A graph from `image` to `logits`.
        photos: To calibrate with, RGB uint8 (H, W, 3).
    """
    from onnxruntime import quantization

    _, _, height, width = (one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim)

    class Photos(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.images = (to_input(photo, (height, width))[None] for photo in photos)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self.images, None)
            return None if image is None else {"image": image}

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises a preprocessing that has been done
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # the library moves the weights of what it is given to a file
    with TemporaryDirectory() as folder:
        path = Path(folder, "static.onnx")
        quantization.quantize_static(
            copy,
            path,
            Photos(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
        )
        quantized = onnx.load(path)
    logger.setLevel(level)
    shorten(quantized)
    return _store(quantized, eight_bits=True)
