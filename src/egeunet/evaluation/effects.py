"""What protocol, rotation and schedule do to EGE-UNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from egeunet.evaluation.pairs import compare, points
from egeunet.evaluation.paper import DATASETS
from egeunet.evaluation.series import PAPER_EPOCHS, Series, by_budget
from egeunet.evaluation.table import NOT_RUN, Table

_CHANGES = {
    "published scheduler, rotation per sample": {},
    "published scheduler, rotation once per run": {"augmentation.angle": "once"},
    "rate that decays, rotation per sample": {"scheduler.t_max": None},
}
"""What the published code and our runs do otherwise: a title, and the settings that it changes."""
_WAYS = (("paper", "selected"), ("paper", "last"), ("holdout", "selected"))
_NOTE = (
    "Differences are points of pooled IoU on the same images with the 95 % interval bootstrapped "
    "over them, of the seeds that both have; one that holds 0 shows no difference. Selected under "
    "`paper`: the epoch of the least loss of the output on the test part (the published code takes "
    "the loss with that of all stages). `holdout` is scored on other images than `paper`."
)


def protocol_effects(series: Sequence[Series], folder: Path, dataset: str = "isic2018") -> Table:
    """Return what the choice of the checkpoint, of the angle and of the schedule do to EGE-UNet.

    Each row is a way to train, for one budget. The columns are the same test under the protocol
    `paper`, with the checkpoint that did best on the test part and with that of the last epoch, and
    under `holdout`, selected on a validation part, on other images than the former two; then what
    selecting on the test part gives, and what this way gives over the first one.

    Args:
        series: Of `egeunet.evaluation.series.collect`.
        folder: Where the results lie; rows name their counts per image relative to it.
        dataset: Where the runs were trained and scored.
    """
    found = {
        (title, one.epochs, one.protocol, one.weights_epoch): one
        for title, changes in _CHANGES.items()
        for one in series
        if (one.system, one.dataset, one.part, one.changes) == ("egeunet", dataset, "test", changes)
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


def _gain(mine: Series | None, theirs: Series | None, folder: Path) -> str:
    return points(compare(mine, theirs, folder)) if mine and theirs else NOT_RUN
