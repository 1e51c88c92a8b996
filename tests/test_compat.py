"""torchvision and timm, which imports it, with its compiled operators and without."""

import importlib.util
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None,
    reason="no torchvision: pip install 'egeunet[zoo]'",
)

# Operators that do not load are what the CUDA wheel beside a CPU build of torch looks like; where
# the installed pair fits, they are kept from loading.
WITHOUT_OPERATORS = """
import torch
load = torch.ops.load_library
def fail(path):
    if "torchvision" in str(path):
        raise OSError(path)
    load(path)
torch.ops.load_library = fail
"""
USE = """
from egeunet.compat import import_torchvision
import_torchvision()
import_torchvision()
import timm, torchvision.ops.misc
import torchvision.transforms.functional as F, torch
assert F.resize(torch.rand(3, 8, 8), [4, 4]).shape == (3, 4, 4)
"""


@pytest.mark.parametrize("setup", ["", WITHOUT_OPERATORS], ids=["as installed", "no operators"])
def test_torchvision_and_timm_import(setup):
    subprocess.run([sys.executable, "-W", "error", "-c", setup + USE], check=True)


def test_an_attempt_that_failed_before_does_no_harm():
    code = "\ntry:\n    import torchvision\nexcept RuntimeError:\n    pass\n"
    subprocess.run([sys.executable, "-c", WITHOUT_OPERATORS + code + USE], check=True)
