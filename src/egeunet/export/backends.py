"""One way to run a trained network, of those that `egeunet benchmark` holds side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Batch = NDArray[np.float32]
Runner = Callable[[Batch], Any]


@dataclass(frozen=True)
class Contender:
    """One way to run a network.

    Args:
        name: What it is called in the table.
        open: From a number of threads to a function of `image`, float32 (B, 3, H, W).
        file: Its weights; None for the published network, which is timed with its own first ones.
        probe: How a fresh process opens it: "torch" or "onnx", and a path.
        scored: Whether it has the trained weights.
    """

    name: str
    open: Callable[[int], Runner]
    file: Path | None = None
    probe: tuple[str, Path] | None = None
    scored: bool = True


def onnx_contender(name: str, path: Path, scored: bool = True) -> Contender:
    """An ONNX file from `image` to its first output, on the CPU."""

    def open_session(threads: int) -> Runner:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait for more work would take the cores from whoever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        return lambda images: session.run(None, {"image": images})[0]

    return Contender(name, open_session, path, ("onnx", path), scored)
