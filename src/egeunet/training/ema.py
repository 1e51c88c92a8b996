"""Exponential moving average of a model's weights (Polyak & Juditsky 1992)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class ModelEma:
    """Keeps average ← d · average + (1 − d) · weights over the steps of a training.

    After n steps d = min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage,
    so that the initial weights are soon forgotten. Running statistics are averaged as weights are;
    integer buffers are copied.

    Args:
        model: The model to follow; its tensors must stay the same objects.
        decay: d after many steps.

    Attributes:
        model: The average, a separate model in eval mode.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        averages, values = (
            [*(p.data for p in one.parameters()), *one.buffers()] for one in (self.model, model)
        )
        pairs = list(zip(averages, values, strict=True))
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._values = [value for _, value in pairs if value.is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Average in the weights after step number `steps`, counted from 1 over all epochs."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(self._averages, self._values, 1 - decay)
        for average, value in self._counters:
            average.copy_(value)
