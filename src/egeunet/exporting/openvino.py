"""OpenVINO IR (`model.xml` and `model.bin`), for processors of Intel and ARM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from egeunet.errors import needs_extra

if TYPE_CHECKING:
    from egeunet.exporting.formats import Writer
    from egeunet.exporting.runtimes import Network
    from egeunet.training.run import Run


def convert(run: Run) -> Writer:
    """Convert the ONNX graph; the metadata lies in the section `egeunet` of `rt_info`."""
    from egeunet.exporting.onnx import core_graph

    with needs_extra("openvino"):
        import openvino
    model = openvino.Core().read_model(core_graph(run).SerializeToString())

    def write(path: Path, metadata: Mapping[str, str]) -> None:
        for key, value in metadata.items():
            model.set_rt_info(value, ["egeunet", key])
        openvino.save_model(model, path, compress_to_fp16=False)

    return write


def open_network(path: Path, threads: int) -> Network:
    """Open a file in OpenVINO, computing in float32."""
    with needs_extra("openvino"):
        import openvino
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", settings)
    return lambda images: model(images)[0]
