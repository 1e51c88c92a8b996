"""What is evaluated, and on which images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from egeunet.data.datasets import Dataset, Sample, open_data
from egeunet.data.splits import PROTOCOLS as SPLIT_PROTOCOLS
from egeunet.data.splits import Protocol, shipped_list, split_dataset
from egeunet.errors import EgeunetError, UsageError
from egeunet.evaluation.predictors import Predictor, onnx_predictor, torch_predictor
from egeunet.files import sha256_file
from egeunet.inference.segmenter import Segmenter
from egeunet.inference.weights import find_weights, run_folder
from egeunet.training.checkpoints import WEIGHTS
from egeunet.training.distributed import find_device
from egeunet.training.provenance import SELECTED, TRAINED, Seen, seen_in, seen_of
from egeunet.training.run import Run, load_run, open_split, read_environment, selected_on

PROTOCOLS = (*SPLIT_PROTOCOLS, "external")
PARTS = ("train", "val", "test")
PLACES: Any = {"out": True, "data": {"root"}, "distill": {"teacher"}, "start": {"run"}}
"""Settings that name folders of one machine: they decide nothing, and rows go without."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        predict: Its network.
        size: Height and width of its input.
        num_classes: As `egeunet.evaluation.evaluator.evaluate_arrays` takes it.
        row: What a row of results says of it.
        dataset: What it was trained on.
        seen: The photos that it was trained or selected on, as far as is known.
        protocol: How the dataset was split.
        run: The run folder it is from, if it is.
        segmenter: The ONNX file it is, if it is.
    """

    predict: Predictor
    size: tuple[int, int]
    num_classes: int
    row: dict[str, object]
    dataset: str
    seen: Seen
    protocol: str
    run: Run | None = None
    segmenter: Segmenter | None = None


def open_subject(weights: str | Path, last: bool, tta: bool, device: str) -> Subject:
    """Open what `egeunet.evaluate` is given; the arguments are its own.

    Raises:
        UsageError: If the words do not fit together.
        EgeunetError: If there are no such weights, or they are damaged.
    """
    if folder := run_folder(weights):
        if tta:
            raise UsageError("Mirror images (tta) take an ONNX file: name that of the run.")
        device = find_device(device)
        run = load_run(folder, last=last)
        recipe = run.recipe
        row = {
            "system": recipe.system,
            "recipe_hash": recipe.hash(),
            "recipe": recipe.model_dump(mode="json", exclude=PLACES),
            "seed": recipe.seed,
            "epochs": recipe.trainer.epochs,
            "epoch": run.epoch,
            "train_seconds": run.seconds,
            "trained_on": run.dataset,
            "trained_with": read_environment(folder),
            "weights_sha256": _sha256(run) if last else sha256_file(folder / WEIGHTS),
            "selected_on": selected_on(recipe.data.protocol),
        }
        predict = torch_predictor(run.model, device)
        return Subject(
            predict,
            recipe.data.shape,
            recipe.data.num_classes,
            row,
            run.dataset,
            run.seen,
            recipe.data.protocol,
            run=run,
        )
    if last:
        raise UsageError("The last epoch takes a run folder: an ONNX file has one set of weights.")
    if device not in ("auto", "cpu"):
        raise UsageError(f"The device {device} takes a run folder: an ONNX file is run on the CPU.")
    path = find_weights(weights)
    segmenter = Segmenter(path, tta=tta)
    metadata = segmenter.metadata
    row = {"system": metadata.system, "weights_sha256": sha256_file(path), "tta": tta}
    return Subject(
        onnx_predictor(segmenter),
        metadata.size,
        len(metadata.classes),
        dict(row),
        metadata.dataset,
        seen_of(metadata.dataset, shipped_list(metadata.dataset, metadata.protocol)),
        metadata.protocol or "holdout",
        segmenter=segmenter,
    )


def _sha256(run: Run) -> str:
    """Of weights that no file holds alone: a checkpoint has the clock in it, too."""
    return hashlib.sha256(save(run.model.state_dict())).hexdigest()


def choose_samples(
    subject: Subject, data: str | Path | None, protocol: str | None, part: str
) -> tuple[str, Dataset, tuple[Sample, ...]]:
    """Return the protocol, the dataset and the samples to score, none of which were trained on.

    The arguments are those of `egeunet.evaluate`.

    Raises:
        UsageError: If the words do not fit together, or images to be scored were trained on.
        EgeunetError: If the data are unusable, or nothing is left.
    """
    run = subject.run
    if run is None and data is None:
        raise UsageError("An ONNX file has no data with it: give a dataset or a folder as data.")
    if data is None and protocol == "external":
        raise UsageError("The protocol external takes other data than the run's: name them.")
    dataset = None if data is None else open_data(data)
    if protocol is None:
        at_home = run is not None or dataset is None or dataset.name == subject.dataset
        protocol = subject.protocol if at_home else "external"
    if dataset is not None and protocol == "external":
        known = seen_in(subject.seen, dataset.name)
        samples = tuple(sample for sample in dataset.samples if sample.id not in known)
        if not samples:
            raise EgeunetError(f"Every image of {dataset.name} was trained or selected on.")
        return protocol, dataset, samples
    kept: Protocol = "paper" if protocol == "paper" else "holdout"
    if dataset is None:
        assert run is not None
        dataset, split = open_split(run.recipe.data.model_copy(update={"protocol": kept}))
    else:
        split = split_dataset(dataset, kept)
    samples = {"train": split.train, "val": split.val, "test": split.test}[part]
    # Its own photos by ids alone, whatever the folder is called: a copy under another name is no
    # other dataset. Under its own protocol a run is scored on what it was selected on, and says so.
    known = seen_in(subject.seen, dataset.name, subject.dataset)
    refused = {TRAINED} if protocol == subject.protocol else {TRAINED, SELECTED}
    seen = [sample.id for sample in samples if known.get(sample.id) in refused]
    if part != "train" and seen:
        raise UsageError(
            f"{len(seen)} of these {len(samples)} images, such as {seen[0]}, were trained or "
            "selected on: evaluate under the protocol of the training, or with the protocol "
            "external."
        )
    return protocol, dataset, samples
