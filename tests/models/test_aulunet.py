"""AULUNet: its gates, fully open and closed."""

import pytest
import torch

from egeunet.models.aulunet import AdaptiveKernelFusion, LightSkipGate


@pytest.mark.parametrize(("bias", "reach", "count"), [(100.0, 1, 9), (-100.0, 2, 9)])
def test_a_saturated_gate_leaves_one_of_the_two_kernels(bias, reach, count):
    block = AdaptiveKernelFusion(2).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.abs_()  # so that no ReLU is flat
    torch.nn.init.constant_(block.gate.bias, bias)
    image = torch.rand(1, 2, 9, 9, requires_grad=True)
    block(image)[0, :, 4, 4].sum().backward()
    seen = image.grad.abs().sum((0, 1)).nonzero()
    assert (seen - 4).abs().max() == reach
    assert len(seen) == count


def test_a_closed_gate_drops_the_skip():
    gate = LightSkipGate(3).eval()
    torch.nn.init.constant_(gate.gate[1].bias, -100.0)
    x, skip = torch.rand(2, 1, 3, 4, 4)
    torch.testing.assert_close(gate(x, skip), x)
