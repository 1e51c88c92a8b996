"""Smaller ONNX files: weights stored in float16 or in six-bit integers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.helper import make_node, make_tensor
from onnx.numpy_helper import to_array

from egeunet.exporting.graph import Graph

_MIDDLE = 31  # of the 63 steps that six bits can tell around 0
_FEW = 8  # values in a row that has a scale of its own; shorter rows stay in half precision


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its constants in float16; it computes in float32 as before.

    The conversion back depends on constants alone, so that a runtime does it once, at loading.
    """
    return _store(model, whole_numbers=False)


def store_int6(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its weights in whole numbers; it computes in float32 as before.

    Each row of a weight (an output channel) is rounded to 63 steps, symmetric around 0, and has its
    own scale; four steps lie in three bytes. Vectors, such as biases, are kept in float16.
    """
    return _store(model, whole_numbers=True)


def _store(model: onnx.ModelProto, whole_numbers: bool) -> onnx.ModelProto:
    """Stack the constants whose rows have the same shape, round them, and split them again.

    One array for many constants saves what the file would say of each.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    graph = small.graph
    kept: list[onnx.TensorProto] = []
    made = Graph("s")
    alike: dict[tuple[int, ...], dict[str, NDArray[np.float32]]] = defaultdict(dict)
    for constant in graph.initializer:
        values = to_array(constant)
        if values.dtype != np.float32 or values.size <= 4:  # the factors of a Resize stay constants
            kept.append(constant)
        elif (values == values.flat[0]).all():
            # Exactly: the rows of 1 / C that means are taken with would suffer most.
            value = make_tensor("", TensorProto.FLOAT, [1], values.flat[:1])
            made.add("ConstantOfShape", list(values.shape), name=constant.name, value=value)
        else:
            alike[values.shape[1:]][constant.name] = values
    stacks = {row: np.concatenate(list(members.values())) for row, members in alike.items()}
    rounded = {
        row: _round(stack)
        for row, stack in stacks.items()
        if whole_numbers and math.prod(row) >= _FEW
    }
    steps = _unpack(made, [steps for steps, _ in rounded.values()]) if rounded else []
    for row, step in zip(rounded, steps, strict=True):
        scale = made.add("Cast", rounded[row][1], to=TensorProto.FLOAT)
        _split(made, made.add("Mul", step, scale), alike[row])
    for row in (row for row in alike if row not in rounded):
        half = stacks[row].astype(np.float16)
        _split(made, made.add("Cast", half, to=TensorProto.FLOAT), alike[row])
    del graph.initializer[:]
    graph.initializer.extend([*kept, *made.constants])
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*made.nodes, *nodes])
    return small


def _round(rows: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Return steps from 0 on and each row's scale: `rows` is near (steps - _MIDDLE) · scale."""
    largest = np.abs(rows).max(axis=tuple(range(1, rows.ndim)), keepdims=True)
    scale = np.maximum(largest / _MIDDLE, 1e-6).astype(np.float16)
    steps = np.rint(rows / scale.astype(np.float32)).clip(-_MIDDLE, _MIDDLE)
    return (steps + _MIDDLE).astype(np.uint8), scale


def _unpack(graph: Graph, arrays: Sequence[NDArray[np.uint8]]) -> list[str]:
    """Pack arrays of six-bit steps, and add what gives them back as floats around 0."""
    flat = np.concatenate([array.reshape(-1) for array in arrays])
    quarters = np.pad(flat, (0, -len(flat) % 4)).reshape(4, -1)
    # The last quarter's bits lie above those of the others, two in each.
    parts = np.stack([quarters[3] >> shift & 3 for shift in (0, 2, 4)])
    packed = graph.constant((quarters[:3] | parts << 6).astype(np.uint8))
    low = graph.add("BitwiseAnd", packed, np.array(63, np.uint8))
    high = graph.add("BitShift", packed, np.array(6, np.uint8), direction="RIGHT")
    last = graph.add(
        "MatMul",
        np.array([[1, 4, 16]], np.float32),
        graph.add("Cast", high, to=TensorProto.FLOAT),
    )
    steps = graph.add("Concat", graph.add("Cast", low, to=TensorProto.FLOAT), last, axis=0)
    around = graph.add("Sub", steps, np.array(_MIDDLE, np.float32))
    sizes = [array.size for array in arrays]
    rest = quarters.size - len(flat)
    pieces = graph.split(graph.add("Reshape", around, [-1]), [*sizes, rest], axis=0)
    return [
        graph.add("Reshape", piece, list(array.shape))
        for piece, array in zip(pieces, arrays, strict=False)
    ]


def _split(graph: Graph, stack: str, members: Mapping[str, NDArray[np.float32]]) -> None:
    """Add what gives the members of a stack back under their names."""
    sizes = graph.constant([len(values) for values in members.values()])
    graph.nodes.append(make_node("Split", [stack, sizes], list(members), axis=0))
