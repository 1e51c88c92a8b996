"""The effect of protocol, rotation and learning rate schedule on EGE-UNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from research.paired_comparison import compare, points
from research.paper import DATASETS
from research.run_groups import PAPER_EPOCHS, RunGroup, by_budget
from research.table import NOT_RUN, Table

_CHANGES = {
    "published schedule, rotation per sample": {},
    "published schedule, rotation once per run": {"augmentation.angle": "once"},
    "one decay, rotation per sample": {"scheduler.t_max": None},
}
"""Where the published code and our runs differ: a title, and the settings that change."""
_WAYS = (("paper", "selected"), ("paper", "last"), ("holdout", "selected"))
_NOTE = (
    "Differences are points of pooled IoU on the same images with the 95 % interval bootstrapped "
    "over them, of the seeds that both have; an interval that holds 0 shows no difference. "
    "Selected under `paper`: the epoch with the lowest loss of the final output on the test split. "
    "The published code selects by the loss of all stages, the final output included. `holdout` is "
    "scored on other images than `paper`."
)


def protocol_ablation(groups: Sequence[RunGroup], folder: Path, dataset: str = "isic2018") -> Table:
    """Return the effect of checkpoint selection, rotation and schedule on EGE-UNet.

    Each row is a way to train at one budget. The columns are the test score under `paper` with the
    selected and the last checkpoint and under `holdout`, then what selecting on the test split
    gains, and what this way gains over the first.

    Args:
        groups: All groups of runs.
        folder: The folder of results.
        dataset: Where the runs were trained and scored.
    """
    found = {
        (title, one.epochs, one.protocol, one.weights_epoch): one
        for title, changes in _CHANGES.items()
        for one in groups
        if (one.model, one.dataset, one.split, one.changes) == ("egeunet", dataset, "test", changes)
    }
    first = next(iter(_CHANGES))
    rows = []
    for title in _CHANGES:
        own = sorted((one for key, one in found.items() if key[0] == title), key=by_budget)
        for epochs in dict.fromkeys([PAPER_EPOCHS, *(one.epochs for one in own)]):
            selected, last, held = (found.get((title, epochs, *way)) for way in _WAYS)
            scores = (str(one.score("iou")) if one else NOT_RUN for one in (selected, last, held))
            gains = [_gain(selected, last, folder)]
            for one, way in ((last, _WAYS[1]), (held, _WAYS[2])):
                base = found.get((first, epochs, *way))
                gains.append("" if title == first else _gain(one, base, folder))
            rows.append((title, str(epochs), *scores, *gains))
    columns = (
        *("EGE-UNet trained with", "epochs", "selected on test", "last epoch", "holdout"),
        *("selected minus last", "last epoch, minus the first way", "holdout, minus the first way"),
    )
    title = f"mIoU of EGE-UNet on {DATASETS[dataset]} by protocol"
    return Table(f"protocol-effects-{dataset}", title, columns, tuple(rows), _NOTE)


def _gain(a: RunGroup | None, b: RunGroup | None, folder: Path) -> str:
    if not a or not b:
        return NOT_RUN
    found = compare(a, b, folder)
    return points(found and found.iou)
