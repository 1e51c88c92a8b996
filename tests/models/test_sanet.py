"""SANet: its cost, its starting weights, and what its attention does."""

from importlib.util import find_spec

import pytest
import torch

from egeunet.models import count_cost, create_model

pytestmark = pytest.mark.skipif(
    not (find_spec("timm") and find_spec("torchvision")),
    reason="no timm: pip install 'egeunet[zoo]'",
)


def test_cost_is_that_of_the_published_code():
    cost = count_cost(create_model("sanet"))
    assert cost.params == 23_899_497
    assert cost.macs == pytest.approx(5.93e9, abs=5e6)


def test_deep_features_switch_shallow_ones_off():
    """Where the deepest feature is 0, nothing of the others reaches the head."""
    model = create_model("sanet").eval()
    with torch.no_grad():
        model.reduce[2][1].bias.fill_(-1e6)
        model.head.bias.fill_(0.25)
        logits = model(torch.rand(1, 3, 64, 32) * 255)
    torch.testing.assert_close(logits, torch.full((1, 1, 64, 32), 0.25))


def test_scaling_of_the_input_is_that_of_imagenet():
    model = create_model("sanet").eval()
    seen = {}
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    pixel = 255 * torch.tensor([0.485, 0.456, 0.406 + 0.225])
    model(pixel[None, :, None, None].expand(1, 3, 32, 32))
    expected = torch.tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(seen["x"].mean((0, 2, 3)), expected, atol=1e-5, rtol=0)
