"""UNet: its cost and what sizes and widths it takes."""

import pytest
import torch

from egeunet.errors import UsageError
from egeunet.models import count_cost, create_model


def test_cost_is_that_of_the_paper():
    cost = count_cost(create_model("unet"))
    assert cost.params == 7_766_945
    assert cost.macs == pytest.approx(12.07e9, abs=5e6)


def test_any_multiple_of_16_is_a_size():
    assert create_model("unet")(torch.rand(1, 3, 48, 80)).shape == (1, 1, 48, 80)


@pytest.mark.parametrize("name", ["unet", "unetpp", "attunet"])
def test_fewer_widths_take_smaller_multiples(name):
    model = create_model(name, widths=(4, 8, 16))
    assert model(torch.rand(2, 3, 20, 12)).shape == (2, 1, 20, 12)
    with pytest.raises(UsageError, match="resize or pad to 24×12"):
        model(torch.rand(2, 3, 22, 12))


@pytest.mark.parametrize("name", ["unet", "unetpp", "attunet"])
@pytest.mark.parametrize("widths", [(32,), (32, 0)])
def test_wrong_widths_are_named(name, widths):
    with pytest.raises(UsageError, match="two or more widths"):
        create_model(name, widths=widths)
