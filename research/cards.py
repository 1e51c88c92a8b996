"""Shipped weights of a run: ONNX, safetensors, card and checksums.

    python -m research card runs/isic2018-weights isic2018

The exported file itself is scored on the test split of the run, and the row is appended to
research/results/weights.jsonl. A card says nothing that is not in rows of results. Only runs under
the protocol holdout are shipped: their checkpoint was not selected on the test split.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from egeunet.data.cache import load_arrays
from egeunet.data.registry import REGISTRY
from egeunet.environment import environment
from egeunet.errors import EgeunetError, UsageError
from egeunet.evaluation.evaluator import COLUMNS, score_table
from egeunet.evaluation.results_store import append_result, read_results
from egeunet.evaluation.target import PLACES, evaluate_target, segmenter_target
from egeunet.exporting.engine import has_engine
from egeunet.exporting.formats import export_run
from egeunet.files import atomic_write, sha256_file
from egeunet.inference.segmenter import Segmenter
from egeunet.models import count_cost
from egeunet.training.checkpoints import WEIGHTS, load_weights, save_weights
from egeunet.training.history import HISTORY
from egeunet.training.run import Run, load_run, open_split, read_parts
from research.paper import DATASETS
from research.release_report import split_scores
from research.run_groups import changes_of, label_of, recipe_of
from research.split_reads import count_reads
from research.table import markdown

RESULTS = Path(__file__).parent / "results"
LARGEST = 300_000  # bytes

SKIN = {
    "images": "dermoscopy images of skin lesions",
    "limits": "Images taken without a dermatoscope; body sites and cameras that the ISIC archive\n"
    "  lacks: none of these were tested.\n"
    "- Darker skin, unless a person checks each mask: these fail several times as often; see\n"
    "  docs/robustness.md.",
    "known": "All images are a 256×192 JPEG copy of the originals. Experts' outlines differ too:\n"
    "do not read meaning into differences smaller than the intervals.",
}
GUT = {
    "images": "colonoscopy images of polyps",
    "limits": "Images without a polyp; other endoscopes and hospitals; video: none of these were\n"
    "  tested.",
    "known": "This test split is easy: validation and training images score lower. The dataset\n"
    "does not name patients or videos, so images of one may be in several splits. Do not read\n"
    "meaning into differences smaller than the intervals.",
}
SUBJECTS = {"isic2017": SKIN, "isic2018": SKIN, "ph2": SKIN, "ham10000": SKIN}
SUBJECTS |= {"kvasir_seg": GUT, "cvc_clinicdb": GUT}
OTHER = {
    "images": "images like those of its dataset",
    "limits": "Images of any other kind.",
    "known": "Do not read meaning into differences smaller than the intervals.",
}

CARD = """\
# {name}

{model} ({params:,} parameters) for {subject}: `egeunet.Segmenter("{name}")`.

| | |
| --- | --- |
| file | `{file}`, {kilobytes} KB, float32, ONNX |
| for the engine | `{name}.egeu`, the same weights |
| in torch | `egeunet.create_model("egeunet", weights="{name}")`, from `{name}.safetensors` |
| SHA-256 | `{sha256}` |
| data | {data} |
| terms of the data | {licence}, and those of start and teacher; the code: Apache-2.0 |
| split | protocol holdout: {train} training, {val} validation and {test} test images |
| start | {start} |
| teacher | {teacher} |
| training | {trained} epochs of {planned}, batch {batch}, seed {seed}, recipe {recipe_hash} |
| selected | epoch {epoch}, on the validation split |
| trained with | `{training_command}` |
| made with | `{command}`, commit {git_commit} |
| against torch | largest difference of logits {difference:.1e} of the largest, mask IoU {iou:.5f} |

## Scores

This file on the {n} images of the test split. Pooled scores are the paper's: one confusion matrix
over all pixels. Intervals are bootstrapped over images. Quality is the estimated Dice score of a
mask, fitted on the validation split.

{scores}
The checkpoint was selected on the validation split. The test split of this dataset was read {reads}
times with weights of {trainings} trainings{chosen}.

On every split, with 95 % intervals:

{splits}
{copies}

{known}

## Intended use

Research and teaching with {subject}: as a first proposal of an outline that a person checks, as a
baseline, as a start of other trainings.

## What it must not be used for

- Any decision about a patient. It is not a medical device and was validated on no patient. A mask
  is not a diagnosis, and an empty mask does not mean that there is nothing.
- {limits}
- Uses that the terms of the data do not allow.
"""
CHOSEN = {
    "isic2018": ", and the augmentations for illumination, blur,\nnoise and compression were added "
    "because earlier weights had failed on corrupted test images:\nthese are not free of choice"
}


def make_weights(run_folder: Path, name: str, folder: Path, record: Path) -> dict[str, Any]:
    """Export a run, score the file, and write it with its card and the checksums into a folder.

    Raises:
        UsageError: If the run was not trained under the protocol holdout.
        EgeunetError: If the file is too large, or a test image was trained or selected on.
    """
    run = load_run(run_folder)
    recipe = run.recipe
    if recipe.data.protocol != "holdout":
        raise UsageError(
            f"{run_folder} was selected on its test split (protocol {recipe.data.protocol}): ship "
            "a run under the protocol holdout."
        )
    dataset, split = open_split(recipe.data)
    parts = read_parts(run_folder)
    wrong = [sample.id for sample in split.test if parts.get(sample.id) != "test"]
    if wrong:
        raise EgeunetError(
            f"{len(wrong)} test images, such as {wrong[0]}, were no test images of {run_folder}."
        )
    with TemporaryDirectory() as temporary:
        exported, _ = export_run(run, Path(temporary), ["onnx"])
        data = exported.path.read_bytes()
        blob = None
        if has_engine(run):
            (engine,) = export_run(run, Path(temporary), ["engine"])
            blob = engine.path.read_bytes()
        target = segmenter_target(Segmenter(exported.path), exported.path)
        arrays = load_arrays(split.test, recipe.data.shape, recipe.data.num_classes)
        evaluation = evaluate_target(target, arrays)
        digest = sha256_file(exported.path)
    if len(data) > LARGEST:
        raise EgeunetError(f"The file has {len(data)} bytes: {LARGEST} at most are shipped.")
    with (run_folder / HISTORY).open(newline="", encoding="utf-8") as file:
        trained = sum(1 for _ in csv.DictReader(file))
    command = json.loads((run_folder / "environment.json").read_bytes())["command"]
    places = r"\b(data\.root|distill\.teacher|start\.run|out)=(\[[^]]*\]|\S+)"
    trained_with = re.sub(places, r"\1=FOLDER", command)
    row = {
        "weights": name,
        "weights_sha256": digest,
        "bytes": len(data),
        "model": recipe.model,
        "params": count_cost(run.model, size=recipe.data.shape).params,
        "recipe_hash": recipe.hash(),
        "recipe": recipe.model_dump(mode="json", exclude=PLACES),
        "seed": recipe.seed,
        "epochs": trained,
        "epoch": run.epoch,
        "train_seconds": run.seconds,
        "training_command": trained_with,
        "dataset": dataset.name,
        "protocol": recipe.data.protocol,
        "images": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        "split": "test",
        "selected_on": "validation",
        "parity": exported.parity.to_dict(),
        **evaluation.to_dict(),
        **environment(),
    }
    append_result(record, row)
    with atomic_write(folder / f"{name}.onnx") as path:
        path.write_bytes(data)
    with atomic_write(folder / f"{name}.md") as path:
        rows = [*read_results(record.parent)]
        path.write_text(card(row, rows, record.parent), encoding="utf-8")
    if blob:
        with atomic_write(folder / f"{name}.egeu") as path:
            path.write_bytes(blob)
    write_torch_weights(run, folder / f"{name}.safetensors")
    write_sums(folder)
    return row


def write_torch_weights(run: Run, file: Path) -> None:
    """Write the selected weights for torch, with all that `load_run` has to know of the run."""
    state, metadata = load_weights(run.folder / WEIGHTS)
    recipe = run.recipe.model_dump(mode="json", exclude=PLACES)
    save_weights(file, state, {**metadata, "recipe": json.dumps(recipe)})


def rewrite_cards(folder: Path, results: Path = RESULTS) -> list[Path]:
    """Write the card of each shipped file again, from rows of results."""
    rows = read_results(results)
    last = {row["weights"]: row for row in rows if "weights" in row and "recipe" in row}
    written = []
    for name, row in last.items():
        with atomic_write(folder / f"{name}.md") as path:
            path.write_text(card(row, rows, results), encoding="utf-8")
        written.append(folder / f"{name}.md")
    return written


def card(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], results: Path) -> str:
    """Return the card of weights from their row of results.

    Args:
        row: Their row.
        rows: All rows, that one included.
        results: The folder of results.
    """
    dataset = row["dataset"]
    info = REGISTRY.get(dataset)
    start, teachers = (row["recipe"][key]["sha256"] for key in ("start", "distill"))
    teachers = [teachers] if isinstance(teachers, str) else teachers or ()
    splits = split_scores(rows, dataset, results)
    reads = {cells[:2]: cells for cells in count_reads(rows).rows}
    subject = SUBJECTS.get(dataset, OTHER)
    title = DATASETS.get(dataset, dataset)
    _, _, number, _, trainings = reads[title, row["protocol"]]
    return CARD.format(
        start=name_weights(start, rows) if start else "random weights",
        teacher="; ".join(name_weights(one, rows) for one in teachers) or "none",
        subject=subject["images"],
        limits=subject["limits"],
        known=subject["known"],
        **row["images"],
        name=row["weights"],
        file=f"{row['weights']}.onnx",
        kilobytes=round(row["bytes"] / 1000),
        sha256=row["weights_sha256"],
        data=f"[{info.title}]({info.homepage})" if info else dataset,
        licence=info.license if info else "unknown",
        trained=row["epochs"],
        planned=row["recipe"]["trainer"]["epochs"],
        batch=row["recipe"]["trainer"]["batch_size"],
        difference=row["parity"]["difference"],
        iou=row["parity"]["iou"],
        scores=markdown(COLUMNS, score_table(row)),
        reads=number,
        trainings=trainings,
        chosen=CHOSEN.get(dataset, ""),
        splits=splits.markdown(),
        copies=splits.note,
        **{key: row[key] for key in ("model", "params", "seed", "recipe_hash", "epoch", "n")},
        **{key: row[key] for key in ("training_command", "command", "git_commit")},
    )


def name_weights(sha256: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Describe weights that a run learned from, by the row of results that has them."""
    found = [row for row in rows if row.get("weights_sha256") == sha256]
    recipe = recipe_of(found[-1]) if found else None
    if recipe is None:
        return f"weights {sha256[:12]}"
    info = REGISTRY.get(found[-1]["dataset"])
    data = f"{info.title} ({info.license})" if info else found[-1]["dataset"]
    pretrained = ", from ImageNet weights" if recipe.options.get("pretrained") else ""
    label = label_of(recipe.model, changes_of(recipe))
    return f"{label}: {recipe.trainer.epochs} epochs on {data}{pretrained}; weights {sha256[:12]}"


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of all weights in a folder, as `sha256sum` does."""
    kinds = ("*.egeu", "*.onnx", "*.safetensors")
    files = sorted(path for kind in kinds for path in folder.glob(kind))
    lines = [f"{sha256_file(path)}  {path.name}\n" for path in files]
    with atomic_write(folder / "SHA256SUMS") as path:
        path.write_text("".join(lines), encoding="utf-8")
