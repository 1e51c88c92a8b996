"""CMUNeXt-S: what a block sees, and the sizes it takes."""

import pytest
import torch

from egeunet.errors import UsageError
from egeunet.models import create_model
from egeunet.models.cmunext_s import CMUNeXtBlock


@pytest.mark.parametrize("kernel", [3, 7, 9])
def test_a_block_sees_its_kernel_and_the_convolution_after_it(kernel):
    block = CMUNeXtBlock(2, 2, kernel).eval()
    image = torch.rand(1, 2, 15, 15, requires_grad=True)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.abs_()  # so that no ReLU is flat
    block(image)[0, :, 7, 7].sum().backward()
    seen = image.grad.abs().sum((0, 1)).nonzero()
    assert (seen - 7).abs().max() == kernel // 2 + 1


def test_wrong_size_names_the_next_valid_one():
    with pytest.raises(UsageError, match="48×64"):
        create_model("cmunext_s")(torch.zeros(1, 3, 33, 64))
