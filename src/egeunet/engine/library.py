"""Loading of the two C libraries, which are compiled when the package is built."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from ctypes import c_char_p, c_float, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_LOG = logging.getLogger(__name__)
_RESIZING = [c_void_p, c_int, c_int, c_void_p, c_int, c_int, c_void_p, c_size_t]
# Result and arguments of each function in egeunet.h.
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "egeunet_model_size": (c_size_t, [c_char_p, c_size_t]),
    "egeunet_load": (c_int, [c_char_p, c_size_t, c_void_p, c_size_t, c_void_p]),
    "egeunet_metadata": (c_void_p, [c_char_p, c_size_t, c_void_p]),
    "egeunet_native_size": (None, [c_void_p, c_void_p, c_void_p]),
    "egeunet_workspace_size": (c_size_t, [c_void_p, c_int, c_int]),
    "egeunet_run": (c_int, [c_void_p, c_void_p, c_int, c_int, c_void_p, c_void_p, c_size_t]),
    "egeunet_instruction_set": (c_char_p, []),
    "egeunet_prepare_size": (c_size_t, [c_int] * 4),
    "egeunet_prepare": (c_int, _RESIZING),
    "egeunet_resize_size": (c_size_t, [c_int] * 4),
    "egeunet_resize": (c_int, _RESIZING),
    "egeunet_resize_mask_size": (c_size_t, [c_int] * 4),
    "egeunet_resize_mask": (c_int, [*_RESIZING[:3], c_float, *_RESIZING[3:]]),
}


class Long(int):
    """An integer that C takes as `long`."""


@functools.cache
def load_engine() -> Any:
    """Return the engine (`egeunet.h`), or None if this installation has none.

    The reason is logged as a warning, once.
    """
    library = _load("libegeunet.so", "images are segmented by ONNX Runtime, more slowly")
    if library is not None:
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    return library


@functools.cache
def load_kernels() -> Any:
    """Return the training kernels, or None if they are missing or EGEUNET_KERNELS is 0.

    They use the OpenMP functions that torch has loaded: import torch first. The reason is logged
    as a warning, once.
    """
    if os.environ.get("EGEUNET_KERNELS") == "0":
        return None
    effect = "training takes several times as long"
    library = _load("libkernels.so", effect)
    if library is not None and not library.kernels_supported():
        _LOG.warning("The compiled kernels need AVX2 and FMA, so %s.", effect)
        return None
    return library


def call(library: Any, name: str, *arguments: Any) -> None:
    """Call a kernel: tensors go as their address, floats as `float`, None as NULL."""
    getattr(library, name)(*map(_to_c, arguments))


def _to_c(value: Any) -> Any:
    if hasattr(value, "data_ptr"):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.c_long(value) if isinstance(value, Long) else value


def _load(name: str, effect: str) -> Any:
    path = _FOLDER / name
    if os.name == "nt":
        _LOG.warning("%s of egeunet is not built on Windows yet, so %s.", name, effect)
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        reason = str(error) if path.exists() else "it was installed without a C compiler"
        _LOG.warning(
            "%s of egeunet is missing, so %s: %s. Install a C compiler such as gcc, then egeunet "
            "again from its source.",
            *(name, effect, reason.rstrip(".")),
        )
        return None
