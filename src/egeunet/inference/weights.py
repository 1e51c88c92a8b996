"""Files of weights by name, run folder, path or URL, and their metadata."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from egeunet.engine.library import load_engine
from egeunet.errors import EgeunetError, UsageError
from egeunet.files import atomic_write, cache_folder, is_url, sha256_file
from egeunet.inference import preprocess
from egeunet.inference.quality import DiceEstimator

Backend: TypeAlias = Literal["engine", "onnxruntime"]
DEFAULT = "isic2018"
SHIPPED = Path(__file__).parents[1] / "weights"
_MAX_SIDE = 4096  # pixels of the network's input
_INVALID = "The metadata of {} are invalid: expected a file that `egeunet export` wrote."


def find_weights(weights: str | Path | None = None, backend: Backend | None = None) -> Path:
    """Find a file of weights.

    Args:
        weights: A run folder, an .egeu or .onnx file, the name of shipped weights, a URL with its
            SHA-256, `https://…/x.onnx#sha256=…`, which is downloaded once to the cache folder, or
            None for the default weights.
        backend: Runtime of the file, if a name or a folder has several; by default the engine if it
            is installed and there is a file for it.

    Returns:
        The path of the file.

    Raises:
        UsageError: There are no such weights.
        EgeunetError: The run folder has no such file, or a file has another SHA-256 than expected.
    """
    suffixes = _suffixes(backend)
    if weights is None:
        files = [SHIPPED / f"{DEFAULT}{suffix}" for suffix in suffixes]
        return _verify(next((file for file in files if file.is_file()), files[-1]))
    if is_url(weights):
        return _fetch(str(weights))
    for suffix in suffixes:
        if found := find_shipped(weights, suffix):
            return found
    path = Path(weights)
    if path.is_dir():
        files = [path / f"model{suffix}" for suffix in suffixes]
        if found := next((file for file in files if file.is_file()), None):
            return found
        option = " -f engine" if backend == "engine" else ""
        raise EgeunetError(
            f"{path} holds no {files[-1].name}: make it with `egeunet export {path}{option}`."
        )
    if path.is_file():
        return path
    names = ", ".join(list_shipped()) or "none"
    raise UsageError(
        f"There are no weights {str(weights)!r}: expected a run folder, an .egeu or .onnx file, "
        f"or the name of shipped weights ({names})."
    )


def list_shipped() -> dict[str, Path]:
    """Return the ONNX files in the package by name, checked against SHA256SUMS.

    Raises:
        EgeunetError: A file was changed.
    """
    return {path.stem: _verify(path) for path in sorted(SHIPPED.glob("*.onnx"))}


def find_shipped(name: str | Path, suffix: str = ".onnx") -> Path | None:
    """Return a file of shipped weights, checked against SHA256SUMS.

    Args:
        name: Their name. A file or a run folder of that name takes precedence; another folder, such
            as a dataset in the current folder, does not.
        suffix: ".egeu", ".onnx" or ".safetensors".

    Returns:
        None if there are no such weights.

    Raises:
        EgeunetError: The file was changed.
    """
    path, shipped = Path(name), SHIPPED / f"{name}{suffix}"
    run_files = ("recipe.yaml", "model.egeu", "model.onnx")
    is_run = any((path / file).is_file() for file in run_files)
    if path.parent != Path() or path.is_file() or is_run or not shipped.is_file():
        return None
    return _verify(shipped)


def run_folder(weights: str | Path) -> Path | None:
    """Return the run folder that weights name; None for a file, a URL or shipped weights."""
    path = Path(weights)
    return path if path.is_dir() and not find_shipped(path) else None


def _suffixes(backend: Backend | None) -> tuple[str, ...]:
    """The suffixes of the files that a backend runs, the preferred one first."""
    if backend:
        return (".egeu",) if backend == "engine" else (".onnx",)
    return (".egeu", ".onnx") if load_engine() is not None else (".onnx",)


def _verify(path: Path) -> Path:
    sums = path.with_name("SHA256SUMS")
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    if not path.is_file() or f"{sha256_file(path)}  {path.name}" not in lines:
        raise EgeunetError(f"{path} is missing or was changed: install egeunet again.")
    return path


def _fetch(url: str) -> Path:
    address, _, digest = url.partition("#sha256=")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise UsageError(f"{url} has no checksum: append #sha256= and its 64 digits.")
    suffix = ".egeu" if address.partition("?")[0].endswith(".egeu") else ".onnx"
    path = cache_folder() / "weights" / f"{digest}{suffix}"
    if path.is_file() and sha256_file(path) == digest:
        return path
    from egeunet.inference.fetch import fetch_bytes  # http and ssl take long to import

    data = fetch_bytes(address)
    if hashlib.sha256(data).hexdigest() != digest:
        raise EgeunetError(f"{address} is another file than expected: its SHA-256 differs.")
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)
    return path


@dataclass(frozen=True)
class Metadata:
    """Metadata of an exported file.

    Args:
        model: Name of the network, as in `egeunet models`.
        dataset: Dataset it was trained on.
        size: Height and width of its input.
        threshold: Probability from which a pixel is foreground.
        classes: Name of the class, or K names with the background first.
        quality: Estimator of the Dice score of a mask, if the file has one.
        protocol: How the dataset was split; empty if unknown.
        data_licence: Terms of the dataset, which bind the weights; empty if unknown.
        scores: Scores of the selected epoch by name (`val_dice`, …), 0…1 except for the loss.
        scores_on: Split that they were measured on.
        intended_use: What the weights are for.
    """

    model: str
    dataset: str
    size: tuple[int, int]
    threshold: float
    classes: tuple[str, ...]
    quality: DiceEstimator | None = None
    protocol: str = ""
    data_licence: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    scores_on: str = ""
    intended_use: str = ""


def weights_name(path: Path) -> str:
    """Return the name of a file of weights: its stem, or the run folder of a `model.onnx`."""
    return path.absolute().parent.name if path.stem == "model" else path.stem


def parse_metadata(entries: Mapping[str, str], name: str) -> Metadata:
    """Parse the metadata that `egeunet export` writes into a file.

    Args:
        entries: Its key-value pairs.
        name: Name of the file in errors.

    Raises:
        EgeunetError: An entry is missing or invalid.
    """
    texts = ("protocol", "data_licence", "scores_on", "intended_use")
    try:
        height, width = (int(side) for side in entries["input_size"].split(","))
        names = json.loads(entries["classes"])
        scores = dict(json.loads(entries.get("scores", "{}"))).items()
        metadata = Metadata(
            model=entries["model"],
            dataset=entries["dataset"],
            size=(height, width),
            threshold=float(entries["threshold"]),
            classes=tuple(names) if isinstance(names, list) else (),
            quality=DiceEstimator.from_json(entries["quality"]) if "quality" in entries else None,
            scores={key: float(value) for key, value in scores},
            **{key: entries.get(key, "") for key in texts},
        )
        preprocessing = entries["preprocessing"]
        count = int(entries["num_classes"])
    except KeyError as error:
        raise EgeunetError(
            f"{name} does not say its {error.args[0]} in its metadata: "
            "expected a file that `egeunet export` wrote."
        ) from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise EgeunetError(_INVALID.format(name)) from error
    if (
        not 1 <= min(metadata.size) <= max(metadata.size) <= _MAX_SIDE
        or not 0 < metadata.threshold < 1
        or not 1 <= count <= 255
        or len(metadata.classes) != count
        or not all(isinstance(one, str) for one in metadata.classes)
    ):
        raise EgeunetError(_INVALID.format(name))
    if preprocessing != preprocess.NAME:
        raise EgeunetError(
            f"{name} uses the preprocessing {preprocessing!r}, but this version only knows "
            f"{preprocess.NAME!r}: use the version of egeunet that exported it."
        )
    return metadata
