"""Attention U-Net: its cost and what its gates do."""

import pytest
import torch

from egeunet.models import count_cost, create_model
from egeunet.models.attunet import AttentionGate


def test_cost_is_that_of_the_paper():
    cost = count_cost(create_model("attunet"))
    assert cost.params == 8_726_077
    assert cost.macs == pytest.approx(16.64e9, abs=5e6)


def test_a_gate_weakens_a_skip_by_one_number_per_pixel():
    skip, signal = torch.rand(2, 2, 8, 6, 4) + 0.1
    gate = AttentionGate(8)
    weight = gate(signal, skip) / skip
    torch.testing.assert_close(weight, weight[:, :1].expand_as(weight))
    assert weight.std() > 0.01
    assert weight.min() > 0
    assert weight.max() < 1


def test_a_shut_gate_lets_nothing_of_the_skip_through():
    gate = AttentionGate(8).eval()
    torch.nn.init.constant_(gate.attention[-1].bias, -200)
    skip, signal = torch.rand(2, 2, 8, 6, 4)
    assert not gate(signal, skip).any()
