"""EGE-UNet (Ruan et al., MICCAI 2023): skin lesion segmentation with 53 thousand parameters.

For research; not a medical device. Names are imported when first used, so that segmenting a photo
never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from egeunet.api import evaluate, export, train
    from egeunet.errors import EgeunetError
    from egeunet.inference.result import Result
    from egeunet.inference.segmenter import Segmenter
    from egeunet.models.registry import create_model, list_models
    from egeunet.progress import set_progress
    from egeunet.training.run import load_model

_HOME = {
    "EgeunetError": "egeunet.errors",
    "Result": "egeunet.inference.result",
    "Segmenter": "egeunet.inference.segmenter",
    "create_model": "egeunet.models.registry",
    "list_models": "egeunet.models.registry",
    "load_model": "egeunet.training.run",
    "evaluate": "egeunet.api",
    "export": "egeunet.api",
    "set_progress": "egeunet.progress",
    "train": "egeunet.api",
}
__all__ = [
    "EgeunetError",
    "Result",
    "Segmenter",
    "__version__",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "load_model",
    "set_progress",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'egeunet' has no attribute {name!r}")
    from egeunet.errors import needs_extra

    with needs_extra("train"):
        value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
