"""ONNX files from elsewhere cannot read files, run without end or exhaust memory."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from egeunet.errors import EgeunetError
from egeunet.inference.onnx_check import read_onnx
from egeunet.inference.segmenter import Segmenter
from egeunet.inference.weights import SHIPPED

METADATA = {
    "model": "egeunet",
    "dataset": "x",
    "num_classes": "1",
    "classes": '["lesion"]',
    "input_size": "32,32",
    "threshold": "0.5",
    "preprocessing": "rgb-bilinear-minmax255",
}


def vector(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


FIRST = [vector("starts", 0), vector("ends", 1), vector("axes", 1)]


def write(path: Path, *nodes, constants=(), end="image", functions=(), **metadata) -> Path:
    """Write a graph of which the first channel of `end` becomes `logits`."""
    last = helper.make_node("Slice", [end, "starts", "ends", "axes"], ["logits"])
    graph = helper.make_graph(
        [*nodes, last],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, 32, 32])],
        [*FIRST, *constants],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        graph, opset_imports=imports[: 2 if end == "foreign" else 1], functions=functions
    )
    model.ir_version = 9
    helper.set_model_props(model, METADATA | metadata)
    path.write_bytes(model.SerializeToString())
    return path


def refuse(path: Path, match: str) -> None:
    with pytest.raises(EgeunetError, match=match) as caught:
        Segmenter(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_harmless_graph_opens(tmp_path: Path) -> None:
    path = write(tmp_path / "x.onnx", helper.make_node("Neg", ["image"], ["y"]), end="y")
    assert Segmenter(path)(np.zeros((8, 8, 3), np.uint8)).mask.shape == (8, 8)


def external(name: str, location: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[3, 1, 1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize("in_attribute", [False, True])
def test_weights_in_another_file_are_not_read(tmp_path: Path, monkeypatch, in_attribute) -> None:
    monkeypatch.chdir(tmp_path)
    Path("private.key").write_bytes(bytes(12))
    tensor = external("key", "private.key")
    add = helper.make_node("Add", ["image", "key"], ["y"])
    if in_attribute:
        constant = helper.make_node("Constant", [], ["key"], value=tensor)
        refuse(write(tmp_path / "x.onnx", constant, add, end="y"), "another file")
    else:
        refuse(write(tmp_path / "x.onnx", add, constants=[tensor], end="y"), "another file")


def test_operators_that_run_graphs_are_refused(tmp_path: Path) -> None:
    boolean = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    number = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    on = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])], "body", [number, boolean], [on]
    )
    true = numpy_helper.from_array(np.array(True), "true")
    loop = helper.make_node("Loop", ["", "true"], [], body=body)
    loop.output.append("y")
    refuse(write(tmp_path / "x.onnx", loop, constants=[true]), "'Loop'")
    # The same hidden in an operator that is allowed otherwise.
    hidden = helper.make_node("Neg", ["image"], ["y"], body=body)
    refuse(write(tmp_path / "x.onnx", hidden), "another graph")


@pytest.mark.parametrize("operator", ["If", "Scan", "RandomNormal", "SequenceEmpty", "Nonsense"])
def test_unknown_operators_are_named(tmp_path: Path, operator: str) -> None:
    node = helper.make_node(operator, ["image"], ["y"])
    refuse(write(tmp_path / "x.onnx", node), f"'{operator}'")


def test_foreign_domains_and_functions_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Gelu", ["image"], ["foreign"], domain="com.microsoft")
    refuse(write(tmp_path / "x.onnx", node, end="foreign"), "com.microsoft")
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    refuse(write(tmp_path / "x.onnx", functions=[function]), "functions")


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    model = onnx.load(write(tmp_path / "x.onnx"))
    sparse = model.graph.sparse_initializer.add(dims=[10**11])
    sparse.values.CopyFrom(helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0]))
    sparse.indices.CopyFrom(helper.make_tensor("i", TensorProto.INT64, [1], [0]))
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    refuse(tmp_path / "x.onnx", "sparse")


def doubled(count: int):
    names = ["image", *(f"d{n}" for n in range(count))]
    return [helper.make_node("Concat", [a, a], [b], axis=1) for a, b in pairwise(names)]


BOMBS = {
    "80 GB of zeros": (
        [
            helper.make_node("ConstantOfShape", ["shape"], ["z"]),
            helper.make_node("ReduceSum", ["z"], ["y"], keepdims=0),
        ],
        [vector("shape", 2 * 10**10)],
        "2.0*000,",
    ),
    "doubling": (doubled(40), [], "elements"),
    "joined until 32 bits overflow": (
        [
            helper.make_node("Tile", ["image", "s"], ["t"]),
            helper.make_node("Concat", ["t"] * 349_526, ["y"], axis=1),
        ],
        [vector("s", 1, 2**12, 1, 1)],
        "more than",
    ),
    "expanded": (
        [helper.make_node("Expand", ["image", "s"], ["y"])],
        [vector("s", 9**9, 1, 1, 1, 1)],
        "elements",
    ),
    "many large values": (
        [helper.make_node("Tile", ["image", "s"], [f"t{n}"]) for n in range(40)],
        [vector("s", 1, 1, 100, 100)],
        "values have",
    ),
    "of a size that the image says": (
        [
            helper.make_node("ReduceMax", ["image"], ["m"], keepdims=0),
            helper.make_node("Cast", ["m"], ["n"], to=TensorProto.INT64),
            helper.make_node("Unsqueeze", ["n", "starts"], ["s"]),
            helper.make_node("ConstantOfShape", ["s"], ["y"]),
        ],
        [],
        "depends on the image",
    ),
    "hours of work": (
        [
            helper.make_node("Tile", ["image", "s"], ["t"]),
            *(helper.make_node("MatMul", ["t", "t"], [f"y{n}"]) for n in range(60)),
        ],
        [vector("s", 1, 1, 64, 64)],
        "multiply-adds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_graphs_that_would_exhaust_the_machine_are_refused(tmp_path: Path, bomb: str) -> None:
    nodes, constants, match = BOMBS[bomb]
    refuse(write(tmp_path / "x.onnx", *nodes, constants=constants), match.replace("*", ".*"))


def test_a_declared_size_does_not_hide_the_true_one(tmp_path: Path) -> None:
    path = write(tmp_path / "x.onnx", *doubled(25), end="d24")
    model = onnx.load(path)
    for one in model.graph.node:
        declared = helper.make_tensor_value_info(one.output[0], TensorProto.FLOAT, [1])
        model.graph.value_info.append(declared)
    path.write_bytes(model.SerializeToString())
    refuse(path, "elements")


@pytest.mark.parametrize("entry", ["classes", "scores", "quality"])
def test_deeply_nested_metadata_is_one_sentence(tmp_path: Path, entry: str) -> None:
    path = write(tmp_path / "x.onnx", **{entry: "[" * 100_000})
    with pytest.raises(EgeunetError, match=r"metadata of .* are invalid"):
        Segmenter(path)


def test_a_size_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EgeunetError, match="are invalid"):
        Segmenter(write(tmp_path / "x.onnx", input_size="1,1000000000"))


def test_shipped_weights_pass_the_check_and_damaged_ones_never_crash_it(tmp_path: Path) -> None:
    data = (SHIPPED / "isic2018.onnx").read_bytes()
    (tmp_path / "own.onnx").write_bytes(data)  # outside the package it is checked
    assert Segmenter(tmp_path / "own.onnx").metadata.classes
    chance = np.random.default_rng(0)
    for _ in range(40):
        changed = bytearray(data)
        for place in chance.integers(0, len(data), 20):
            changed[place] = chance.integers(256)
        with suppress(EgeunetError):
            read_onnx(bytes(changed[: chance.integers(len(data))]), "x.onnx")
