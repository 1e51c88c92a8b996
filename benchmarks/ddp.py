"""Two processes that share each batch beside one: losses, weights, images a second.

    python benchmarks/ddp.py --data ../shared/data/isic2018

Trains the same recipe three times, one after the other, on the CPU: in one process with all cores,
in two that share them, and in one whose loss weighs the output with 1 + 2⁻²³: as far as rounding
alone drives a training apart. A row is added to ddp.jsonl. `images_per_second` is of the
median epoch after the first, its validation included.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egeunet.environment import environment
from egeunet.evaluation.results_store import append_result
from egeunet.training.checkpoints import load_checkpoint
from egeunet.training.run import read_parts

RUNS = {
    "one": ["devices=1"],
    "two": ["devices=2"],
    "control": ["devices=1", "loss.output_weight=1.00000011920928955"],
}


def weights(folder: Path) -> Tensor:
    """All weights of the last epoch, as one vector."""
    state = load_checkpoint(folder)
    assert state is not None
    return torch.cat([t.flatten().double() for t in state["model"].values()])


def describe(folder: Path, reference: Path) -> dict[str, Any]:
    """What a run says of the comparison."""
    state = load_checkpoint(folder)
    assert state is not None
    history = state["history"]
    images = len([part for part in read_parts(folder).values() if part != "test"])
    first = weights(reference)
    return {
        "train_loss": [row["train_loss"] for row in history],
        "val_iou": [row["val_iou"] for row in history],
        "weights_apart": float((weights(folder) - first).norm() / first.norm()),
        "images_per_second": images / statistics.median(row["seconds"] for row in history[1:]),
    }


def main() -> None:
    """Train three times and add the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a dataset folder")
    parser.add_argument("--recipe", default="egeunet-isic2018")
    parser.add_argument("--epochs", type=int, default=4, help="at least 2")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("-o", "--output", type=Path, default=Path("research/results/ddp.jsonl"))
    options, settings = parser.parse_known_args()
    common = [
        *("data.name=null", f"data.root={options.data.resolve()}", "device=cpu"),
        *(f"trainer.epochs={options.epochs}", f"trainer.batch_size={options.batch}", *settings),
    ]
    with tempfile.TemporaryDirectory() as out:
        folders = {name: Path(out) / name for name in RUNS}
        for name, words in RUNS.items():
            train = [sys.executable, "-m", "egeunet", "train", options.recipe, *common, *words]
            subprocess.run([*train, f"out={folders[name]}"], check=True)
        parts = list(read_parts(folders["one"]).values())
        row = {
            "benchmark": "ddp",
            "recipe": options.recipe,
            "settings": settings,
            "epochs": options.epochs,
            "batch_size": options.batch,
            "images": parts.count("train"),
            **{name: describe(folder, folders["one"]) for name, folder in folders.items()},
            **environment(),
        }
    append_result(options.output, row)
    print(row)


if __name__ == "__main__":
    main()
