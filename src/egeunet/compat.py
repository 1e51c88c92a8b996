"""Libraries of others that need a hand before they import."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

_declared: list[Any] = []  # declarations of operators last as long as they are referred to


def mend_torchvision() -> None:
    """Import torchvision, if it is installed, even where its compiled operators do not load.

    Its default wheel is built for CUDA; beside a CPU build of torch its operators stay unknown,
    and the registration of two of them fails: "operator torchvision::nms does not exist". timm
    and torchmetrics import torchvision and fall with it, though neither calls those operators for
    us. Declaring the two is enough. To be called before the first import of either.
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
    _declared.append(operators)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left half done
    importlib.import_module("torchvision")
