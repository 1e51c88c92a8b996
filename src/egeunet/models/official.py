"""Loading checkpoints published by a model's authors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from egeunet.errors import EgeunetError, UsageError
from egeunet.models.registry import StateDict, model_info


def convert_official_state_dict(name: str, state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the tensors of a published checkpoint so that `create_model(name)` loads them.

    Wrapper prefixes (`module.`) and the counters that thop leaves in a saved model (`total_ops`,
    `total_params`) are dropped.

    Args:
        name: A model with published checkpoints: egeunet, malunet or unext_s.
        state_dict: Published names and tensors.

    Raises:
        UsageError: No checkpoint format is known for that model.
        EgeunetError: The tensors are not those of the published network.
    """
    convert = model_info(name).convert_official
    if convert is None:
        raise UsageError(f"No published checkpoint format is known for {name}.")
    counters = ("total_ops", "total_params")
    tensors = {
        key.removeprefix("module."): tensor
        for key, tensor in state_dict.items()
        if not key.endswith(counters)
    }
    try:
        return convert(tensors)
    except KeyError as error:
        raise EgeunetError(
            f"This is not a published checkpoint of {name}: it has no tensor {error.args[0]!r}."
        ) from error


def read_official_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a published `.pth` file without running code stored in it.

    Raises:
        EgeunetError: The file is not such a checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise EgeunetError(f"There is no file {path}.") from error
    except Exception as error:  # torch.load raises many kinds for a bad file
        raise EgeunetError(
            f"{path} is not a checkpoint that holds only tensors: {error}"
        ) from error
    for key in ("model_state_dict", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise EgeunetError(f"{path} holds no state_dict of tensors.")
    return content
