"""A small hand to write ONNX graphs with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPSET = 20  # the first with Gelu
IR_VERSION = 9


class Graph:
    """Nodes in the order they run, and the constants they use; values are known by name.

    Args:
        prefix: Begins every name that is made up here, so that graphs can be put together.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names: dict[object, str] = {}

    def constant(self, values: NDArray[Any] | list[int]) -> str:
        """Keep an array once, float64 as float32, a list as int64; return its name."""
        array = np.array(values, np.int64) if isinstance(values, list) else np.asarray(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (array.shape, array.dtype.str, array.tobytes())
        if key not in self._names:
            name = self._names[key] = f"{self.prefix}c{len(self._names)}"
            constant = numpy_helper.from_array(np.asarray(array, order="C"), name)
            self.constants.append(constant)
        return self._names[key]

    def add(
        self,
        operator: str,
        *inputs: str | NDArray[Any] | list[int],
        name: str = "",
        **settings: Any,
    ) -> str:
        """Append a node with one output; return the output's name.

        Args:
            operator: One of the standard operators.
            *inputs: Names of values, or what becomes a constant.
            name: What the output is called; numbered by default.
            **settings: The node's attributes.
        """
        made = name or f"{self.prefix}{len(self.nodes)}"
        self._append(operator, inputs, [made], settings)
        return made

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        """Append a Split of `x` into parts of `sizes`; return their names."""
        made = [f"{self.prefix}{len(self.nodes)}.{index}" for index in range(len(sizes))]
        self._append("Split", (x, sizes), made, {"axis": axis})
        return made

    def _append(
        self,
        operator: str,
        inputs: tuple[str | NDArray[Any] | list[int], ...],
        outputs: list[str],
        settings: dict[str, Any],
    ) -> None:
        given = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        self.nodes.append(helper.make_node(operator, given, outputs, **settings))

    def model(
        self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], name: str
    ) -> onnx.ModelProto:
        """Return what the outputs need as a model."""
        needed = {one.name for one in outputs}
        nodes = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        constants = [one for one in self.constants if one.name in needed]
        graph = helper.make_graph(nodes[::-1], name, inputs, outputs, constants)
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)


def shorten(model: onnx.ModelProto) -> None:
    """Give the values inside a graph short names: those that libraries make up fill the file."""
    graph = model.graph
    names = {one.name: one.name for one in [*graph.input, *graph.output]} | {"": ""}
    for one in graph.initializer:
        one.name = names.setdefault(one.name, f"c{len(names)}")
    for node in graph.node:
        node.name = ""
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = names.setdefault(name, str(len(names)))
    del graph.value_info[:]
