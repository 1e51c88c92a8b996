"""Costs of networks small enough to count by hand."""

import pytest
import torch
from torch import nn

from egeunet.models import count_cost

PLANE = 8 * 8 * 4  # bytes of one channel of 8×8 float32


class Skip(nn.Module):
    """Three channels to four, held while four more are computed from them, then both together."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        early = self.first(x)
        late = self.second(early).relu_()  # in place: no memory of its own
        return torch.cat([early, late], dim=1)


@pytest.fixture
def cost():
    return count_cost(Skip(), (8, 8))


def test_parameters_and_macs(cost):
    assert cost.params == 3 * 4 + 4 + 4 * 4 * 9 + 4
    assert cost.macs == 64 * (3 * 4 + 4 * 4 * 9)


def test_memory_is_what_lives_at_the_same_time(cost):
    assert cost.activation_bytes == (4 + 4 + 8) * PLANE


def test_memory_is_free_after_the_last_use():
    chain = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(5)))
    assert count_cost(chain, (8, 8)).activation_bytes == 2 * 3 * PLANE


def test_views_and_weights_take_no_memory():
    assert count_cost(nn.Flatten(), (8, 8)).activation_bytes == 0


def test_the_mode_of_the_model_stays():
    model = Skip().train()
    count_cost(model, (8, 8))
    assert model.training
