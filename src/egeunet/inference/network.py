"""The network of a file of weights, in the engine or in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from egeunet.engine.model import EngineModel
from egeunet.errors import EgeunetError, UsageError
from egeunet.inference.weights import Backend, Metadata, parse_metadata

if TYPE_CHECKING:
    from egeunet.inference.onnx_session import Provider

MAX_BYTES = 512 * 2**20
"""Size of a file of weights."""


@dataclass(frozen=True)
class Network:
    """An opened network.

    Args:
        backend: "engine" or "onnxruntime".
        metadata: Metadata of the file.
        run: From images, float32 (B, 3, h, w), to logits, float32 (B, K, h, w).
    """

    backend: Backend
    metadata: Metadata
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]]


def open_network(
    path: Path, backend: Backend | None = None, providers: Sequence[Provider] = ()
) -> Network:
    """Open a file of weights with the backend that runs it.

    Args:
        path: An .egeu or .onnx file.
        backend: Refuse a file that is for the other one.
        providers: For ONNX Runtime; see `Segmenter`.

    Raises:
        EgeunetError: The file is missing, damaged or not from `egeunet export`.
        UsageError: The file is for the other backend, or a provider cannot be used.
    """
    data = _read_file(path)
    found: Backend = "engine" if data.startswith(b"EGEU") else "onnxruntime"
    if backend not in (None, found) or (providers and found == "engine"):
        wanted = f"the backend {backend}" if backend else "a provider of ONNX Runtime"
        raise UsageError(f"{path} is for the backend {found}, not for {wanted}.")
    if found == "engine":
        model = EngineModel(data, str(path))
        metadata = parse_metadata(model.metadata, str(path))
        if metadata.size != model.size or len(metadata.classes) != 1:
            raise EgeunetError(f"The metadata of {path} contradicts its weights: export it again.")
        return Network(found, metadata, model)
    from egeunet.inference.onnx_session import check_graph, open_session

    session = open_session(path, data, providers)

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return session.run(["logits"], {"image": images})[0]

    return Network(found, check_graph(session, path), run)


def _read_file(path: Path) -> bytes:
    """Return the bytes of a file of weights."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise EgeunetError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise EgeunetError(f"{path} is larger than {MAX_BYTES // 2**20} MB.")
    return data
