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


def test_deep_supervision_off_computes_the_same_without_its_heads():
    full = create_model("ucm_net").eval()
    bare = create_model("ucm_net", deep_supervision=False)
    image = torch.rand(1, 3, 128, 64) * 255
    assert isinstance(bare(image), torch.Tensor)
    bare.load_state_dict({k: v for k, v in full.state_dict().items() if k in bare.state_dict()})
    assert torch.equal(bare.eval()(image), full(image))


def test_the_five_masks_are_supervised():
    logits, stages = create_model("ucm_net")(torch.rand(2, 3, 64, 96) * 255)
    assert [stage.shape for stage in stages] == [logits.shape] * 5
