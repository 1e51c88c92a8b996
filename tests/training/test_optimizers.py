"""The learning rate of each step against the framework's schedulers; the state of optimizers."""

from copy import deepcopy

import pytest
import torch

from egeunet.training.config import OptimizerSettings, SchedulerSettings
from egeunet.training.optimizers import (
    learning_rate,
    make_optimizer,
    restore_optimizer,
    set_learning_rate,
)


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


def train_steps(model, optimizer, steps):
    """Train on images that depend on the number of the step."""
    for step in steps:
        images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


KINDS = [
    *({"name": name} for name in ("adamw", "adam", "soap", "sgd")),
    {"name": "sgd", "betas": (0.0, 0.999)},
]


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: "-".join(map(str, s.values())))
def test_an_optimizer_continues_from_its_state(settings):
    settings = OptimizerSettings(lr=0.01, weight_decay=0.1, **settings)
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 4, 3)
    optimizer = make_optimizer(settings, model, on_cuda=False)
    train_steps(model, optimizer, range(3))
    copy = torch.nn.Conv2d(3, 4, 3)
    copy.load_state_dict(model.state_dict())
    other = make_optimizer(settings, copy, on_cuda=False)
    restore_optimizer(other, deepcopy(optimizer.state_dict()))
    assert torch.equal(
        train_steps(model, optimizer, range(3, 6)), train_steps(copy, other, range(3, 6))
    )


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_the_first_beta_is_the_momentum_of_sgd(momentum):
    """Nesterov's, with weight decay in the gradient."""
    settings = OptimizerSettings(name="sgd", lr=0.1, betas=(momentum, 0.999), weight_decay=0.1)
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 4, 3)
    copy = deepcopy(model)
    oracle = torch.optim.SGD(
        copy.parameters(), 0.1, momentum, weight_decay=0.1, nesterov=momentum > 0
    )
    found = train_steps(model, make_optimizer(settings, model, on_cuda=False), range(4))
    torch.testing.assert_close(found, train_steps(copy, oracle, range(4)))


def test_the_state_of_another_optimizer_is_refused():
    settings = OptimizerSettings(lr=0.01)
    model = torch.nn.Conv2d(3, 4, 3)
    optimizer = make_optimizer(settings, model, on_cuda=False)
    with pytest.raises(ValueError, match="no state"):
        restore_optimizer(optimizer, optimizer.state_dict())
    train_steps(model, optimizer, range(1))
    state = optimizer.state_dict()
    del state["state"][0]["exp_avg_sq"]
    with pytest.raises(ValueError, match="lacks exp_avg_sq"):
        restore_optimizer(make_optimizer(settings, model, on_cuda=False), state)
    other = torch.nn.Conv2d(3, 4, 1)
    train_steps(other, wrong := make_optimizer(settings, other, on_cuda=False), range(1))
    with pytest.raises(ValueError, match="another shape"):
        restore_optimizer(optimizer, wrong.state_dict())
