"""MobileViTv2 and MobileNetV3 with the plain decoder: the cost of Table 1."""

import importlib.util

import pytest
import torch

from egeunet.errors import UsageError
from egeunet.models import count_cost, create_model

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("timm") and importlib.util.find_spec("torchvision")),
    reason="no timm: pip install 'egeunet[zoo]'",
)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("mobilevitv2", 1_870_586, 0.7008e9), ("mobilenetv3", 1_192_297, 0.1034e9)],
)
def test_cost_is_that_of_the_paper(name, params, macs):
    cost = count_cost(create_model(name))
    assert cost.params == params
    assert abs(cost.macs - macs) <= 5e4


def test_wrong_size_names_the_next_valid_one():
    with pytest.raises(UsageError, match="64×128"):
        create_model("mobilenetv3")(torch.zeros(1, 3, 64, 100))


def test_the_backbone_is_not_an_option():
    with pytest.raises(UsageError, match="no option 'backbone'"):
        create_model("mobilenetv3", backbone="resnet34")
