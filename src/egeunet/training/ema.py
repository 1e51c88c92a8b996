"""The exponential moving average of a model's weights (after Polyak & Juditsky 1992)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average:
    """Follows a model: average ← d · average + (1 − d) · weights, after each step.

    After n steps d = min(decay, (1 + n) / (10 + n)), as TensorFlow's ExponentialMovingAverage has
    it, so that the random weights of the start are soon forgotten. Running statistics are averaged
    as weights are; counters are copied.

    Args:
        model: What to follow, where it shall stay.
        decay: d after many steps.

    Attributes:
        model: The average, a model of its own in eval mode.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        pairs = list(zip(_values(self.model), _values(model), strict=True))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._averages, self._weights = map(list, zip(*averaged, strict=True))
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the weights after so many steps, counted from 1; waits for no device."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        for average, value in self._counters:
            average.copy_(value)


def _values(model: nn.Module) -> list[Tensor]:
    return [*(parameter.data for parameter in model.parameters()), *model.buffers()]
