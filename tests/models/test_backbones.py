"""timm behind its guard: feature maps, weights out of reach, and the torchvision trap."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from egeunet.models.backbones import Normalize, timm_model

needs_timm = pytest.mark.skipif(
    not (importlib.util.find_spec("timm") and importlib.util.find_spec("torchvision")),
    reason="no timm: pip install 'egeunet[zoo]'",
)


def run(code, **environment):
    """Run code in a fresh interpreter, where nothing is imported yet."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@needs_timm
@pytest.mark.parametrize("in_channels", [3, 4])
def test_feature_maps_halve_from_level_to_level(in_channels):
    backbone = timm_model(
        "mobilenetv3_small_100", pretrained=False, in_channels=in_channels, features_only=True
    )
    maps = backbone.eval()(torch.zeros(2, in_channels, 64, 96))
    assert [tuple(m.shape[-2:]) for m in maps] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    assert [m.shape[1] for m in maps] == backbone.feature_info.channels()


@needs_timm
def test_photo_values_become_those_of_the_backbone():
    backbone = timm_model("mobilenetv3_small_100", pretrained=False, in_channels=3)
    image = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None] * 255
    torch.testing.assert_close(Normalize(backbone, 3)(image), torch.zeros(1, 3, 1, 1))
    white = Normalize(backbone, 1)(torch.full((1, 1, 2, 2), 255.0))
    torch.testing.assert_close(white, torch.full((1, 1, 2, 2), (1 - 0.449) / 0.226))


@needs_timm
def test_a_normalised_backbone_keeps_its_state_dict():
    backbone = timm_model("mobilenetv3_small_100", pretrained=False, in_channels=3)
    assert not Normalize(backbone, 3).state_dict()


@needs_timm
def test_weights_out_of_reach_are_one_sentence(tmp_path):
    code = """
from egeunet.errors import EgeunetError
from egeunet.models import create_model
try:
    create_model("mobilenetv3", pretrained=True)
except EgeunetError as error:
    print(error)
"""
    message = run(code, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert "Cannot download the ImageNet weights of mobilenetv3_small_100" in message
    assert "pretrained=False" in message


@pytest.mark.parametrize("missing", ["timm", "torchvision"])
def test_a_missing_library_names_the_extra(missing):
    if missing == "torchvision" and not importlib.util.find_spec("timm"):
        pytest.skip("no timm: pip install 'egeunet[zoo]'")
    code = f"""
import sys
sys.modules[{missing!r}] = None  # importing it fails as if it were not there
from egeunet.errors import MissingExtraError
from egeunet.models import create_model
try:
    create_model("mobilenetv3")
except MissingExtraError as error:
    print(error)
"""
    assert run(code) == f"{missing} is not installed. Run: pip install 'egeunet[zoo]'.\n"
