"""Run EGE-UNet from a weights blob (`model.egeu`), without torch and ONNX Runtime.

Calls release Python's lock, so threads share one model; each has its own working memory.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import threading
from ctypes import byref, c_int, c_size_t, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egeunet.engine.library import load_engine
from egeunet.errors import EgeunetError, UsageError

_ALIGNMENT = 64  # EGEUNET_ALIGNMENT of egeunet.h
_BAD_VERSION = 3  # EGEUNET_BAD_VERSION
_DIGEST, _HEADER = 64, 96  # where a blob has the SHA-256 of all that follows its header
_Bytes = NDArray[np.uint8]
_workspaces = threading.local()


class EngineModel:
    """The network of a weights blob.

    Args:
        blob: What `egeunet export -f engine` wrote.
        name: Name of the blob in errors.

    Attributes:
        size: Height and width that it was trained with.
        metadata: Key-value pairs, as in the ONNX files.

    Raises:
        EgeunetError: The blob is damaged, or this installation has no engine.
    """

    def __init__(self, blob: bytes, name: str = "the weights") -> None:
        library = _library()
        self._memory = _aligned(library.egeunet_model_size(blob, len(blob)) or 1)
        self._model = c_void_p()
        status = library.egeunet_load(
            *(blob, len(blob), self._memory.ctypes.data, self._memory.nbytes, byref(self._model))
        )
        if status == _BAD_VERSION:
            raise EgeunetError(f"{name} was written by a later version of egeunet: update egeunet.")
        if status or hashlib.sha256(blob[_HEADER:]).digest() != blob[_DIGEST:_HEADER]:
            raise _damaged(name)
        height, width, length = c_int(), c_int(), c_size_t()
        library.egeunet_native_size(self._model, byref(height), byref(width))
        self.size = height.value, width.value
        start = library.egeunet_metadata(blob, len(blob), byref(length))
        try:
            metadata = json.loads(ctypes.string_at(start, length.value))
            self.metadata = {key: value for key, value in metadata.items() if _is_text(value)}
        except (ValueError, AttributeError, RecursionError) as error:
            raise _damaged(name) from error

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute logits.

        Args:
            images: float32 (B, 3, H, W) in 0…255, min-max normalized; H and W from 32 to 4096,
                divisible by 32.

        Returns:
            float32 (B, 1, H, W).

        Raises:
            UsageError: The shape or type is another.
        """
        if images.dtype != np.float32 or images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(
                f"The images are {images.dtype} {images.shape}: expected float32 (B, 3, H, W)."
            )
        height, width = images.shape[2:]
        library = _library()
        needed = library.egeunet_workspace_size(self._model, *_sides(height, width))
        images = np.ascontiguousarray(images)
        logits = np.empty((len(images), 1, height, width), np.float32)
        for image, out in zip(images, logits, strict=True):
            _call(library.egeunet_run, needed, self._model, image, height, width, out)
        return logits


def prepare(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Preprocess an image as `egeunet.inference.preprocess.to_input` does, with the same bits.

    Args:
        image: RGB, uint8 (H, W, 3).
        size: Height and width of the network's input.

    Returns:
        float32 (3, h, w) in 0…255.
    """
    image = np.ascontiguousarray(image)
    out = np.empty((3, *size), np.float32)
    library, sides = _library(), _sides(*image.shape[:2], *size)
    needed = library.egeunet_prepare_size(*sides)
    _call(library.egeunet_prepare, needed, image, *sides[:2], out, *sides[2:])
    return out


def resize(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a map as `egeunet.inference.preprocess.upsample` does.

    Args:
        values: float32 (h, w).
        size: Height and width.

    Returns:
        float32 (H, W).
    """
    values = np.ascontiguousarray(values)
    out = np.empty(size, np.float32)
    library, sides = _library(), _sides(*values.shape, *size)
    needed = library.egeunet_resize_size(*sides)
    _call(library.egeunet_resize, needed, values, *sides[:2], out, *sides[2:])
    return out


def resize_mask(
    values: NDArray[np.float32], size: tuple[int, int], threshold: float
) -> NDArray[np.bool_]:
    """Return `resize(values, size) >= threshold`, bool (H, W), without that map."""
    values = np.ascontiguousarray(values)
    out = np.empty(size, np.bool_)
    library, sides = _library(), _sides(*values.shape, *size)
    needed = library.egeunet_resize_mask_size(*sides)
    _call(
        library.egeunet_resize_mask, needed, values, *sides[:2], float(threshold), out, *sides[2:]
    )
    return out


def _library() -> Any:
    library = load_engine()
    if library is None:
        raise EgeunetError(
            "The engine is not part of this installation: use an .onnx file, or install a C "
            "compiler such as gcc and then egeunet again from its source."
        )
    return library


def _call(function: Any, needed: int, *arguments: Any) -> None:
    """Call a function of the engine with working memory; arrays go as their address."""
    if not needed:
        raise UsageError("The size of the image is out of range.")
    memory: _Bytes | None = getattr(_workspaces, "memory", None)
    if memory is None or memory.nbytes < needed:
        memory = _workspaces.memory = _aligned(needed)
    given = [one.ctypes.data if isinstance(one, np.ndarray) else one for one in arguments]
    status = function(*given, memory.ctypes.data, memory.nbytes)
    if status:
        raise EgeunetError(f"The engine failed with status {status}.")


def _sides(*sides: int) -> tuple[int, ...]:
    """The sides as C takes them; what does not fit becomes 0, which C refuses."""
    return tuple(side if side < 2**31 else 0 for side in sides)


def _aligned(size: int) -> _Bytes:
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _damaged(name: str) -> EgeunetError:
    return EgeunetError(
        f"{name} is damaged or not a file for the engine: expected one that "
        "`egeunet export -f engine` wrote."
    )
