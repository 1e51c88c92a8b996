"""Trained systems in other formats: ONNX graphs, smaller ones, and how they compare.

The package has a function of the same name, `egeunet.export(run)`, and importing anything from here
puts this module in its place; so the module can be called as well.
"""

import sys
from types import ModuleType
from typing import Any


class _Export(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from egeunet.export.formats import export

        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _Export
