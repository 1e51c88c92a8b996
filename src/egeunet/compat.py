"""Workarounds for other libraries: torchvision's import and glibc's memory allocation."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import numpy as np

_BLOCK = 30 * 2**20  # bytes; the largest threshold that glibc adapts to is 32 MiB
_operators: list[Any] = []  # declarations of operators live as long as they are referenced


def keep_freed_memory() -> None:
    """Make glibc reuse the memory of freed large arrays instead of returning it to the kernel.

    Freeing one large block raises its threshold (mallopt(3), M_MMAP_THRESHOLD). Otherwise arrays of
    some 100 KB are mapped page by page each time: a sixth of the time of a small image and 10 ms of
    a training step. Other C libraries are not affected.
    """
    np.empty(_BLOCK, np.uint8)  # allocated and freed; its pages are never touched


def import_torchvision() -> None:
    """Import torchvision, if installed, even if its compiled operators do not load.

    Call it before the first import of timm, which imports torchvision. Its default wheel is built
    for CUDA; with a CPU build of torch it fails with "operator torchvision::nms does not exist".
    timm does not call the two missing operators, so declaring them is enough.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    else:
        return

    from torch.library import Library

    operators = Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.append(operators)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # left half initialized by the failed import
    importlib.import_module("torchvision")
