"""TinyU-Net: what its cascade sees."""

import torch

from egeunet.models.tinyu_net import CascadedFields


def test_the_cascade_sees_as_far_as_seven_convolutions():
    block = CascadedFields(2, 16).eval()
    image = torch.rand(1, 2, 21, 21, requires_grad=True)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.abs_()  # so that nothing cancels
    block(image)[0, :, 10, 10].sum().backward()
    seen = image.grad.abs().sum((0, 1)).nonzero()
    assert (seen - 10).abs().max() == 7
    assert len(seen) == 15 * 15
