"""What the commands do, as functions: the same words in Python and at the command line."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from egeunet.data.cache import load_arrays
from egeunet.data.datasets import Dataset, Sample, open_data
from egeunet.data.splits import PROTOCOLS as SPLIT_PROTOCOLS
from egeunet.data.splits import Protocol, split_dataset
from egeunet.environment import environment
from egeunet.errors import EgeunetError, UsageError
from egeunet.evaluation.counts_file import write_counts
from egeunet.evaluation.evaluator import Evaluation, evaluate_arrays, evaluate_segmenter
from egeunet.evaluation.figures import save_figure, training_curves
from egeunet.evaluation.predictors import Predictor, onnx_predictor, torch_predictor
from egeunet.evaluation.report import append_result
from egeunet.evaluation.robustness import assess
from egeunet.export.formats import export, export_run
from egeunet.files import atomic_write, sha256_file
from egeunet.inference.segmenter import Segmenter
from egeunet.inference.weights import find_weights
from egeunet.reporting import Reporter
from egeunet.training.checkpoint import LAST, WEIGHTS
from egeunet.training.ranks import find_device, is_first, world_size
from egeunet.training.recipe import load_recipe
from egeunet.training.run import (
    HISTORY,
    Run,
    load_run,
    open_split,
    read_parts,
    selected_on,
    shared_parts,
)
from egeunet.training.seeds import describe_seeds, split_seeds, summarise_seeds
from egeunet.training.settings import Recipe
from egeunet.training.side_by_side import train_side_by_side
from egeunet.training.trainer import train as train_recipe

__all__ = ["evaluate", "export", "train"]

PROTOCOLS = (*SPLIT_PROTOCOLS, "external")
PARTS = ("train", "val", "test")
PLACES: Any = {"out": True, "data": {"root"}, "distill": {"teacher"}, "start": {"run"}}
"""Settings that name folders of one machine: they decide nothing, and rows go without."""


def train(
    recipe: str | Path | Recipe,
    *settings: str,
    resume: bool = False,
    at_once: int | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Train a system, and write its ONNX file beside the weights.

    Args:
        recipe: A recipe, its YAML file, or the name of one that is shipped.
        *settings: `key=value` that replace those of a file, such as `trainer.epochs=4`; and
            `seeds=0-4` or `seeds=1,3` trains several side by side. With `devices=2` a training
            has a process per device; started by torchrun, it is one of them.
        resume: Go on from the checkpoint in the run folder.
        at_once: Of several seeds, how many at a time; see
            `egeunet.training.side_by_side.train_side_by_side`.
        reporter: Hears of the progress.

    Returns:
        The run folder; see `egeunet.training.trainer.train` for its files and the errors. Of
        several seeds the folder that holds theirs, `seed-0` and so on, and `seeds.json` with mean
        and standard deviation.
    """
    if isinstance(recipe, Recipe):
        if settings:
            raise UsageError("Settings go with the name of a recipe, not with a Recipe object.")
        return _train_one(recipe, resume, reporter)
    seeds, others = split_seeds(settings)
    if not seeds:
        return _train_one(load_recipe(recipe, others), resume, reporter)
    folder = load_recipe(recipe, others).out
    runs = train_side_by_side(
        [
            load_recipe(recipe, [*others, f"seed={seed}"]).model_copy(
                update={"out": folder / f"seed-{seed}"}
            )
            for seed in seeds
        ],
        resume=resume,
        at_once=at_once,
        reporter=reporter,
    )
    summary = summarise_seeds(folder, runs)
    (reporter or Reporter()).info(describe_seeds(summary))
    return folder


def _train_one(recipe: Recipe, resume: bool, reporter: Reporter | None) -> Path:
    if recipe.devices > 1 and world_size() == 1:
        return train_side_by_side([recipe], resume=resume, reporter=reporter)[0]
    folder = train_recipe(recipe, resume=resume, reporter=reporter)
    if is_first():
        save_figure(training_curves(folder / HISTORY), folder / "curves.png")
        export_run(load_run(folder))
    return folder


def evaluate(
    weights: str | Path,
    *,
    data: str | Path | None = None,
    protocol: str | None = None,
    part: str = "test",
    last: bool = False,
    tta: bool = False,
    corruptions: bool = False,
    device: str = "auto",
    out: str | Path | None = None,
    record: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Score trained weights on the part of a dataset that a protocol names.

    Args:
        weights: A run folder, or an ONNX file, its name or its URL as `Segmenter` takes them; the
            latter also have the quality scored that they give each mask.
        data: A dataset's name or folder; the run's own by default.
        protocol: "paper", "holdout", or "external": all of `data` that the run has not seen in
            training or selection. The run's own by default.
        part: "train", "val" or "test"; with "external" there are no parts.
        last: Take the last epoch of a run instead of the selected one.
        tta: Average over four mirror images; takes an ONNX file.
        corruptions: Also score eight corruptions at five strengths each, and groups by the size of
            the lesion and the tone of the photo: 41 times the work.
        device: "auto", "cpu" or "cuda"; an ONNX file is run on the CPU.
        out: Where `metrics.json`, `per_image.csv` and `worst_cases.png` go; the folder
            `evaluation` of a run by default, nowhere for an ONNX file.
        record: A file of results (JSON lines) to which a row is added. In its folder, too, the
            counted pixels of each image go to `per_image/` and a run's epochs to `history/`, so
            that runs can be compared without their folders; the row names both files.
        reporter: Hears of the progress.

    Raises:
        UsageError: If the words do not fit together, or images to be scored were trained on.
    """
    if part not in PARTS:
        raise UsageError(f"There is no part {part!r}: expected one of {', '.join(PARTS)}.")
    subject = _open_subject(weights, last, tta, device)
    protocol = protocol or (subject.run.recipe.data.protocol if subject.run else "holdout")
    if protocol not in PROTOCOLS:
        raise UsageError(f"There is no protocol {protocol!r}: expected {', '.join(PROTOCOLS)}.")
    dataset, samples = _choose(subject.run, data, protocol, part)
    arrays = load_arrays(samples, subject.size, subject.num_classes, reporter=reporter)
    segmenter, num_classes = subject.segmenter, subject.num_classes
    if segmenter:
        result = evaluate_segmenter(segmenter, arrays, reporter)
    else:
        result = evaluate_arrays(
            subject.predict, arrays, num_classes=num_classes, reporter=reporter
        )
    if corruptions:
        model = segmenter.metadata.quality if segmenter else None
        quality = partial(model.expect_dice, tta=tta) if model else None
        found = assess(
            subject.predict, arrays, num_classes=num_classes, quality=quality, reporter=reporter
        )
        result = replace(result, robustness=found)
    out = out or (subject.run.folder / "evaluation" if subject.run else None)
    if out:
        result.write(Path(out), arrays)
    if record:
        row = {
            **subject.row,
            "dataset": dataset.name,
            "protocol": protocol,
            "part": "all" if protocol == "external" else part,
            "weights_epoch": "last" if last else "selected",
            **_keep_beside(Path(record).parent, subject, dataset.name, protocol, part, result),
            **result.to_dict(),
            **({"quality_photos": result.quality.to_list()} if result.quality else {}),
            **environment(),
        }
        append_result(Path(record), row)
    return result


def _keep_beside(
    folder: Path, subject: _Subject, dataset: str, protocol: str, part: str, result: Evaluation
) -> dict[str, str]:
    """Write what does not fit into a row of results; return the files, relative to `folder`."""
    weights = str(subject.row["weights_sha256"])[:16]
    views = "-tta" if subject.row.get("tta") else ""
    files = {"per_image": f"per_image/{weights}-{dataset}-{protocol}-{part}{views}.csv"}
    write_counts(folder / files["per_image"], result.ids, result.counts)
    if subject.run:
        files["history"] = f"history/{subject.row['recipe_hash']}-{dataset}.csv"
        with atomic_write(folder / files["history"]) as path:
            shutil.copyfile(subject.run.folder / HISTORY, path)
    return files


@dataclass(frozen=True)
class _Subject:
    """What is evaluated."""

    predict: Predictor
    size: tuple[int, int]
    num_classes: int
    row: dict[str, object]
    run: Run | None = None
    segmenter: Segmenter | None = None


def _open_subject(weights: str | Path, last: bool, tta: bool, device: str) -> _Subject:
    if (folder := Path(weights)).is_dir():
        if tta:
            raise UsageError("tta=True takes an ONNX file: name the model.onnx of the run.")
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
            "weights_sha256": sha256_file(folder / (LAST if last else WEIGHTS)),
            "selected_on": selected_on(recipe.data.protocol),
        }
        predict = torch_predictor(run.model, device)
        return _Subject(predict, recipe.data.shape, recipe.data.num_classes, row, run=run)
    if last:
        raise UsageError("last=True takes a run folder: an ONNX file has one set of weights.")
    if device not in ("auto", "cpu"):
        raise UsageError(f"device={device} takes a run folder: an ONNX file is run on the CPU.")
    path = find_weights(weights)
    segmenter = Segmenter(path, tta=tta)
    metadata = segmenter.metadata
    row = {"system": metadata.system, "weights_sha256": sha256_file(path), "tta": tta}
    return _Subject(
        onnx_predictor(segmenter),
        metadata.size,
        len(metadata.classes),
        dict(row),
        segmenter=segmenter,
    )


def _choose(
    run: Run | None, data: str | Path | None, protocol: str, part: str
) -> tuple[Dataset, tuple[Sample, ...]]:
    """The samples to score, none of which the run was trained on."""
    if run is None and data is None:
        raise UsageError("An ONNX file says nothing of data: give data=, a dataset or a folder.")
    if protocol == "external":
        if data is None:
            raise UsageError("The protocol external takes data=: another dataset than the run's.")
        dataset = open_data(data)
        shared = shared_parts(run, dataset.name) if run else {}
        samples = tuple(s for s in dataset.samples if s.id not in shared)
        if not samples:
            raise EgeunetError(f"Every image of {dataset.name} was used by the run already.")
        return dataset, samples
    known: Protocol = "paper" if protocol == "paper" else "holdout"
    if data is None and run is not None:
        settings = run.recipe.data.model_copy(update={"protocol": known})
        dataset, split = open_split(settings)
    else:
        dataset = open_data(data or "")
        split = split_dataset(dataset, known)
    samples = {"train": split.train, "val": split.val, "test": split.test}[part]
    # By ids alone, whatever the folder is called: a copy under another name is no other dataset.
    seen = read_parts(run.folder) if run else {}
    trained = [s.id for s in samples if seen.get(s.id) == "train"]
    if part != "train" and trained:
        raise UsageError(
            f"The run was trained on {len(trained)} of these {len(samples)} images, such as "
            f"{trained[0]}: evaluate under its own protocol, or with protocol external."
        )
    return dataset, samples
