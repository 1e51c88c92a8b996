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
MAX_HEADER_BYTES = 4 << 20  # of a safetensors file; that of the largest model here has 0.1 MB

_KINDS: dict[str, tuple[type, ...]] = {
    "model": (dict,),
    "average": (dict, type(None)),
    "optimizer": (dict,),
    "epoch": (int,),
    "step": (int,),
    "loss_sum": (float, int),
    "seconds": (float, int),
    "history": (list,),
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
    """Read `last.ckpt`; None if there is none yet.

    Raises:
        EgeunetError: If it is damaged or not a checkpoint of a training; the message names the one
            to use instead.
    """
    last = folder / LAST
    if not last.exists():
        return None
    try:
        state = torch.load(last, map_location=device, weights_only=True)
        _check_checkpoint(state)
    except Exception as error:  # torch.load raises many kinds for a bad file
        remedy = (
            f"move {PREVIOUS} over it and resume"
            if (folder / PREVIOUS).exists()
            else "remove it to start again"
        )
        raise EgeunetError(f"{last} is damaged ({first_line(error)}): {remedy}.") from error
    return state


def _check_checkpoint(state: Any) -> None:
    """Raise a ValueError unless a checkpoint has the keys and types that a training writes."""
    if not isinstance(state, dict):
        raise ValueError("it is not a mapping")  # noqa: TRY004
    for key, kinds in _KINDS.items():
        if not isinstance(state.get(key), kinds) or isinstance(state.get(key), bool):
            raise ValueError(f"its {key!r} is missing or of a wrong type")  # noqa: TRY004
    for tensors in (state["model"], state.setdefault("average", None) or {}):
        if not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ValueError("its weights are not tensors")
    rows = state["history"]
    numbers = (row.values() for row in rows if isinstance(row, dict))
    if not state["model"] or not all(isinstance(n, int | float) for row in numbers for n in row):
        raise ValueError("its model is empty or its history is not numbers")
    if not state["epoch"] == len(rows) >= 0 <= state["step"]:
        raise ValueError(f"epoch {state['epoch']} does not fit a history of {len(rows)} epochs")


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
    """The first line of an error's text, short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
