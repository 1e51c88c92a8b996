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

from egeunet.data.synthetic import draw
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
    said = {entry.key: entry.value for entry in core.metadata_props}
    facts = {
        "weights": WEIGHTS,
        "threshold": float(said["threshold"]),
        "quality": QualityModel.from_json(said["quality"]).plain,
        "review": REVIEW,
    }
    with atomic_write(GENERATED / "photo.onnx") as path:
        onnx.save(around_photo(core), path)
    with atomic_write(GENERATED / "facts.json") as path:
        path.write_text(json.dumps(facts))
    with atomic_write(GENERATED / "sample.jpg") as path:
        Image.fromarray(draw(SAMPLE, (480, 640))[0]).save(path, quality=85)


if __name__ == "__main__":
    main()
