"""Resolve what is evaluated (a run or an exported model) and on which images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save

from egeunet.data.cache import Arrays
from egeunet.data.datasets import Dataset, Sample, open_data
from egeunet.data.splits import PROTOCOLS as SPLIT_PROTOCOLS
from egeunet.data.splits import Protocol, shipped_list, split_dataset
from egeunet.errors import EgeunetError, UsageError
from egeunet.evaluation.evaluator import Evaluation, evaluate_arrays
from egeunet.evaluation.predictors import Predictor, onnx_predictor, torch_predictor
from egeunet.files import sha256_file
from egeunet.inference.segmenter import Segmenter
from egeunet.inference.weights import find_weights, run_folder
from egeunet.training.checkpoints import WEIGHTS
from egeunet.training.distributed import find_device
from egeunet.training.history import selected_on
from egeunet.training.provenance import SELECTED, TRAINED, Seen, seen_in, seen_of
from egeunet.training.run import Run, load_run, open_split, read_environment

PROTOCOLS = (*SPLIT_PROTOCOLS, "external")
SPLITS = ("train", "val", "test")
PLACES: Any = {"out": True, "data": {"root"}, "distill": {"teacher"}, "start": {"run"}}
"""Settings that name folders of one machine; rows of results leave them out."""


@dataclass(frozen=True)
class EvaluationTarget:
    """A model to evaluate.

    Attributes:
        predict: Returns its logits.
        size: Height and width of its input.
        num_classes: As `egeunet.evaluation.evaluator.evaluate_arrays` takes it.
        row: What a row of results says about it.
        dataset: The dataset it was trained on.
        seen: The images it was trained or selected on, as far as is known.
        protocol: How the dataset was split.
        run: Its run, if it is a run folder.
        segmenter: Its segmenter, if it is an exported file.
    """

    predict: Predictor
    size: tuple[int, int]
    num_classes: int
    row: dict[str, Any]
    dataset: str
    seen: Seen
    protocol: str
    run: Run | None = None
    segmenter: Segmenter | None = None


def evaluate_target(
    target: EvaluationTarget, arrays: Arrays, corruptions: bool = False
) -> Evaluation:
    """Score a model on samples: an exported one at its own threshold, with its Dice estimates.

    Args:
        target: The model.
        arrays: The samples at its input size.
        corruptions: As for `evaluate_arrays`.

    Raises:
        EgeunetError: As `evaluate_arrays`.
    """
    settings: Any = {"num_classes": target.num_classes, "corruptions": corruptions}
    if segmenter := target.segmenter:
        names = segmenter.metadata.classes
        settings["class_names"] = names[-max(1, target.num_classes - 1) :]  # without the background
        settings["threshold"] = segmenter.threshold
        if estimator := segmenter.metadata.quality:
            settings["expect_dice"] = partial(estimator.estimate, tta=segmenter.tta)
    return evaluate_arrays(target.predict, arrays, **settings)


def segmenter_target(segmenter: Segmenter, path: Path) -> EvaluationTarget:
    """Return the target of an exported model."""
    metadata = segmenter.metadata
    return EvaluationTarget(
        onnx_predictor(segmenter),
        metadata.size,
        len(metadata.classes),
        {"model": metadata.model, "weights_sha256": sha256_file(path), "tta": segmenter.tta},
        metadata.dataset,
        seen_of(metadata.dataset, shipped_list(metadata.dataset, metadata.protocol)),
        metadata.protocol or "holdout",
        segmenter=segmenter,
    )


def open_target(weights: str | Path, last: bool, tta: bool, device: str) -> EvaluationTarget:
    """Open the weights given to `egeunet.evaluate`; the arguments are its own.

    Raises:
        UsageError: If the arguments do not fit together.
        EgeunetError: If the weights are missing or damaged.
    """
    if folder := run_folder(weights):
        if tta:
            raise UsageError("tta needs an exported file: name the one in the run folder.")
        return _open_run(folder, last, find_device(device))
    if last:
        raise UsageError("last needs a run folder: an exported file has one set of weights.")
    if device not in ("auto", "cpu"):
        raise UsageError(f"The device {device} needs a run folder: exported files run on the CPU.")
    path = find_weights(weights)
    return segmenter_target(Segmenter(path, tta=tta), path)


def _open_run(folder: Path, last: bool, device: str) -> EvaluationTarget:
    run = load_run(folder, last=last)
    recipe = run.recipe
    if last:  # no file holds these weights alone, and a checkpoint also holds the time
        digest = hashlib.sha256(save(run.model.state_dict())).hexdigest()
    else:
        digest = sha256_file(folder / WEIGHTS)
    row = {
        "model": recipe.model,
        "recipe_hash": recipe.hash(),
        "recipe": recipe.model_dump(mode="json", exclude=PLACES),
        "seed": recipe.seed,
        "epochs": recipe.trainer.epochs,
        "epoch": run.epoch,
        "train_seconds": run.seconds,
        "trained_on": run.dataset,
        "trained_with": read_environment(folder),
        "weights_sha256": digest,
        "selected_on": selected_on(recipe.data.protocol),
    }
    predict = torch_predictor(run.model, device)
    data = recipe.data
    return EvaluationTarget(
        predict, data.shape, data.num_classes, row, run.dataset, run.seen, data.protocol, run=run
    )


def choose_samples(
    target: EvaluationTarget, data: str | Path | None, protocol: str | None, split: str
) -> tuple[str, Dataset, tuple[Sample, ...]]:
    """Return the protocol, the dataset and the samples to score, none of which were trained on.

    The arguments are those of `egeunet.evaluate`.

    Raises:
        UsageError: If the arguments do not fit together, or samples were trained on.
        EgeunetError: If the data are unusable, or nothing is left.
    """
    run = target.run
    if run is None and data is None:
        raise UsageError(
            "An exported file does not name its data: pass a dataset or folder as data."
        )
    if data is None and protocol == "external":
        raise UsageError("The protocol external needs other data than the run's: pass data.")
    dataset = None if data is None else open_data(data)
    if protocol is None:
        at_home = run is not None or dataset is None or dataset.name == target.dataset
        protocol = target.protocol if at_home else "external"
    if dataset is not None and protocol == "external":
        known = seen_in(target.seen, dataset.name)
        samples = tuple(sample for sample in dataset.samples if sample.id not in known)
        if not samples:
            raise EgeunetError(f"Every image of {dataset.name} was trained or selected on.")
        return protocol, dataset, samples
    kept: Protocol = "paper" if protocol == "paper" else "holdout"
    if dataset is None:
        assert run is not None
        dataset, found = open_split(run.recipe.data.model_copy(update={"protocol": kept}))
    else:
        found = split_dataset(dataset, kept)
    samples = {"train": found.train, "val": found.val, "test": found.test}[split]
    # Ids of the own dataset count whatever the folder is called: a copy is no other dataset. Under
    # its own protocol a run may be scored on what it was selected on; the row says so.
    known = seen_in(target.seen, dataset.name, target.dataset)
    refused = {TRAINED} if protocol == target.protocol else {TRAINED, SELECTED}
    seen = [sample.id for sample in samples if known.get(sample.id) in refused]
    if split != "train" and seen:
        raise UsageError(
            f"{len(seen)} of these {len(samples)} images, such as {seen[0]}, were trained or "
            "selected on: evaluate under the protocol of the training, or with the protocol "
            "external."
        )
    return protocol, dataset, samples
