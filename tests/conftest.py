"""What several test files share: where the real data lies, if it is there."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from egeunet.compat import import_torchvision

import_torchvision()  # before tests import timm as an oracle
settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")
torch.set_num_threads(1)  # seeds side by side have one each, and are compared bit by bit

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights and tensors drawn in a test are the same in every run of it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds `isic2018/` and `kvasir_seg/`."""
    root = Path(os.environ.get("EGEUNET_DATA") or SHARED / "data")
    if not (root / "isic2018").is_dir():
        pytest.skip("no real data: set EGEUNET_DATA to a folder that holds isic2018/")
    return root


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden tensors that published networks gave."""
    folder = Path(os.environ.get("EGEUNET_GOLDEN") or SHARED / "golden")
    if not folder.is_dir():
        pytest.skip("no golden tensors: set EGEUNET_GOLDEN to the folder that holds them")
    return folder
