"""Checkpoints and weights on disk, written atomically and read without running code.

`last.ckpt` is the state that `--resume` continues from, `previous.ckpt` the one before it, and
`model.safetensors` the selected weights.
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
MAX_HEADER_BYTES = 4 << 20  # of a safetensors file; that of the largest model here has 0.1 MB

_TYPES: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "average": (dict, type(None)),
    "optimizer": dict,
    "epoch": int,
    "step": int,
    "loss_sum": (float, int),
    "seconds": (float, int),
    "history": list,
}


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
            f"Cannot write the checkpoint to {folder} ({first_line(error)}): the last one is "
            "intact, make room and resume with --resume."
        ) from error


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Read `last.ckpt`; return None if there is none yet.

    Raises:
        EgeunetError: If it is damaged or not a checkpoint of a training.
    """
    last = folder / LAST
    if not last.exists():
        return None
    try:
        state = torch.load(last, map_location=device, weights_only=True)
        _check(state)
    except Exception as error:  # torch.load raises many kinds for a bad file
        spare = (folder / PREVIOUS).exists()
        remedy = f"move {PREVIOUS} over it and resume" if spare else "remove it to start again"
        raise EgeunetError(f"{last} is damaged ({first_line(error)}): {remedy}.") from error
    return state


def _check(state: Any) -> None:
    """Raise an error unless a checkpoint has the keys and types that a training writes."""
    for key, types in _TYPES.items():
        if not isinstance(state[key], types) or isinstance(state[key], bool):
            raise TypeError(f"{key!r} is of type {type(state[key]).__name__}")
    weights = [*state["model"].values(), *(state["average"] or {}).values()]
    if not state["model"] or not all(isinstance(tensor, Tensor) for tensor in weights):
        raise ValueError("its model is empty or its weights are not tensors")
    rows = state["history"]
    if not all(isinstance(number, int | float) for row in rows for number in row.values()):
        raise ValueError("its history is not numbers")
    if state["epoch"] != len(rows) or state["step"] < 0:
        raise ValueError(f"epoch {state['epoch']} does not fit a history of {len(rows)} epochs")


def save_weights(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights as safetensors with text metadata.

    Raises:
        EgeunetError: If the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise EgeunetError(f"Cannot write the weights to {path}: {first_line(error)}.") from error


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a safetensors file.

    Raises:
        EgeunetError: If there is no such file, it is damaged, or its header is larger than 4 MiB.
    """
    try:
        with path.open("rb") as file:
            if int.from_bytes(file.read(8), "little") > MAX_HEADER_BYTES:
                raise EgeunetError(
                    f"Cannot read {path}: its header is larger than {MAX_HEADER_BYTES >> 20} MiB."
                )
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
        return load_file(path), metadata
    except FileNotFoundError as error:
        raise EgeunetError(
            f"There are no weights {path}: the training has not saved any."
        ) from error
    except (OSError, SafetensorError) as error:
        raise EgeunetError(f"{path} is not a safetensors file ({first_line(error)}).") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, shortened."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
