"""UltraLight VM-UNet: its parallel scan against one step after the other."""

import pytest
import torch

from egeunet.models.ultralight_vm_unet import Mamba, ParallelMamba, scan


def step_by_step(decay, value):
    state, states = torch.zeros_like(value[:, 0]), []
    for a, v in zip(decay.unbind(1), value.unbind(1), strict=True):
        state = a * state + v
        states.append(state)
    return torch.stack(states, dim=1)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 60, 101])
def test_the_scan_and_its_gradients_are_those_of_single_steps(length):
    shape = (2, length, 3, 4)
    decay, value = torch.rand(shape).double(), torch.randn(shape).double()
    weight = torch.randn(shape).double()
    found = []
    for run in (scan, step_by_step):
        inputs = decay.clone().requires_grad_(), value.clone().requires_grad_()
        states = run(*inputs)
        grads = torch.autograd.grad(
            (states * weight).sum(), inputs, allow_unused=True, materialize_grads=True
        )
        found.append((states, *grads))
    for given, expected in zip(*found, strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 1e-38, 1.0])
def test_extreme_decays_stay_exact(decay):
    value = torch.ones(1, 1024, 1)
    states = scan(torch.full_like(value, decay), value)
    assert torch.equal(states, step_by_step(torch.full_like(value, decay), value))


def test_a_token_depends_on_itself_and_earlier_ones_only():
    model, tokens = Mamba(6), torch.randn(1, 40, 6)
    changed = tokens.clone()
    changed[:, 25] += 1
    same = torch.isclose(model(tokens), model(changed), rtol=0, atol=1e-7).all(-1)[0]
    assert same[:25].all()
    assert not same[25:30].any()


def test_the_four_channel_groups_are_treated_alike():
    layer, x = ParallelMamba(8, 8), torch.randn(2, 8, 4, 6)
    torch.nn.init.eye_(layer.mix.weight)
    torch.nn.init.zeros_(layer.mix.bias)
    turned = x.roll(2, dims=1)  # by one group
    torch.testing.assert_close(layer(turned), layer(x).roll(2, dims=1))
