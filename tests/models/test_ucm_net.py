"""UCM-Net: the parts of the published code that are easily got wrong."""

import torch

from egeunet.models import create_model
from egeunet.models.ucm_net import UCMBlock


def test_the_residual_of_a_block_passes_no_gradient():
    block = UCMBlock(4)
    torch.nn.init.zeros_(block.mlp[4].conv.weight)  # nothing but the residual and a bias is left
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    y = block(x)
    torch.testing.assert_close(y, 2 * block.norm(x))
    y.square().sum().backward()
    assert not x.grad.any()


def test_the_five_masks_are_supervised():
    logits, stages = create_model("ucm_net")(torch.rand(2, 3, 64, 96) * 255)
    assert [stage.shape for stage in stages] == [logits.shape] * 5
