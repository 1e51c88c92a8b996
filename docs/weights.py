"""Make shipped weights of a run: for ONNX Runtime and torch, the card, and the checksums.

    make weights RUN=runs/isic2018-weights NAME=isic2018

The exported file itself is scored on the test part of the run's own split, and the row is added to
results/weights.jsonl; the card says nothing that is not in this row. Only runs under the protocol
holdout are shipped: their checkpoint was not selected on what they are scored on.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from egeunet.data.cache import load_arrays
from egeunet.data.registry import REGISTRY
from egeunet.environment import environment
from egeunet.errors import EgeunetError, UsageError
from egeunet.evaluation.evaluator import Evaluation, evaluate_segmenter
from egeunet.evaluation.report import COLUMNS, append_result, read_results, table_rows
from egeunet.evaluation.series import changes_of, label_of, recipe_of
from egeunet.evaluation.target import PLACES
from egeunet.export.formats import export_run
from egeunet.files import atomic_write, sha256_file
from egeunet.inference.segmenter import Segmenter
from egeunet.models import count_cost
from egeunet.training.checkpoints import WEIGHTS, load_weights, save_weights
from egeunet.training.run import HISTORY, Run, load_run, open_split, read_parts

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 300_000  # bytes

SKIN = {
    "photos": "dermoscopy photos of skin lesions",
    "limits": "Photos without a dermatoscope; body sites and cameras that the ISIC archive\n"
    "  lacks: it was not tested on any of them.\n"
    "- Photos of darker skin, unless a person looks at each mask: these fail several times\n"
    "  as often; docs/robustness.md has the numbers.",
}
GUT = {
    "photos": "photos of polyps from colonoscopies",
    "limits": "Photos without a polyp; other endoscopes and hospitals; video: it was not tested\n"
    "  on any of them.",
}
SUBJECTS = {"isic2017": SKIN, "isic2018": SKIN, "ph2": SKIN, "ham10000": SKIN}
SUBJECTS |= {"kvasir_seg": GUT, "cvc_clinicdb": GUT}
OTHER = {"photos": "photos like those of its data", "limits": "Photos of any other kind."}

CARD = """\
# {name}

{system} ({params:,} parameters) for {photos}: `egeunet.Segmenter("{name}")`.

| | |
| --- | --- |
| file | `{file}`, {kilobytes} KB, float32, ONNX |
| in torch | `egeunet.create_model("egeunet", weights="{name}")`, from `{name}.safetensors` |
| SHA-256 | `{sha256}` |
| data | {data} |
| terms of the data | {licence}, and those that start and teacher name; the code: Apache-2.0 |
| split | protocol holdout: {train} photos to train, {val} to select, {test} to test |
| start | {start} |
| teacher | {teacher} |
| training | {trained} epochs of {planned}, batch {batch}, seed {seed}, recipe {recipe_hash} |
| selected | epoch {epoch}, by the validation part |
| trained with | `{training_command}` |
| made with | `{command}`, commit {git_commit} |
| against torch | largest difference of logits {difference:.1e} of the largest, mask IoU {iou:.5f} |

## Scores

Of this very file on the {n} photos of the test part, which no choice was made by. Pooled scores are
the paper's: one confusion matrix over all pixels. Intervals are bootstrapped over photos. Quality
is the Dice score that is expected of each mask, fitted on the validation part.

{scores}
## Intended use

Research and teaching with {photos}: as a first proposal of an outline that a person looks at, as
a baseline, as the start of other trainings.

## What it must not be used for

- Any decision about a patient. It is no medical device and was validated on no patient; a mask is
  no diagnosis, and an empty mask does not say that there is nothing.
- {limits}
- Uses that the terms of the data do not allow.

Experts' outlines differ too: do not read meaning into differences smaller than the intervals.
"""


def make_weights(run_folder: Path, name: str, folder: Path, record: Path) -> dict[str, Any]:
    """Export a run, score the file, and write it with its card and the checksums into a folder.

    Raises:
        UsageError: The run was not trained under the protocol holdout.
        EgeunetError: The file is too large, or an image of the test part was trained on.
    """
    run = load_run(run_folder)
    recipe = run.recipe
    if recipe.data.protocol != "holdout":
        raise UsageError(
            f"{run_folder} was selected on the photos that it is scored on (protocol "
            f"{recipe.data.protocol}): ship a run under the protocol holdout."
        )
    dataset, split = open_split(recipe.data)
    parts = read_parts(run_folder)
    wrong = [sample.id for sample in split.test if parts.get(sample.id) != "test"]
    if wrong:
        raise EgeunetError(f"{len(wrong)} test photos were not so to {run_folder}: {wrong[0]}, ….")
    with TemporaryDirectory() as temporary:
        exported, *_ = export_run(run, Path(temporary))
        data = exported.path.read_bytes()
        segmenter = Segmenter(exported.path)
        arrays = load_arrays(split.test, recipe.data.shape, recipe.data.num_classes)
        evaluation = evaluate_segmenter(segmenter, arrays)
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
        "system": recipe.system,
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
        "part": "test",
        "selected_on": "validation",
        "parity": exported.parity.to_dict(),
        **evaluation.to_dict(),
        **environment(),
    }
    append_result(record, row)
    with atomic_write(folder / f"{name}.onnx") as path:
        path.write_bytes(data)
    with atomic_write(folder / f"{name}.md") as path:
        path.write_text(card(row, evaluation), encoding="utf-8")
    write_torch_weights(run, folder / f"{name}.safetensors")
    write_sums(folder)
    return row


def write_torch_weights(run: Run, file: Path) -> None:
    """Write the selected weights for torch, with all that `load_run` has to know of the run."""
    state, metadata = load_weights(run.folder / WEIGHTS)
    recipe = run.recipe.model_dump(mode="json", exclude=PLACES)
    save_weights(file, state, {**metadata, "recipe": json.dumps(recipe)})


def card(row: dict[str, Any], evaluation: Evaluation) -> str:
    """Write the card of weights from their row of results."""
    info = REGISTRY.get(row["dataset"])
    start, teachers = (row["recipe"][key]["sha256"] for key in ("start", "distill"))
    teachers = [teachers] if isinstance(teachers, str) else teachers or ()
    return CARD.format(
        start=name_weights(start) if start else "random weights",
        teacher="; ".join(map(name_weights, teachers)) or "none",
        **SUBJECTS.get(row["dataset"], OTHER),
        **row["images"],
        name=row["weights"],
        file=f"{row['weights']}.onnx",
        kilobytes=round(row["bytes"] / 1000),
        sha256=row["weights_sha256"],
        data=f"[{info.title}]({info.homepage})" if info else row["dataset"],
        licence=info.license if info else "unknown",
        trained=row["epochs"],
        planned=row["recipe"]["trainer"]["epochs"],
        batch=row["recipe"]["trainer"]["batch_size"],
        difference=row["parity"]["difference"],
        iou=row["parity"]["iou"],
        scores=markdown(COLUMNS, table_rows(evaluation)),
        **{key: row[key] for key in ("system", "params", "seed", "recipe_hash", "epoch", "n")},
        **{key: row[key] for key in ("training_command", "command", "git_commit")},
    )


def name_weights(sha256: str) -> str:
    """Say what weights are that a run learned from, by the row of results that has them."""
    rows = [row for row in read_results(ROOT / "results") if row.get("weights_sha256") == sha256]
    recipe = recipe_of(rows[-1]) if rows else None
    if recipe is None:
        return f"weights {sha256[:12]}"
    info = REGISTRY.get(rows[-1]["dataset"])
    data = f"{info.title} ({info.license})" if info else rows[-1]["dataset"]
    pretrained = ", from ImageNet weights" if recipe.options.get("pretrained") else ""
    label = label_of(recipe.system, changes_of(recipe))
    return f"{label}: {recipe.trainer.epochs} epochs on {data}{pretrained}; weights {sha256[:12]}"


def markdown(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a table, all columns but the first aligned to the right."""
    columns = list(columns)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of all weights of a folder, as `sha256sum` does."""
    files = sorted([*folder.glob("*.onnx"), *folder.glob("*.safetensors")])
    lines = [f"{sha256_file(path)}  {path.name}\n" for path in files]
    with atomic_write(folder / "SHA256SUMS") as path:
        path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Make the weights that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder, trained under the protocol holdout")
    parser.add_argument("name", help="what the weights are called")
    parser.add_argument("--folder", type=Path, default=ROOT / "src" / "egeunet" / "weights")
    parser.add_argument("--record", type=Path, default=ROOT / "results" / "weights.jsonl")
    options = parser.parse_args()
    try:
        row = make_weights(options.run, options.name, options.folder, options.record)
    except EgeunetError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{options.folder / options.name}.onnx: DSC {row['pooled']['dice']:.2%}")


if __name__ == "__main__":
    main()
