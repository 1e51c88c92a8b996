"""Parameters, multiply-accumulates and activation memory of a model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary


@dataclass(frozen=True)
class Cost:
    """The cost of one forward pass in eval mode.

    Attributes:
        params: Number of parameters, tied ones counted once.
        macs: Multiply-accumulates of convolutions, linear layers and matrix products; biases,
            normalization, activations and resizing are not counted. Twice this is FLOPs.
        activation_bytes: Peak size of all operator results alive at one time, each until its last
            use. Weights, the image and workspace inside operators are not counted: this is a
            property of the network and a lower bound for any runtime.
    """

    params: int
    macs: int
    activation_bytes: int


def count_cost(model: nn.Module, size: tuple[int, int] = (256, 256), in_channels: int = 3) -> Cost:
    """Count the cost of any module for one image of (in_channels, *size).

    Runs a forward pass in eval mode on the device of the parameters; the mode is restored.
    """
    first = next(model.parameters(), torch.empty(0))
    image = torch.zeros(1, in_channels, *size, device=first.device, dtype=first.dtype)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter, _Lifetimes() as lifetimes:
            model(image)
    finally:
        model.train(training)
    return Cost(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=counter.get_total_flops() // 2,
        activation_bytes=lifetimes.peak(),
    )


@dataclass
class _Life:
    """A storage: its size in bytes, and the first and last operator that use it."""

    size: int
    first: int
    last: int


class _Lifetimes(TorchDispatchMode):
    """Records when each storage is used; views and in-place results share one."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.lives: list[_Life] = []
        self._of = WeakIdKeyDictionary()  # storage: life

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.step += 1
        for tensor in tree_leaves((args, kwargs)):
            self._touch(tensor, created=False)  # new here: a weight or the image
        for tensor in tree_leaves(out):
            self._touch(tensor, created=True)
        return out

    def _touch(self, tensor: object, *, created: bool) -> None:
        if not isinstance(tensor, Tensor):
            return
        storage = tensor.untyped_storage()
        if storage not in self._of:
            life = _Life(storage.nbytes() if created else 0, self.step, self.step)
            self._of[storage] = life
            self.lives.append(life)
        self._of[storage].last = self.step

    def peak(self) -> int:
        changes = [0] * (self.step + 2)
        for life in self.lives:
            changes[life.first] += life.size
            changes[life.last + 1] -= life.size
        return max(itertools.accumulate(changes))
