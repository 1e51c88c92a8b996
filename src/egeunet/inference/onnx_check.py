"""Checks that an ONNX file is safe to open: known operators, no other files, bounded size.

ONNX Runtime opens the files that a graph names and allocates what it asks for. So a file is first
read by the small protobuf reader below, and refused unless it has only the message fields and
operators that `egeunet export` writes. Then ONNX Runtime infers the shape of every value for one
image, in a process of its own with limits, from a copy of the graph without its weights and without
computing anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from egeunet.errors import EgeunetError

MAX_ELEMENTS = 2**26
"""Elements of one value, for one image (256 MB in float32)."""
MAX_TOTAL = 2**30
"""Elements of all values together, for one image (4 GB in float32)."""
MAX_WORK = 10**12
"""Multiply-adds of the convolutions and matrix products, for one image."""
_MAX_FIELDS = 1_000_000  # fields of a file: about a second

_ELEMENTWISE = """Abs Add And BitShift BitwiseAnd Cast Clip Div Elu Equal Erf Exp Gelu Greater
    GreaterOrEqual HardSigmoid HardSwish Identity LeakyRelu Less LessOrEqual Log Max Min Mul Neg
    Not Or Pow PRelu Reciprocal Relu Sigmoid Sign Softplus Sqrt Sub Tanh Where"""
_LAYERS = """AveragePool BatchNormalization Conv ConvTranspose DequantizeLinear Gemm
    GlobalAveragePool GlobalMaxPool GroupNormalization InstanceNormalization LayerNormalization
    LogSoftmax MatMul MaxPool QuantizeLinear Softmax"""
_SHAPES = """Concat Constant ConstantOfShape DepthToSpace Expand Flatten Gather Pad ReduceL2
    ReduceMax ReduceMean ReduceMin ReduceSum Reshape Resize Shape Slice SpaceToDepth Split Squeeze
    Tile Transpose Unsqueeze"""
OPERATORS = frozenset(f"{_ELEMENTWISE} {_LAYERS} {_SHAPES}".split())
"""Operators a graph may contain. None runs another graph, reads files or draws random numbers."""

# Allowed fields of each message, numbered as in onnx.proto.
_FIELDS: Mapping[str, frozenset[int]] = {
    "model": frozenset((1, 2, 3, 4, 5, 6, 7, 8, 14)),
    "graph": frozenset((1, 2, 5, 10, 11, 12, 13, 16)),
    "node": frozenset((1, 2, 3, 4, 5, 6, 7, 9)),
    "attribute": frozenset((1, 2, 3, 4, 5, 7, 8, 9, 13, 20)),
    "tensor": frozenset((1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 14, 16)),
}
_REFUSED = {
    ("model", 25): "it defines functions",
    ("graph", 15): "it has sparse tensors, which expand when they are read",
    ("attribute", 6): "an operator holds another graph",
    ("attribute", 11): "an operator holds another graph",
    ("tensor", 13): "its weights are in another file",
}
_SHAPE_SIZE = 1024  # elements of a constant that may hold a shape; of larger ones only the type
_DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass
class _Node:
    operator: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


@dataclass
class OnnxFile:
    """The parts of an ONNX file that decide whether it is safe to open.

    Args:
        metadata: Key-value pairs of the model.
        inputs: Names of the graph's inputs.
        nodes: Operators in order.
        shapes: Shapes of the constants by name.
    """

    metadata: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    nodes: list[_Node] = field(default_factory=list)
    shapes: dict[str, list[int]] = field(default_factory=dict)
    _model: list[bytes] = field(default_factory=list)  # fields of the model but for the graph
    _graph: list[bytes] = field(default_factory=list)  # fields of the graph for `skeleton`

    def skeleton(self, size: tuple[int, int]) -> bytes:
        """Return the model for one image of `size`, without weights, with every value an output."""
        image = _bytes_field(11, _value_info("image", 1, [1, 3, *size]))
        names = dict.fromkeys(name for node in self.nodes for name in node.outputs)
        outputs = [_bytes_field(12, _bytes_field(1, name.encode())) for name in names]
        graph = b"".join([*self._graph, image, *outputs])
        return b"".join([*self._model, _bytes_field(7, graph)])

    def check_shapes(self, shapes: Mapping[str, list[int | str | None]], name: str) -> None:
        """Check the inferred shape of every value against the limits.

        Args:
            shapes: Of the inputs and outputs of `skeleton`.
            name: Name of the file in errors.

        Raises:
            EgeunetError: A shape is not known before the graph runs, or a limit is exceeded.
        """
        try:
            self._check_shapes(shapes)
        except _RefusedError as error:
            raise _refused(name, error) from error

    def _check_shapes(self, shapes: Mapping[str, list[int | str | None]]) -> None:
        known = dict(self.shapes)
        total = work = 0
        for name, shape in shapes.items():
            sides = [side for side in shape if isinstance(side, int)]
            if len(sides) < len(shape):
                raise _RefusedError("the size of a value depends on the image")
            known[name] = sides
            total += _count(sides)
        if total > MAX_TOTAL:
            raise _RefusedError(f"its values have {total:.1e} elements (at most {MAX_TOTAL:.1e})")
        for node in self.nodes:
            inputs = [known.get(name, [1]) for name in node.inputs]
            output = known[node.outputs[0]]
            # ONNX adds the sides of a Concat in 32 bits.
            if node.operator == "Concat" and sum(map(math.prod, inputs)) != math.prod(output):
                raise _RefusedError(f"a value has more than {MAX_ELEMENTS:,} elements")
            work += _work(node.operator, inputs, output)
        if work > MAX_WORK:
            raise _RefusedError(f"it takes {work:.1e} multiply-adds (at most {MAX_WORK:.0e})")


def read_onnx(data: bytes, name: str) -> OnnxFile:
    """Read an ONNX file and refuse what could read other files or run without end.

    Args:
        data: The bytes of the file.
        name: Its name in errors.

    Raises:
        EgeunetError: The file is not ONNX, is damaged, or has fields or operators that
            `egeunet export` does not write.
    """
    try:
        return _Reader().model(memoryview(data))
    except _RefusedError as error:
        raise _refused(name, error) from error
    except (ValueError, IndexError) as error:
        raise _refused(name, "it is not an ONNX file or is damaged") from error


def _refused(name: str, reason: object) -> EgeunetError:
    return EgeunetError(
        f"Cannot open {name}: {reason}. Use model.onnx of `egeunet export`, or "
        "another format of one size."
    )


class _RefusedError(Exception):
    """The file is well formed and has something that is not allowed."""


class _Reader:
    """Reads the protobuf wire format; counts fields, so that the time is bounded."""

    def __init__(self) -> None:
        self.left = _MAX_FIELDS
        self.found = OnnxFile()

    def fields(self, data: memoryview, message: str) -> Iterator[tuple[int, int | memoryview]]:
        """Yield number and value of each field: an integer, or the bytes of any other kind."""
        place = 0
        while place < len(data):
            self.left -= 1
            if self.left < 0:
                raise _RefusedError(f"it has more than {_MAX_FIELDS:,} fields")
            tag, place = _read_varint(data, place)
            number, kind = tag >> 3, tag & 7
            if message and number not in _FIELDS[message]:
                default = f"field {number} of a {message} is not allowed"
                raise _RefusedError(_REFUSED.get((message, number), default))
            if kind == 0:
                value, place = _read_varint(data, place)
                yield number, value
                continue
            if kind == 2:
                length, place = _read_varint(data, place)
            else:
                length = {1: 8, 5: 4}.get(kind, -1)
            if not 0 <= length <= len(data) - place:
                raise ValueError(kind)
            yield number, data[place : place + length]
            place += length

    def model(self, data: memoryview) -> OnnxFile:
        graphs = 0
        for number, value in self.fields(data, "model"):
            if number == 7:
                self.graph(_bytes(value))
                graphs += 1
            elif number == 8:
                for key, domain in self.fields(_bytes(value), ""):
                    if key == 1 and _text(domain) not in _DEFAULT_DOMAINS:
                        raise _RefusedError(f"operators of {_text(domain)!r} are not allowed")
                self.found._model.append(_bytes_field(8, _bytes(value)))
            elif number == 14:
                entry = dict(self.fields(_bytes(value), ""))
                self.found.metadata[_text(entry[1])] = _text(entry.get(2, memoryview(b"")))
            elif number == 1:
                self.found._model.append(b"\x08" + _varint(_integer(value)))
        if graphs != 1:
            raise ValueError(graphs)
        return self.found

    def graph(self, data: memoryview) -> None:
        for number, value in self.fields(data, "graph"):
            if number == 1:
                self.node(_bytes(value))
                self.found._graph.append(_bytes_field(1, _bytes(value)))
            elif number == 5:
                name, kind, shape = self.tensor(_bytes(value))
                self.found.shapes[name] = shape
                if _count(shape) <= _SHAPE_SIZE:
                    self.found._graph.append(_bytes_field(5, _bytes(value)))
                else:
                    declared = _value_info(name, kind, shape)
                    self.found._graph.append(_bytes_field(11, declared))
            elif number == 11:
                names = [one for key, one in self.fields(_bytes(value), "") if key == 1]
                self.found.inputs.append(_text(names[-1]))
            elif number == 2:
                self.found._graph.append(_bytes_field(2, _bytes(value)))

    def node(self, data: memoryview) -> None:
        node = _Node()
        for number, value in self.fields(data, "node"):
            if number == 1:
                node.inputs.append(_text(value))
            elif number == 2 and len(_bytes(value)):
                node.outputs.append(_text(value))
            elif number == 4:
                node.operator = _text(value)
                if node.operator not in OPERATORS:
                    raise _RefusedError(f"the operator {node.operator!r} is not allowed")
            elif number == 5:
                for key, one in self.fields(_bytes(value), "attribute"):
                    if key == 5:
                        self.tensor(_bytes(one))
            elif number == 7 and _text(value) not in _DEFAULT_DOMAINS:
                raise _RefusedError(f"operators of {_text(value)!r} are not allowed")
        if not node.outputs:
            raise ValueError(node)
        self.found.nodes.append(node)

    def tensor(self, data: memoryview) -> tuple[str, int, list[int]]:
        """Return name, element type and shape."""
        name, kind, shape = "", 0, list[int]()
        for number, value in self.fields(data, "tensor"):
            if number == 1 and isinstance(value, int):
                shape.append(value)
            elif number == 1:
                packed, place = _bytes(value), 0
                while place < len(packed):
                    side, place = _read_varint(packed, place)
                    shape.append(side)
            elif number == 2:
                kind = _integer(value)
            elif number == 8:
                name = _text(value)
            elif number == 14 and value != 0:
                raise _RefusedError(_REFUSED["tensor", 13])
        if len(shape) > 8:
            raise ValueError(shape)
        _count(shape)
        return name, kind, shape


def _count(shape: list[int]) -> int:
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count > MAX_ELEMENTS or max(shape, default=0) > MAX_ELEMENTS:
        raise _RefusedError(
            f"a value has the shape {tuple(shape)} (at most {MAX_ELEMENTS:,} elements)"
        )
    return count


def _work(operator: str, inputs: list[list[int]], output: list[int]) -> int:
    """Return the multiply-adds of a node, for pooling an upper bound, else its elements."""
    of_output = math.prod(output)
    if operator == "Conv":
        return of_output * math.prod(inputs[1][1:])
    if operator == "ConvTranspose":
        return math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if operator == "MatMul":
        return of_output * inputs[0][-1]
    if operator == "Gemm":
        return of_output * max(inputs[0])
    if operator in ("AveragePool", "MaxPool"):
        return of_output * math.prod(inputs[0][2:])
    return max(of_output, *map(math.prod, inputs)) if inputs else of_output


def _read_varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError(value)


def _varint(value: int) -> bytes:
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _bytes_field(number: int, value: bytes | memoryview) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + bytes(value)


def _value_info(name: str, kind: int, shape: list[int]) -> bytes:
    """Return a ValueInfoProto of a tensor."""
    sides = b"".join(_bytes_field(1, b"\x08" + _varint(side)) for side in shape)
    tensor = b"\x08" + _varint(kind) + _bytes_field(2, sides)
    return _bytes_field(1, name.encode()) + _bytes_field(2, _bytes_field(1, tensor))


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError(value)  # noqa: TRY004  # as any other damage
    return value


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError(value)  # noqa: TRY004
    return value


def _text(value: int | memoryview) -> str:
    return str(_bytes(value), "utf-8")
