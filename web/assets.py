"""Write the assets of the page: the engine, the weights, their metadata and a sample image.

    python web/assets.py

The engine is C compiled to WebAssembly by the Zig toolchain. The sample is synthetic.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from egeunet import Segmenter
from egeunet.data.synthetic import draw
from egeunet.files import atomic_write
from egeunet.inference.quality import REVIEW
from egeunet.inference.weights import find_shipped

WEB = Path(__file__).parent
GENERATED = WEB / "generated"
SOURCES = WEB.parent / "src" / "egeunet" / "engine"
WEIGHTS = ("isic2018", "kvasir")
SAMPLE = 24  # seed of the synthetic image: a lesion beside a ruler
FLAGS = (
    *("-target", "wasm32-wasi", "-O3", "-msimd128", "-mbulk-memory", "-mexec-model=reactor", "-s"),
    *("-Wl,--export-dynamic", "-Wl,--export=__heap_base", "-Wl,-z,stack-size=131072"),
)


def main() -> None:
    """Write all assets."""
    metadata = {}
    for name in WEIGHTS:
        shipped = Segmenter(name).metadata
        metadata[name] = {
            "threshold": shipped.threshold,
            "quality": shipped.quality.plain,
            "review": REVIEW,
        }
        with atomic_write(GENERATED / f"{name}.egeu") as path:
            shutil.copy(find_shipped(name, ".egeu"), path)
    with atomic_write(GENERATED / "engine.wasm") as path:
        compile_engine(path)
    with atomic_write(GENERATED / "metadata.json") as path:
        path.write_text(json.dumps(metadata))
    with atomic_write(GENERATED / "sample.jpg") as path:
        Image.fromarray(draw(SAMPLE, (480, 640))[0]).save(path, quality=85)


def compile_engine(path: Path) -> None:
    """Compile the engine for WebAssembly with 128-bit SIMD; it imports nothing."""
    sources = [SOURCES / name for name in ("engine.c", "image.c", "network_baseline.c")]
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", *FLAGS, *sources, "-o", path], check=True
    )


if __name__ == "__main__":
    main()
