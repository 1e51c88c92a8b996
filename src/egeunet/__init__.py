"""EGE-UNet (Ruan et al., MICCAI 2023): skin lesion segmentation with 53 thousand parameters.

For research; not a medical device. Importing the package loads neither torch nor ONNX Runtime.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from egeunet.api import create_model, evaluate, export, list_models, train
from egeunet.errors import EgeunetError
from egeunet.progress import set_progress

if TYPE_CHECKING:
    from egeunet.inference.result import Result, to_dataframe
    from egeunet.inference.segmenter import Segmenter

# ONNX Runtime collects and sends telemetry from the moment it is imported, unless this is set.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = [
    "EgeunetError",
    "Result",
    "Segmenter",
    "__version__",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "set_progress",
    "to_dataframe",
    "train",
]

_LAZY = {
    "Result": "egeunet.inference.result",
    "Segmenter": "egeunet.inference.segmenter",
    "to_dataframe": "egeunet.inference.result",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'egeunet' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
