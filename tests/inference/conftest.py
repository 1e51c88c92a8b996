"""Small real graphs in the form that `egeunet export` writes, made without torch."""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw


class WriteGraph(Protocol):
    def __call__(
        self, name: str = ..., size: tuple[int, int] = ..., count: int = ..., **metadata: Any
    ) -> Path: ...


@pytest.fixture
def write_graph(tmp_path: Path) -> WriteGraph:
    """Write a 1×1 convolution: dark pixels are lesion; class k likes brightness 255·k/(K-1)."""

    def write(
        name: str = "model.onnx",
        size: tuple[int, int] = (256, 256),
        count: int = 1,
        **metadata: Any,
    ) -> Path:
        if count == 1:
            weight, bias = np.full((1, 3, 1, 1), -0.1 / 3), np.array([12.8])
        else:
            # (k·s·x - (k·s)²·127.5 …) is largest for the nearest of K levels of brightness.
            level = np.linspace(0, 1, count)
            weight = np.broadcast_to((0.1 * level / 3)[:, None, None, None], (count, 3, 1, 1))
            bias = -0.1 * 255 * level**2 / 2
        parameters = [
            numpy_helper.from_array(np.ascontiguousarray(weight, np.float32), "w"),
            numpy_helper.from_array(bias.astype(np.float32), "b"),
        ]
        graph = helper.make_graph(
            [helper.make_node("Conv", ["image", "w", "b"], ["logits"])],
            "core",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["B", 3, *size])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", count, *size])],
            parameters,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        names = ["lesion"] if count == 1 else [f"class {k}" for k in range(count)]
        entries = {
            "egeunet_version": "0.1.0",
            "model": "egeunet",
            "dataset": "synthetic",
            "num_classes": str(count),
            "classes": json.dumps(names),
            "input_size": f"{size[0]},{size[1]}",
            "threshold": "0.5",
            "preprocessing": "rgb-bilinear-minmax255",
            "recipe_hash": "0",
        } | metadata
        helper.set_model_props(model, {k: v for k, v in entries.items() if v is not None})
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        return path

    return write


@pytest.fixture
def lesion() -> NDArray[np.uint8]:
    """A light photo, 120 high and 160 wide, with a dark ellipse from (40, 30) to (100, 80)."""
    image = Image.new("RGB", (160, 120), (220, 200, 190))
    ImageDraw.Draw(image).ellipse((40, 30, 99, 79), fill=(60, 40, 30))
    return np.array(image)
