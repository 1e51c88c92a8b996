"""U-Lite: its published size, and what its axial convolutions see."""

import pytest
import torch

from egeunet.errors import UsageError
from egeunet.models import count_cost, create_model
from egeunet.models.ulite import AxialDepthwise


def test_cost():
    cost = count_cost(create_model("ulite"))
    assert cost.params == 878_417  # the paper: 878 K
    assert cost.macs == 736_509_952


@pytest.mark.parametrize(("kernel", "dilation", "reach"), [(7, 1, 3), (3, 3, 3), (3, 1, 1)])
def test_an_axial_convolution_sees_a_cross(kernel, dilation, reach):
    block = AxialDepthwise(1, kernel, dilation)
    image = torch.zeros(1, 1, 15, 15, requires_grad=True)
    block(image)[0, 0, 7, 7].backward()
    seen = image.grad[0, 0].nonzero()
    assert (seen == 7).any(dim=1).all()
    assert (seen - 7).abs().max() == reach
    assert len(seen) == 2 * kernel - 1


def test_wrong_size_names_the_next_valid_one():
    with pytest.raises(UsageError, match="32×64"):
        create_model("ulite")(torch.zeros(1, 3, 32, 33))
