"""Write the assets of the page: the network, its metadata and a sample image.

    python web/assets.py

The network is the shipped graph with pre- and postprocessing inside. The sample is synthetic.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from PIL import Image

from egeunet.data.synthetic import draw
from egeunet.exporting.onnx import around_photo
from egeunet.files import atomic_write
from egeunet.inference.quality import REVIEW, DiceEstimator
from egeunet.inference.weights import find_weights

GENERATED = Path(__file__).parent / "generated"
WEIGHTS = "isic2018"
SAMPLE = 24  # seed of the synthetic image: a lesion beside a ruler


def main() -> None:
    """Write all assets."""
    core = onnx.load(find_weights(WEIGHTS))
    graph = around_photo(core)
    properties = {entry.key: entry.value for entry in core.metadata_props}
    metadata = {
        "weights": WEIGHTS,
        "threshold": float(properties["threshold"]),
        "quality": DiceEstimator.from_json(properties["quality"]).plain,
        "review": REVIEW,
        "not_for_webgpu": name_resizing(graph),
    }
    with atomic_write(GENERATED / "photo.onnx") as path:
        onnx.save(graph, path)
    with atomic_write(GENERATED / "metadata.json") as path:
        path.write_text(json.dumps(metadata))
    with atomic_write(GENERATED / "sample.jpg") as path:
        Image.fromarray(draw(SAMPLE, (480, 640))[0]).save(path, quality=85)


def name_resizing(graph: onnx.ModelProto) -> list[str]:
    """Name the resizing nodes; ONNX Runtime has no antialiased Resize on WebGPU."""
    names = []
    for node in graph.graph.node:
        if any(attribute.name == "antialias" for attribute in node.attribute):
            node.name = f"resize_{len(names)}"
            names.append(node.name)
    return names


if __name__ == "__main__":
    main()
