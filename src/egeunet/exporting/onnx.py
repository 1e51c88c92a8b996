"""ONNX graphs of a trained model.

The core graph maps preprocessed images, `image` float32 (B, 3, H, W), to `logits` float32
(B, K, H, W). The photo graph maps an image of any size to its probability.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from egeunet import __version__
from egeunet.data.registry import REGISTRY
from egeunet.errors import EgeunetError, UsageError
from egeunet.exporting.fold import can_fold, fold
from egeunet.exporting.graph import IR_VERSION, OPSET, Graph, shorten
from egeunet.exporting.rewrite import fit_float16
from egeunet.files import read_json
from egeunet.inference import preprocess
from egeunet.inference.segmenter import Segmenter
from egeunet.inference.weights import find_shipped
from egeunet.models.egeunet import MULTIPLE, EGEUNet
from egeunet.notice import NOTICE
from egeunet.training.run import Run


def core_graph(run: Run) -> onnx.ModelProto:
    """Return the graph of the network alone, at the size it was trained with; B is free."""
    model = fit_float16(run.model)
    if isinstance(model, EGEUNet) and can_fold(model):
        return fold(model, run.recipe.data.shape)
    return _convert(model, run.recipe.data.shape, dynamic=False)


def dynamic_graph(run: Run) -> onnx.ModelProto:
    """Return the graph of the network alone; B, and H and W in steps of 32 from 64 on, are free.

    Raises:
        UsageError: If the graph of this model is made for one size.
    """
    if getattr(run.model, "ONE_SIZE", False):
        raise UsageError(
            f"{run.recipe.model} cannot be exported as onnx-dynamic: its graph is made for one "
            "image size. Use the format onnx."
        )
    return _convert(fit_float16(run.model), run.recipe.data.shape, dynamic=True)


def photo_graph(run: Run) -> onnx.ModelProto:
    """Return `around_photo` of the network."""
    return around_photo(core_graph(run))


def around_photo(core: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph from a photo to its probability, both of the photo's own size.

    It takes `photo`, RGB uint8 (H, W, 3), and gives `probability`, float32 (H, W) of one class or
    (K, H, W) of several, and `scores`, the same at the network's size, float32 (1, K, h, w). Inside
    are the definitions of `egeunet.inference.preprocess`.

    Args:
        core: What `core_graph` returned, or a file of it; its metadata is left behind.
    """
    size, planes = (
        [one.dim_value for one in value.type.tensor_type.shape.dim[1:]]
        for value in (core.graph.input[0], core.graph.output[0])
    )
    one_class = planes[0] == 1
    before, after = Graph("before"), Graph("after")

    x = before.add("Unsqueeze", before.add("Transpose", "photo", perm=[2, 0, 1]), [0])
    # On bytes the antialiasing of ONNX Runtime is that of Pillow, with its rounding.
    x = before.add("Resize", x, "", "", before.constant([1, *size]), mode="linear", antialias=1)
    x = before.add("Cast", x, to=TensorProto.FLOAT)
    low, high = (before.add(name, x, keepdims=1) for name in ("ReduceMin", "ReduceMax"))
    span = before.add("Max", before.add("Sub", high, low), np.array(1.0))  # 0 or at least 1
    x = before.add("Div", before.add("Sub", x, low), span)
    before.add("Mul", x, np.array(255.0), name="image")

    if one_class:
        y = after.add("Sigmoid", "logits", name="scores")
    else:
        y = after.add("Softmax", "logits", name="scores", axis=1)
    size_of_photo = after.add("Shape", "photo", start=0, end=2)
    target = after.add("Concat", after.constant([1, planes[0]]), size_of_photo, axis=0)
    y = after.add("Resize", y, "", "", target, mode="linear", antialias=1)
    after.add("Squeeze", y, [0, 1] if one_class else [0], name="probability")

    def tensor(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [*before.nodes, *core.graph.node, *after.nodes],
        "photo",
        [tensor("photo", TensorProto.UINT8, ["height", "width", 3])],
        [
            tensor(
                "probability",
                TensorProto.FLOAT,
                [*([] if one_class else planes[:1]), "height", "width"],
            ),
            tensor("scores", TensorProto.FLOAT, [1, *planes]),
        ],
        [*before.constants, *core.graph.initializer, *after.constants],
    )
    return helper.make_model(graph, opset_imports=core.opset_import, ir_version=IR_VERSION)


def serialize(model: onnx.ModelProto, metadata: Mapping[str, str], half: bool = False) -> bytes:
    """Return a graph as a file.

    Args:
        model: The graph.
        metadata: Key-value pairs that are added to its own.
        half: Store the weights in float16. The graph converts them to float32, which runtimes do
            once, when they load it.
    """
    model = _store_half(model) if half else model
    entries = {entry.key: entry.value for entry in model.metadata_props} | dict(metadata)
    onnx.helper.set_model_props(model, entries)
    return model.SerializeToString()


def _store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    small = onnx.ModelProto()
    small.CopyFrom(model)
    casts = []
    for constant in small.graph.initializer:
        values = numpy_helper.to_array(constant)
        # What is small, or one value repeated such as the 1 / C of means, stays exact.
        if values.dtype == np.float32 and values.size > 4 and np.ptp(values):
            name = constant.name
            half = numpy_helper.from_array(values.astype(np.float16), f"{name}h")
            constant.CopyFrom(half)
            casts.append(helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *small.graph.node]
    del small.graph.node[:]
    small.graph.node.extend(nodes)
    return small


def describe(run: Run, **entries: str) -> dict[str, str]:
    """Return the metadata of an exported file.

    Args:
        run: The trained model.
        **entries: Further entries.
    """
    data = run.recipe.data
    info = REGISTRY.get(run.dataset)
    names = [info.target if info else "lesion"]
    if data.num_classes > 1:
        names = [f"class {k}" for k in range(data.num_classes)]
    scores, scores_on = _selected_scores(run)
    return {
        "egeunet_version": __version__,
        "model": run.recipe.model,
        "dataset": run.dataset,
        "data_licence": info.license if info else "unknown",
        "protocol": data.protocol,
        "scores": json.dumps(scores),
        "scores_on": scores_on,
        "num_classes": str(data.num_classes),
        "classes": json.dumps(names),
        "input_size": "{},{}".format(*data.shape),
        "threshold": "0.5",
        "preprocessing": preprocess.NAME,
        "recipe_hash": run.recipe.hash(),
        "epoch": str(run.epoch),
        "licence": "Apache-2.0 (code); the weights under the terms of the data",
        "intended_use": NOTICE,
        **entries,
    }


def _selected_scores(run: Run) -> tuple[dict[str, float], str]:
    """Return the scores that the epoch was selected by, and the part they are of."""
    if shipped := find_shipped(run.folder):
        metadata = Segmenter(shipped).metadata
        return dict(metadata.scores), metadata.scores_on
    file = run.folder / "metrics.json"
    summary: dict[str, Any] = read_json(file) if file.is_file() else {}
    try:
        selected = summary.get("selected", {}).items()
    except AttributeError as error:
        raise EgeunetError(f"{file} is not the summary of a training.") from error
    scores = {key: value for key, value in selected if key.startswith("val_")}
    return scores, summary.get("selected_on", "unknown")


def _convert(model: nn.Module, size: tuple[int, int], dynamic: bool) -> onnx.ModelProto:
    """Write any network with the framework's own exporter."""
    # Sides other than 1, equal ones or those of a map, so that none is taken for a constant.
    example = torch.zeros(2, 3, *((160, 224) if dynamic else size))
    free: dict[int, Any] = {0: torch.export.Dim("batch")}
    if dynamic:
        free |= {2: MULTIPLE * torch.export.Dim("rows"), 3: MULTIPLE * torch.export.Dim("columns")}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it lists every torchvision operator that is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch itself
            program = torch.onnx.export(
                model.eval(),
                (example,),
                dynamo=True,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=(free,),
                opset_version=OPSET,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    graph = program.model_proto
    # Where each operator came from in Python takes four times the room of the weights.
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del graph.graph.metadata_props[:]
    del graph.metadata_props[:]
    _fix_sizes(graph.graph)
    shorten(graph)
    return graph


def _fix_sizes(graph: onnx.GraphProto) -> None:
    """Write the sizes of values as constants where the exporter computes them from other values.

    Only the batch is free, and `egeunet.inference.onnx_check` refuses sizes that are not known
    before the graph runs.
    """
    made = {name: node for node in graph.node for name in node.output}
    shapes = {  # 0: the batch
        one.name: [side.dim_value for side in one.type.tensor_type.shape.dim]
        for one in graph.value_info
    }
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}

    def add(name: str, sides: list[int]) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(sides, np.int64), name))
        return name

    for node in graph.node:
        if node.op_type not in ("Resize", "Reshape", "Expand") or node.input[-1] not in made:
            continue
        sizes = made[node.input[-1]]
        fixed = [constants[name] for name in sizes.input[1:] if name in constants]
        if sizes.op_type == "Concat" and len(fixed) == len(sizes.input) - 1:
            sides = np.concatenate(fixed).tolist()  # all but the first
            if node.op_type == "Resize" and len(sides) == 2:
                node.input[3] = add(f"{node.name}.sizes", sides)
                node.attribute.append(helper.make_attribute("axes", [2, 3]))
            elif node.op_type == "Expand" and shapes.get(node.input[0], [1])[0] == 0:
                node.input[1] = add(f"{node.name}.shape", [1, *sides])  # keeps the batch
        elif sizes.op_type == "Shape" and node.op_type == "Reshape":
            sides = shapes.get(sizes.input[0], [])
            whole = all(one.name == "start" and not one.i for one in sizes.attribute)
            if whole and sides and all(sides[1:]):
                node.input[1] = add(f"{node.name}.shape", [-1, *sides[1:]])
    names = {one.name for one in graph.output}
    for node in reversed(list(graph.node)):
        if names.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            names.update(node.input)
