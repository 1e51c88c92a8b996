"""Runtimes that run exported files; importing this loads none of them, and no torch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Batch = NDArray[np.float32]
Network = Callable[[Batch], Batch]
"""From images, (B, 3, H, W) in 0…255, to logits, (B, K, H, W)."""


def open_network(path: Path, threads: int = 1) -> Network:
    """Open an exported file in its runtime, on the CPU.

    Raises:
        MissingExtraError: The runtime is not installed.
    """
    from egeunet.exporting import coreml, executorch, litert, ncnn, openvino

    runtimes: dict[str, Callable[[Path, int], Network]] = {
        ".egeu": _open_engine,
        ".onnx": _open_onnx,
        ".xml": openvino.open_network,
        ".tflite": litert.open_network,
        ".pte": executorch.open_network,
        ".param": ncnn.open_network,
        ".mlpackage": coreml.open_network,
    }
    return runtimes[path.suffix](path, threads)


def file_size(path: Path) -> int:
    """Return the bytes of an exported file and its `.bin` file, or of all files of a package."""
    parts = [path, path.with_suffix(".bin")] if path.suffix in (".xml", ".param") else [path]
    files = [file for part in parts for file in (part.rglob("*") if part.is_dir() else [part])]
    return sum(file.stat().st_size for file in files if file.is_file())


def one_by_one(run: Callable[[Batch], Any]) -> Network:
    """Return a network of any batch from one of a single image, (1, 3, H, W)."""
    return lambda images: np.concatenate([run(image[None]) for image in images])


def _open_onnx(path: Path, threads: int) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait for more work would take the cores from whoever is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def _open_engine(path: Path, threads: int) -> Network:
    """The images of a batch run in as many threads as are given."""
    from egeunet.engine.model import EngineModel

    model = EngineModel(path.read_bytes(), str(path))
    if threads == 1:
        return model
    pool = ThreadPoolExecutor(threads)
    return lambda images: np.concatenate([*pool.map(model, np.split(images, len(images)))])
