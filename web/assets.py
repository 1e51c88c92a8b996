"""Write what the page takes from the package: the graph, what it says of itself, and a sample.

    python web/assets.py

The graph is the shipped one with pre- and postprocessing put around it. The sample is drawn; it
shows nobody's skin.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from PIL import Image

from egeunet.data.synthetic.dermoscopy import draw
from egeunet.export.onnx import around_photo
from egeunet.files import atomic_write
from egeunet.inference.quality import REVIEW, QualityModel
from egeunet.inference.weights import find_weights

GENERATED = Path(__file__).parent / "generated"
WEIGHTS = "isic2018"
SAMPLE = 8  # seed of the drawing: a lesion beside a ruler


def main() -> None:
    """Write all three."""
    core = onnx.load(find_weights(WEIGHTS))
    graph = around_photo(core)
    said = {entry.key: entry.value for entry in core.metadata_props}
    facts = {
        "weights": WEIGHTS,
        "threshold": float(said["threshold"]),
        "quality": QualityModel.from_json(said["quality"]).plain,
        "review": REVIEW,
        "not_for_webgpu": name_resizing(graph),
    }
    with atomic_write(GENERATED / "photo.onnx") as path:
        onnx.save(graph, path)
    with atomic_write(GENERATED / "facts.json") as path:
        path.write_text(json.dumps(facts))
    with atomic_write(GENERATED / "sample.jpg") as path:
        Image.fromarray(draw(SAMPLE, (480, 640))[0]).save(path, quality=85)


def name_resizing(graph: onnx.ModelProto) -> list[str]:
    """Give the nodes that resize a photo names; ONNX Runtime has no antialiasing for WebGPU."""
    names = []
    for node in graph.graph.node:
        if any(attribute.name == "antialias" for attribute in node.attribute):
            node.name = f"resize_{len(names)}"
            names.append(node.name)
    return names


if __name__ == "__main__":
    main()
