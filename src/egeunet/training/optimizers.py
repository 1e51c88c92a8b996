"""What turns gradients into steps: the optimiser and its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from egeunet.training.config import OptimizerSettings, SchedulerSettings
from egeunet.training.soap import Soap


def learning_rate(
    settings: SchedulerSettings, lr: float, epoch: int, epochs: int, progress: float = 1.0
) -> float:
    """Return the rate of a step.

    With milestones: η₀ γ^(milestones passed). Else cosine annealing without restarts, which swings
    back up after T_max: η_min + (η₀ − η_min) (1 + cos(π epoch / T_max)) / 2. In the epochs of the
    warm-up (Goyal et al. 2017) it is multiplied by (epoch + progress) / warmup, step by step.

    Args:
        settings: The schedule.
        lr: η₀.
        epoch: Finished epochs.
        epochs: Epochs of the whole run.
        progress: Share of the epoch under way that is done when the step is, above 0 and up to 1.
    """
    if settings.milestones:
        rate = lr * settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)
    else:
        swing = (1 + math.cos(math.pi * epoch / (settings.t_max or epochs))) / 2
        rate = settings.eta_min + (lr - settings.eta_min) * swing
    warming = epoch + progress < settings.warmup
    return rate * (epoch + progress) / settings.warmup if warming else rate


def make_optimizer(
    settings: OptimizerSettings, model: nn.Module, on_cuda: bool
) -> torch.optim.Optimizer:
    """Return the optimiser of a model; on CUDA Adam's steps can be recorded."""
    parameters, lr, decay = list(model.parameters()), settings.lr, settings.weight_decay
    if settings.name == "sgd":
        momentum = settings.betas[0]
        return torch.optim.SGD(
            parameters, lr, momentum, weight_decay=decay, nesterov=momentum > 0, fused=True
        )
    if settings.name == "soap":
        return Soap(parameters, lr, settings.betas, settings.eps, decay)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    # A recorded step reads its rate from the device; see `Step`.
    rate = torch.tensor(lr, device=parameters[0].device) if on_cuda else lr
    return kind(
        parameters, rate, settings.betas, settings.eps, decay, fused=True, capturable=on_cuda
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in place where it is a tensor that a recorded step reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer; what depends on the device stays as it is here.

    Raises:
        ValueError: If it is the state of another optimizer, or of other weights. Other errors of
            `load_state_dict` are a KeyError, TypeError, AttributeError or RuntimeError.
    """
    groups = optimizer.param_groups
    own = [{key: group[key] for key in group if key in ("lr", "capturable")} for group in groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
    needed = {
        torch.optim.SGD: {"momentum_buffer"} if groups[0].get("momentum") else set(),
        Soap: {"step", "mean", "square"},
    }.get(type(optimizer), {"step", "exp_avg", "exp_avg_sq"})
    if needed and not optimizer.state:
        raise ValueError("the optimizer has no state")
    for weight, values in optimizer.state.items():
        if not needed <= values.keys():
            raise ValueError(f"the optimizer lacks {', '.join(sorted(needed - values.keys()))}")
        for name, value in values.items():
            moment = isinstance(value, Tensor) and value.ndim > 0
            if not isinstance(optimizer, Soap) and moment and value.shape != weight.shape:
                raise ValueError(f"{name} of the optimizer is of shape {tuple(value.shape)}")
