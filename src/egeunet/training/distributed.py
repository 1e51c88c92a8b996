"""The processes that train together, each on a device of its own and with its part of every batch.

Which of them a process is, it learns from the variables that torchrun sets; `rank_variables` has
the same ones for processes that this package starts. Fabric opens the devices and the group (gloo
on the CPU, NCCL on CUDA). Two things of its strategy "ddp" are not taken:

- Its launcher starts the caller's script again for each device, which a notebook or a test cannot
  bear, and where a process is killed the first one ends with a traceback of gloo or is killed as
  well (exit code 137). Ours is `side_by_side`.
- Its wrapper, DistributedDataParallel, wants gradients of every parameter and refuses frozen
  networks, and losses and requests to stop would need exchanges of their own. Here all of them go
  in one vector.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterable

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from egeunet.errors import EgeunetError, UsageError
from egeunet.training.config import DEVICES, Recipe
from egeunet.training.signals import StopRequest

_PATIENCE = 5  # seconds: the process that failed shall be the first to end, so that it is blamed


def world_size() -> int:
    """Return how many processes train together with this one, itself included."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this is the process that writes and speaks; one alone is."""
    return int(os.environ.get("RANK", 0)) == 0


def rank_variables(devices: int) -> list[dict[str, str]]:
    """Return the variables of each of so many processes on this machine; none for one alone."""
    if devices == 1:
        return [{}]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_network_port()),
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
    }
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(devices)]


def find_device(device: str, count: int = 1) -> str:
    """Return what is computed on, "cpu" or "cuda", where "auto", "cpu" or "cuda" is asked for.

    Raises:
        UsageError: If it is none of these, or not there, or fewer than `count` are.
    """
    if device not in DEVICES:
        raise UsageError(f"There is no device {device!r}: expected one of {', '.join(DEVICES)}.")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if found else "cpu"
    elif device == "cuda" and not found:
        raise UsageError("device=cuda, but torch sees no CUDA device here: use device=cpu.")
    if device == "cuda" and count > found:
        raise UsageError(f"{count} CUDA devices are asked for, but torch sees {found} here.")
    return device


def check_devices(recipe: Recipe, size: int) -> str:
    """Return what a recipe computes on, "cpu" or "cuda", in so many processes on a machine.

    Raises:
        UsageError: If there is no such device, or too few, or the recipe cannot be split.
    """
    device = find_device(recipe.device, size)
    if recipe.trainer.batch_size % size:
        raise UsageError(
            f"trainer.batch_size={recipe.trainer.batch_size} cannot be split over {size} devices: "
            f"choose a multiple of {size}."
        )
    if size > 1 and recipe.loss.name == "bce_jaccard_batch":
        raise UsageError(
            "loss.name=bce_jaccard_batch sums over a whole batch, which several devices only see "
            "in parts: choose devices=1, or bce_jaccard."
        )
    return device


def open_fabric(recipe: Recipe) -> Fabric:
    """Open the device of this process, and join the others if there are any.

    Raises:
        UsageError: See `check_devices`.
    """
    size = world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    device = check_devices(recipe, local)
    if size == 1:
        return Fabric(accelerator=device, devices=1, precision=recipe.precision)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets from each process
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=size // local,
        strategy=_Group(),
        precision=recipe.precision,
        plugins=[TorchElasticEnvironment()],
    )
    fabric.launch()
    return fabric


def add_up(values: Tensor) -> Tensor:
    """Put the sums over all processes into a tensor, and return it.

    Raises:
        EgeunetError: If one of them has ended.
    """
    try:
        dist.all_reduce(values)
    except RuntimeError as error:
        time.sleep(_PATIENCE)
        raise EgeunetError(
            "Another process of this training ended; the last checkpoint is intact, go on from it "
            "with --resume."
        ) from error
    return values


class _Group(DDPStrategy):
    """Devices and a group of processes, without a wrapper around the modules."""

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        return module


class Ranks:
    """What the processes of a training tell each other; a process alone hears itself.

    With every exchange goes whether somebody was asked to stop, so that all stop at one step.

    Args:
        fabric: As `open_fabric` gives it.
        stop: What this process was asked.

    Attributes:
        size: How many processes there are.
        rank: Which of them this is, from 0.
        first: Whether this is the one that writes and speaks.
    """

    def __init__(self, fabric: Fabric, stop: StopRequest) -> None:
        self.fabric, self.stop = fabric, stop
        self.size, self.rank = fabric.world_size, fabric.global_rank
        self.first = self.rank == 0
        self._asked = torch.zeros(())

    @property
    def stop_signal(self) -> int:
        """The signal by which any of them was asked to stop, as of the last exchange; 0: none."""
        own = self.stop.signal_number
        if self.size == 1:
            return own
        return (own or signal.SIGTERM) if self._asked > 0 else 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sums of a vector over all processes.

        Raises:
            EgeunetError: If one of them has ended.
        """
        if self.size == 1:
            return values
        asked = values.new_full((1,), self.stop.signal_number)
        packed = add_up(torch.cat((values, asked)))
        self._asked = packed[-1]
        return packed[:-1]

    @torch.no_grad()
    def average(self, parameters: Iterable[Tensor], loss: Tensor) -> Tensor:
        """Replace the gradients of parameters by their means; return the mean of a loss."""
        loss = loss.detach()
        if self.size == 1:
            return loss
        gradients = [p.grad for p in parameters if p.grad is not None]
        parts = [*gradients, loss]
        means = self.total(torch.cat([part.flatten() for part in parts])) / self.size
        *means, loss = means.split([part.numel() for part in parts])
        shaped = [mean.view_as(own) for mean, own in zip(means, gradients, strict=True)]
        torch._foreach_copy_(gradients, shaped)
        return loss.squeeze(0)

    def wait(self) -> None:
        """Wait until all have come here."""
        self.fabric.barrier()

    def leave(self) -> None:
        """Part in good order."""
        if self.size > 1:
            dist.destroy_process_group()
