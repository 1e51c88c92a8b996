"""MK-UNet: its three published sizes and the parts that are easily got wrong."""

import pytest
import torch

from egeunet.errors import UsageError
from egeunet.models import count_cost, create_model
from egeunet.models.mk_unet import ChannelAttention, MKUNet, MultiKernelBlock


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("mk_unet_t", 27_384, 49_533_008),  # the paper: 27.4 K
        ("mk_unet_s", 93_050, 104_160_448),  # 93.1 K
        ("mk_unet", 315_566, 277_588_864),  # 315.6 K
    ],
)
def test_cost(name, params, macs):
    cost = count_cost(create_model(name))
    assert cost.params == params
    assert cost.macs == macs


def test_the_supervised_outputs_are_those_of_three_levels():
    model = create_model("mk_unet_t", num_classes=2)
    logits, stages = model(torch.rand(2, 3, 64, 96) * 255)
    assert [stage.shape for stage in stages] == [logits.shape] * 3
    assert model.eval()(torch.rand(1, 3, 64, 96)).shape == (1, 2, 64, 96)


def test_a_block_sees_as_far_as_its_largest_kernel():
    block = MultiKernelBlock(2, 4).eval()
    image = torch.rand(1, 2, 11, 11, requires_grad=True)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.abs_()  # so that no ReLU6 is flat
    block(image)[0, :, 5, 5].sum().backward()
    seen = image.grad.abs().sum((0, 1)).nonzero()
    assert (seen - 5).abs().max() == 2
    assert len(seen) == 25


@pytest.mark.parametrize("seed", range(5))
def test_the_single_hidden_unit_of_an_attention_starts_alive(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = create_model("mk_unet_t")
    for module in model.modules():
        if isinstance(module, ChannelAttention):
            module(torch.rand(1, module.squeeze.in_channels, 4, 4)).sum().backward()
            assert module.squeeze.weight.grad.any()


@pytest.mark.parametrize("widths", [(16, 32, 64), (16, 32, 64, 96, 161)])
def test_wrong_widths_are_named(widths):
    with pytest.raises(UsageError, match="five widths, each even"):
        MKUNet(widths=widths)


def test_wrong_size_names_the_next_valid_one():
    with pytest.raises(UsageError, match="96×64"):
        create_model("mk_unet_t")(torch.zeros(1, 3, 65, 64))
