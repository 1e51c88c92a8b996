"""Optimizers and learning-rate schedules."""

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
    """Return the learning rate of a step.

    With milestones: η₀ γ^(milestones passed). Otherwise cosine annealing without restarts, which
    rises again after T_max: η_min + (η₀ − η_min) (1 + cos(π epoch / T_max)) / 2. During warm-up
    (Goyal et al. 2017) it is multiplied by (epoch + progress) / warmup.

    Args:
        settings: The schedule.
        lr: η₀.
        epoch: Finished epochs.
        epochs: Epochs of the whole run.
        progress: Fraction of the current epoch that is done after the step, in (0, 1].
    """
    if settings.milestones:
        rate = lr * settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)
    else:
        cosine = (1 + math.cos(math.pi * epoch / (settings.t_max or epochs))) / 2
        rate = settings.eta_min + (lr - settings.eta_min) * cosine
    warming = epoch + progress < settings.warmup
    return rate * (epoch + progress) / settings.warmup if warming else rate


def make_optimizer(
    settings: OptimizerSettings, model: nn.Module, on_cuda: bool
) -> torch.optim.Optimizer:
    """Return the optimizer of a model; on CUDA, steps of Adam and AdamW can be captured."""
    parameters, lr, decay = list(model.parameters()), settings.lr, settings.weight_decay
    if settings.name == "sgd":
        momentum = settings.betas[0]
        return torch.optim.SGD(
            parameters, lr, momentum, weight_decay=decay, nesterov=momentum > 0, fused=True
        )
    if settings.name == "soap":
        return Soap(parameters, lr, settings.betas, settings.eps, decay)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    # A captured step reads its learning rate from the device; see `TrainStep`.
    rate = torch.tensor(lr, device=parameters[0].device) if on_cuda else lr
    return kind(
        parameters, rate, settings.betas, settings.eps, decay, fused=True, capturable=on_cuda
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in place where it is a tensor that a captured step reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer; what depends on the device stays as it is here.

    Raises:
        ValueError: If it is the state of another optimizer or of other weights. `load_state_dict`
            may also raise a KeyError, TypeError, AttributeError or RuntimeError.
    """
    groups = optimizer.param_groups
    own = [{key: group[key] for key in group if key in ("lr", "capturable")} for group in groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
    soap = isinstance(optimizer, Soap)
    needed = {"step", "mean", "square"} if soap else {"step", "exp_avg", "exp_avg_sq"}
    if isinstance(optimizer, torch.optim.SGD):
        needed = {"momentum_buffer"} if groups[0]["momentum"] else set()
    if needed and not optimizer.state:
        raise ValueError("the optimizer has no state")
    for weight, values in optimizer.state.items():
        if not needed <= values.keys():
            raise ValueError(f"the optimizer lacks {', '.join(sorted(needed - values.keys()))}")
        moments = [v for v in values.values() if isinstance(v, Tensor) and v.ndim]
        if not soap and any(moment.shape != weight.shape for moment in moments):
            raise ValueError("moments of the optimizer are of another shape than the weights")
