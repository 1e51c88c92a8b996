"""UNet++: its cost, and that its U-Nets really are nested."""

import pytest
import torch

from egeunet.models import count_cost, create_model


def test_cost_is_that_of_the_paper():
    cost = count_cost(create_model("unetpp"))
    assert cost.params == 9_163_329
    assert cost.macs == pytest.approx(34.49e9, abs=5e6)


def test_deep_supervision_adds_three_heads_in_training_mode():
    model = create_model("unetpp", deep_supervision=True, num_classes=2)
    x = torch.rand(2, 3, 32, 48)
    logits, extra = model(x)
    assert [tuple(output.shape) for output in (logits, *extra)] == [(2, 2, 32, 48)] * 4
    assert model.eval()(x).shape == (2, 2, 32, 48)


def test_a_shallow_output_does_not_see_deeper_levels():
    """X(0, j) is the output of the U-Net of depth j: levels below j do not matter to it."""
    model = create_model("unetpp", widths=(4, 8, 8, 8, 8), deep_supervision=True)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        logits, before = model(x)
        model.encoder[3][-2].bias.add_(1)
        changed, after = model(x)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2])
    assert not torch.equal(logits, changed)
