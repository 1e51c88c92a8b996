"""Checkpoints that the authors of a system published, loaded into ours."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from egeunet.errors import EgeunetError, UsageError
from egeunet.models.registry import StateDict, get_system


def convert_official_state_dict(name: str, state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the tensors of a published checkpoint so that `create_model(name)` loads them.

    Prefixes of wrappers (`module.`) and the counters that the tool thop leaves in a saved model
    (`total_ops`, `total_params`) are dropped.

    Args:
        name: A system with a published checkpoint format, such as `egeunet`.
        state_dict: The published names and tensors.

    Raises:
        UsageError: If no checkpoint of that system was published.
        EgeunetError: If the tensors are not those of the published network.
    """
    system = get_system(name)
    if system.convert_official is None:
        raise UsageError(f"No published checkpoint format is known for the system {name!r}.")
    clean = {
        key.removeprefix("module."): tensor
        for key, tensor in state_dict.items()
        if not key.endswith(("total_ops", "total_params"))
    }
    try:
        return system.convert_official(clean)
    except KeyError as error:
        raise EgeunetError(
            f"This is not a published checkpoint of {name!r}: it has no tensor {error.args[0]!r}."
        ) from error


def read_official_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a published `.pth` file without running any code that it may contain.

    Raises:
        EgeunetError: If the file is not such a checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise EgeunetError(f"There is no file {path}.") from error
    except Exception as error:  # torch.load raises many kinds for a bad file
        raise EgeunetError(f"{path} is not a checkpoint of tensors only: {error}") from error
    for key in ("model_state_dict", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise EgeunetError(f"{path} holds no dictionary of tensors; expected a state_dict.")
    return content
