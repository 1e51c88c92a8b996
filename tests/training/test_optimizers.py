"""The learning rate of each step, against the framework's schedulers."""

import pytest
import torch

from egeunet.training.config import SchedulerSettings
from egeunet.training.optimizers import learning_rate, set_learning_rate


def test_milestones_multiply_the_rate():
    settings = SchedulerSettings(milestones=(2, 4), gamma=0.1)
    rates = [learning_rate(settings, 1.0, epoch, 6) for epoch in range(6)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("t_max", [50, 7, None])
def test_the_rate_is_that_of_the_frameworks_scheduler(t_max):
    epochs = 120
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, t_max or epochs, 1e-5)
    for epoch in range(epochs):
        rate = learning_rate(SchedulerSettings(t_max=t_max), 1e-3, epoch, epochs)
        assert rate == pytest.approx(oracle.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        oracle.step()


def test_the_warm_up_rises_step_by_step_to_the_schedule():
    """As in PyTorch's LinearLR, whose first step is not at 0 but at one part of the warm-up."""
    steps, warmup = 4, 2.5
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=9)
    settings = SchedulerSettings(milestones=(3,), gamma=0.5, warmup=warmup)
    rates = [
        learning_rate(settings, 1.0, epoch, 4, (step + 1) / steps)
        for epoch in range(4)
        for step in range(steps)
    ]
    for rate in rates[:12]:
        assert rate == pytest.approx(oracle.get_last_lr()[0])
        optimizer.step()
        oracle.step()
    assert rates[12:] == [0.5] * 4


def test_a_rate_that_a_recorded_step_reads_is_set_in_place():
    """On CUDA the rate is a tensor; the same steps as with a number, here on the CPU."""
    ends = []
    for lr in (0.1, torch.tensor(0.1)):
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([weight], lr, fused=True)
        rate = optimizer.param_groups[0]["lr"]
        for value in (0.1, 0.05):
            set_learning_rate(optimizer, value)
            (weight * torch.arange(3.0)).sum().backward()
            optimizer.step()
        assert optimizer.param_groups[0]["lr"] is rate or isinstance(lr, float)
        ends.append(weight.detach())
    torch.testing.assert_close(ends[0], ends[1])
