"""Data-parallel training: devices, the group of processes, and what they exchange.

A process learns its rank from the variables that torchrun sets; `rank_variables` sets the same ones
for the processes of `launcher`. Lightning Fabric opens devices and group (gloo on the CPU, NCCL on
CUDA). DistributedDataParallel is not used: gradients, the loss and stop requests of all processes
are summed in one exchange per step.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from egeunet.errors import EgeunetError, UsageError
from egeunet.training.config import DEVICES, Recipe
from egeunet.training.signals import StopRequest

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PATIENCE = 5  # seconds; the process that failed must be the first to end, so that it is reported


def world_size() -> int:
    """Return how many processes train together, this one included."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Return whether this process writes the run folder: it has rank 0 or is alone."""
    return int(os.environ.get("RANK", 0)) == 0


def rank_variables(devices: int) -> list[dict[str, str]]:
    """Return the environment variables of each of `devices` processes on this machine."""
    if devices == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port, count = str(free.getsockname()[1]), str(devices)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(devices)]


def find_device(device: str, count: int = 1) -> str:
    """Return "cpu" or "cuda" for "auto", "cpu" or "cuda".

    Raises:
        UsageError: If it is none of these, or there are fewer than `count` CUDA devices.
    """
    if device not in DEVICES:
        raise UsageError(f"Unknown device {device!r}: expected one of {', '.join(DEVICES)}.")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if found else "cpu"
    if device == "cuda" and count > found:
        raise UsageError(
            f"device=cuda needs {count} CUDA devices, but torch finds {found}: use device=cpu."
        )
    return device


def check_devices(recipe: Recipe, size: int) -> str:
    """Return the device, "cpu" or "cuda", that `size` processes of a recipe train on.

    Raises:
        UsageError: If there are too few devices, or the recipe cannot be split over them.
    """
    device = find_device(recipe.device, size)
    if recipe.trainer.batch_size % size:
        raise UsageError(
            f"trainer.batch_size={recipe.trainer.batch_size} cannot be split over {size} devices: "
            f"choose a multiple of {size}."
        )
    if size > 1 and recipe.loss.name == "bce_jaccard_batch":
        raise UsageError(
            "loss.name=bce_jaccard_batch needs the whole batch on one device: choose devices=1 or "
            "loss.name=bce_jaccard."
        )
    return device


def open_fabric(recipe: Recipe) -> Fabric:
    """Open the device of this process, and join the other processes if there are any.

    Raises:
        UsageError: See `check_devices`.
    """
    # Here, because they take seconds that the process which starts the others would wait for.
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    class PlainStrategy(DDPStrategy):
        """Devices and a group of processes, without a wrapper around the modules."""

        def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
            return module

    size = world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    device = check_devices(recipe, local)
    if size == 1:
        return Fabric(accelerator=device, devices=1, precision=recipe.precision)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # one greeting per process
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=size // local,
        strategy=PlainStrategy(),
        precision=recipe.precision,
        plugins=[TorchElasticEnvironment()],
    )
    fabric.launch()
    return fabric


def sync_batch_norm(model: nn.Module, name: str, device: str) -> nn.Module:
    """Let batch normalization use the statistics of the whole batch (torch's SyncBatchNorm).

    Raises:
        UsageError: If the model has batch normalization that cannot be synchronized here.
    """
    norms = {type(m) for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    if norms and (device != "cuda" or norms != {nn.BatchNorm2d}):
        raise UsageError(
            f"The batch normalization of {name} cannot be synchronized over several devices on "
            f"{device}: train it with devices=1."
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model) if norms else model


class Group:
    """Sums and averages over the processes of a training; a process alone gets its own values.

    Every exchange also carries whether a process was asked to stop, so that all stop at one step.

    Args:
        fabric: As `open_fabric` returns it.
        stop: The stop request of this process.

    Attributes:
        size: Number of processes.
        rank: Rank of this process.
    """

    def __init__(self, fabric: Fabric, stop: StopRequest) -> None:
        self.fabric, self.stop = fabric, stop
        self.size, self.rank = fabric.world_size, fabric.global_rank
        self._asked = torch.zeros(())

    @property
    def stop_signal(self) -> int:
        """The signal that asked any process to stop, as of the last exchange; 0: none."""
        own = self.stop.signal_number
        if self.size == 1:
            return own
        return (own or signal.SIGTERM) if self._asked > 0 else 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sums of a vector over all processes.

        Raises:
            EgeunetError: If one of them has ended.
        """
        if self.size == 1:
            return values
        packed = torch.cat((values, values.new_full((1,), self.stop.signal_number)))
        try:
            dist.all_reduce(packed)
        except RuntimeError as error:
            time.sleep(_PATIENCE)
            raise EgeunetError(
                "Another process of this training ended; the last checkpoint is intact, resume "
                "with --resume."
            ) from error
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
        means = self.sum(torch.cat([part.flatten() for part in parts])) / self.size
        *means, loss = means.split([part.numel() for part in parts])
        shaped = [mean.view_as(own) for mean, own in zip(means, gradients, strict=True)]
        torch._foreach_copy_(gradients, shaped)
        return loss.squeeze(0)

    def leave(self) -> None:
        """Close the group."""
        if self.size > 1:
            dist.destroy_process_group()
