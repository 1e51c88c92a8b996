"""SOAP optimizer: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

LARGEST_SIDE = 256  # longer sides of a matrix keep their axes: their eigenvectors cost too much
REFRESH = 10  # steps between updates of the eigenvectors, as in the paper

State = dict[str, Any]


class Soap(torch.optim.Optimizer):
    """Vyas et al. 2024, SOAP, algorithm 3 (arXiv 2409.11321), with decoupled weight decay.

    A weight of shape (O, I, H, W) is a matrix G of O × IHW, without sides of 1. Its gradient is
    rotated to the eigenvectors of the means of G Gᵀ and Gᵀ G, scaled as in Adam, and rotated back;
    vectors are scaled as in Adam. Weights of one shape are updated together, which is about four
    times as fast on the many small layers of EGE-UNet as one by one.

    Args:
        parameters: Weights.
        lr: Learning rate.
        betas: Decay of the first moment, and of the second moment and the preconditioner.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the weights; the first gradients only initialize the preconditioner.

        A weight without a gradient stays, and its moments decay.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            What `closure` returns; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # Weights of one shape share a state, stored with the first of them whether or not that
            # one has a gradient in this step.
            alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                sides = [side for side in weight.shape if side > 1] or [1]
                alike[sides[0], math.prod(sides[1:])].append(weight)
            for shape, weights in alike.items():
                if all(weight.grad is None for weight in weights):
                    continue
                grads = (torch.zeros_like(w) if w.grad is None else w.grad for w in weights)
                gradients = torch.stack([gradient.reshape(shape) for gradient in grads])
                state = self.state[weights[0]]
                if not state:
                    _initialize(state, gradients, group["betas"][1])
                    continue
                changes = _adam_step(state, gradients, group)
                _update_preconditioner(state, gradients, group["betas"][1])
                for weight, change in zip(weights, changes, strict=True):
                    if weight.grad is not None:
                        weight.sub_(change.view(weight.shape))
                        weight.mul_(1 - group["lr"] * group["weight_decay"])
        return loss


def _products(gradients: Tensor) -> dict[str, Tensor]:
    """G Gᵀ and Gᵀ G of the sides that are rotated."""
    rows, columns = gradients.shape[1:]
    found = {}
    if columns > 1 and rows <= LARGEST_SIDE:
        found["left"] = gradients @ gradients.mT
    if 1 < columns <= LARGEST_SIDE:
        found["right"] = gradients.mT @ gradients
    return found


def _initialize(state: State, gradients: Tensor, decay: float) -> None:
    state["step"] = 0
    state["mean"] = torch.zeros_like(gradients)
    state["square"] = torch.zeros_like(gradients)
    for side, product in _products(gradients).items():
        state[side] = product * (1 - decay)
        state[f"{side}_directions"] = _eigenvectors(product)


def _eigenvectors(products: Tensor) -> Tensor:
    """Eigenvectors of (N, d, d), that of the largest eigenvalue first.

    In float64: in float32, LAPACK fails on nearly rank-1 products, as those of first gradients are.
    """
    # A gradient that is not finite shows in the loss, which the trainer reports.
    wide = products.double().nan_to_num(0, 0, 0)
    wide = wide / wide.abs().amax((1, 2), keepdim=True).clamp(min=1e-300)
    identity = torch.eye(wide.shape[-1], dtype=wide.dtype, device=wide.device)
    for jitter in (0.0, 1e-12, 1e-8):
        try:
            return torch.linalg.eigh(wide + jitter * identity)[1].flip(2).to(products.dtype)
        except RuntimeError:  # did not converge
            continue
    return identity.expand_as(wide).to(products.dtype)


def _rotate(matrices: Tensor, state: State) -> Tensor:
    if "left" in state:
        matrices = state["left_directions"].mT @ matrices
    return matrices @ state["right_directions"] if "right" in state else matrices


def _rotate_back(matrices: Tensor, state: State) -> Tensor:
    if "left" in state:
        matrices = state["left_directions"] @ matrices
    return matrices @ state["right_directions"].mT if "right" in state else matrices


def _adam_step(state: State, gradients: Tensor, group: dict[str, Any]) -> Tensor:
    """Update the moments; return what to subtract from the weights."""
    state["step"] += 1
    first, second = group["betas"]
    state["mean"].lerp_(gradients, 1 - first)
    state["square"].lerp_(_rotate(gradients, state).square(), 1 - second)
    correction = math.sqrt(1 - second ** state["step"]) / (1 - first ** state["step"])
    scaled = _rotate(state["mean"], state) / (state["square"].sqrt() + group["eps"])
    return _rotate_back(scaled, state) * (group["lr"] * correction)


def _update_preconditioner(state: State, gradients: Tensor, decay: float) -> None:
    for side, product in _products(gradients).items():
        state[side].lerp_(product, 1 - decay)
        if state["step"] % REFRESH == 0:
            _refresh(state, side, 1 if side == "left" else 2)


def _refresh(state: State, side: str, axis: int) -> None:
    """Update the eigenvectors by one power iteration with QR, the largest eigenvalue first."""
    directions = state[f"{side}_directions"]
    powers = state[side] @ directions
    order = (directions * powers).sum(1).argsort(descending=True)
    along = order.unsqueeze(3 - axis).expand_as(state["square"])
    state["square"] = state["square"].gather(axis, along)
    powers = powers.gather(2, order.unsqueeze(1).expand_as(powers))
    state[f"{side}_directions"] = torch.linalg.qr(powers)[0]
