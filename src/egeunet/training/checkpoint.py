"""The state of a training on disk, whole or not at all.

`last.ckpt` is what `--resume` reads; the one before it stays as `previous.ckpt`. Both hold tensors
and plain values only and are read without unpickling code. `model.safetensors` holds the selected
weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from egeunet.errors import EgeunetError
from egeunet.files import atomic_write

LAST, PREVIOUS, WEIGHTS = "last.ckpt", "previous.ckpt", "model.safetensors"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` to `last.ckpt`; the old one becomes `previous.ckpt`.

    Raises:
        EgeunetError: If it cannot be written (a full disk); both files are then as they were.
    """
    last = folder / LAST
    try:
        with atomic_write(last) as temporary:
            torch.save(state, temporary)
            if last.exists():
                with atomic_write(folder / PREVIOUS) as spare:
                    shutil.copyfile(last, spare)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise EgeunetError(
            f"The checkpoint could not be written to {folder}: {_line(error)}; the last one is "
            "intact, make room and resume with --resume."
        ) from error


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Read `last.ckpt`; None if there is none yet.

    Raises:
        EgeunetError: If it is damaged; the message names the one to use instead.
    """
    last = folder / LAST
    if not last.exists():
        return None
    try:
        state = torch.load(last, map_location=device, weights_only=True)
        if not isinstance(state, dict) or "model" not in state:
            raise ValueError("it holds something else")  # noqa: TRY301
    except Exception as error:  # torch.load raises many kinds for a bad file
        remedy = (
            f"move {PREVIOUS} over it and resume"
            if (folder / PREVIOUS).exists()
            else "remove it to start again"
        )
        raise EgeunetError(f"{last} is damaged ({_line(error)}): {remedy}.") from error
    return state


def save_weights(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights as safetensors with text metadata, atomically.

    Raises:
        EgeunetError: If the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise EgeunetError(
            f"The weights could not be written to {path}: {_line(error)}."
        ) from error


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a safetensors file.

    Raises:
        EgeunetError: If there is no such file or it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata
    except FileNotFoundError as error:
        raise EgeunetError(
            f"There are no weights {path}: the training has not saved any."
        ) from error
    except (OSError, SafetensorError) as error:
        raise EgeunetError(f"{path} is not a safetensors file ({_line(error)}).") from error


def _line(error: BaseException) -> str:
    """The first line of an error's text, short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
