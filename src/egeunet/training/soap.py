"""SOAP: Adam in the directions in which a layer's gradients vary independently."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

LARGEST_SIDE = 256  # of a matrix of directions: that of a longer side would cost more than it gives
REFRESH = 10  # steps between two looks for the directions, as in the paper

State = dict[str, Any]


class Soap(torch.optim.Optimizer):
    """Vyas et al. 2024, SOAP, algorithm 3 (arXiv 2409.11321), with decoupled weight decay.

    Adam scales each weight by itself. SOAP first turns a layer's gradient to the eigenvectors of
    its mean G Gᵀ and Gᵀ G (those of Shampoo) and scales it there.

    A weight of shape (O, I, H, W) is a matrix of O × IHW, sides of 1 left out; vectors are scaled
    as in Adam. Weights of one shape are computed together.

    Args:
        parameters: The weights.
        lr: Learning rate.
        betas: Decay of the first moment, and of the second and the gradients' products.
        eps: Added to the denominator.
        weight_decay: Share of a weight that a step at rate 1 takes off.
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
        """Update the weights; the first gradient of a weight only sets its directions.

        A weight without a gradient is left as it is; its moments are those of a zero gradient.

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
            # Weights of one shape share their state, which belongs to the first of them whether
            # or not it has a gradient in this step.
            alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                alike[_matrix(weight)].append(weight)
            for shape, weights in alike.items():
                if all(weight.grad is None for weight in weights):
                    continue
                gradients = torch.stack([_gradient(weight).reshape(shape) for weight in weights])
                state = self.state[weights[0]]
                if not state:
                    _begin(state, gradients, group["betas"][1])
                    continue
                changes = _adam(state, gradients, group)
                _follow(state, gradients, group["betas"][1])
                for weight, change in zip(weights, changes, strict=True):
                    if weight.grad is not None:
                        weight.sub_(change.view(weight.shape))
                        weight.mul_(1 - group["lr"] * group["weight_decay"])
        return loss


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _matrix(weight: Tensor) -> tuple[int, int]:
    sides = [side for side in weight.shape if side > 1] or [1]
    return sides[0], math.prod(sides[1:])


def _products(gradients: Tensor) -> dict[str, Tensor]:
    """G Gᵀ and Gᵀ G of the sides that have directions."""
    rows, columns = gradients.shape[1:]
    found = {}
    if columns > 1 and rows <= LARGEST_SIDE:
        found["left"] = gradients @ gradients.mT
    if 1 < columns <= LARGEST_SIDE:
        found["right"] = gradients.mT @ gradients
    return found


def _begin(state: State, gradients: Tensor, decay: float) -> None:
    state["step"] = 0
    state["mean"] = torch.zeros_like(gradients)
    state["square"] = torch.zeros_like(gradients)
    for side, product in _products(gradients).items():
        state[side] = product * (1 - decay)
        state[f"{side}_directions"] = _eigenvectors(product)


def _eigenvectors(products: Tensor) -> Tensor:
    """Eigenvectors of (N, d, d), that of the largest eigenvalue first.

    In float64: in float32 LAPACK's divide and conquer fails on products of nearly rank 1, as those
    of first gradients are. Eigenvectors do not depend on the scale, which is taken out.
    """
    # A gradient that is not finite is the training's to report, by its loss.
    wide = products.double().nan_to_num(0, 0, 0)
    wide = wide / wide.abs().amax((1, 2), keepdim=True).clamp(min=1e-300)
    identity = torch.eye(wide.shape[-1], dtype=wide.dtype, device=wide.device)
    for jitter in (0.0, 1e-12, 1e-8):
        try:
            return torch.linalg.eigh(wide + jitter * identity)[1].flip(2).to(products.dtype)
        except RuntimeError:  # did not converge
            continue
    return identity.expand_as(wide).to(products.dtype)  # Adam's own axes


def _turn(matrices: Tensor, state: State) -> Tensor:
    """Express matrices in the directions."""
    if "left" in state:
        matrices = state["left_directions"].mT @ matrices
    return matrices @ state["right_directions"] if "right" in state else matrices


def _turn_back(matrices: Tensor, state: State) -> Tensor:
    if "left" in state:
        matrices = state["left_directions"] @ matrices
    return matrices @ state["right_directions"].mT if "right" in state else matrices


def _adam(state: State, gradients: Tensor, group: dict[str, Any]) -> Tensor:
    """Return what to take off the weights."""
    state["step"] += 1
    first, second = group["betas"]
    state["mean"].lerp_(gradients, 1 - first)
    state["square"].lerp_(_turn(gradients, state).square(), 1 - second)
    correction = math.sqrt(1 - second ** state["step"]) / (1 - first ** state["step"])
    scaled = _turn(state["mean"], state) / (state["square"].sqrt() + group["eps"])
    return _turn_back(scaled, state) * (group["lr"] * correction)


def _follow(state: State, gradients: Tensor, decay: float) -> None:
    """Add the gradients to the mean products, and sometimes turn the directions to these."""
    for side, product in _products(gradients).items():
        state[side].lerp_(product, 1 - decay)
        if state["step"] % REFRESH == 0:
            _refresh(state, side, 1 if side == "left" else 2)


def _refresh(state: State, side: str, axis: int) -> None:
    """One round of the power iteration, the strongest direction first."""
    directions = state[f"{side}_directions"]
    powers = state[side] @ directions
    order = (directions * powers).sum(1).argsort(descending=True)
    along = order.unsqueeze(3 - axis).expand_as(state["square"])
    state["square"] = state["square"].gather(axis, along)
    powers = powers.gather(2, order.unsqueeze(1).expand_as(powers))
    state[f"{side}_directions"] = torch.linalg.qr(powers)[0]
