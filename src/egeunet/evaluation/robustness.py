"""Scores under corruptions, by lesion size and by skin tone. For description, not for selection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from egeunet.data.cache import Arrays
from egeunet.evaluation.corruptions import KINDS, LABELS, SEVERITIES, corrupt
from egeunet.evaluation.figures import BLUE, ORANGE, plain_axes
from egeunet.evaluation.predictors import Segmented
from egeunet.evaluation.skin_tone import TONES, skin_tone, typology_angle
from egeunet.evaluation.statistics import bootstrap_interval, image_means, resample
from egeunet.inference.quality import FAILURE
from egeunet.metrics.counts import mean_foreground, scores
from egeunet.progress import track

_CORRUPTIONS = ("Jaccard per image", "none", *map(str, SEVERITIES))
_GROUPS = ("images", "n", "Jaccard", "95 % interval", "Dice", "Jaccard < .65")
_QUARTERS = 4

Row = tuple[str, ...]


def assess(
    segment: Callable[[Arrays], Iterable[Segmented]],
    arrays: Arrays,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a model on images as they are, corrupted, and in groups.

    Args:
        segment: Segments samples, as `segment_batches` does.
        arrays: The samples.
        kinds: The corruptions.
        seed: Seed of the corruptions.

    Returns:
        As JSON can hold it: `seed`; `clean`, the scores without corruption; `corrupted`, those of
        each severity for each kind; `by_size`, by quarters of the lesion's share of the image,
        smallest first; `by_skin_tone`, lightest first, without empty groups. The scores of a group
        are its `name`, its number of images `n`, mean `jaccard` per image with the 95 % bootstrap
        `interval`, mean `dice`, the share of `failures` (Jaccard below 0.65) and `quality`, the
        mean estimated Dice, None without estimates.
    """

    def run(some: Arrays) -> pd.DataFrame:
        found = []
        for batch in segment(some):
            score = {k: mean_foreground(v).numpy() for k, v in scores(batch.counts).items()}
            columns = {"jaccard": score["iou"], "dice": score["dice"]}
            found.append(pd.DataFrame({**columns, "quality": batch.estimates or None}))
        return pd.concat(found, ignore_index=True)

    plain = run(arrays)
    corrupted: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    settings = [(kind, severity) for kind in kinds for severity in SEVERITIES]
    for kind, severity in track(settings, "corrupting"):
        corrupted[kind].append(
            _summarize(str(severity), run(corrupt(arrays, kind, severity, seed)))
        )
    sizes = (arrays.masks > 0).mean(axis=(1, 2))
    quarters = np.array_split(np.argsort(sizes, kind="stable"), _QUARTERS)
    pairs = zip(arrays.images, arrays.masks, strict=True)
    tones = np.array([skin_tone(typology_angle(image, mask)) for image, mask in pairs])
    return {
        "seed": seed,
        "clean": _summarize("none", plain),
        "corrupted": corrupted,
        "by_size": [
            _summarize(
                "lesion {:.1%} – {:.1%} of the image".format(*sizes[one[[0, -1]]]), plain.loc[one]
            )
            for one in quarters
            if len(one)
        ],
        "by_skin_tone": [
            _summarize(f"skin tone: {name}", plain[tones == name])
            for name in (*TONES, "dark", "unknown")
            if (tones == name).any()
        ],
    }


def tables(robustness: Mapping[str, Any]) -> list[tuple[str, Row, list[Row]]]:
    """Return title, columns and rows of a table of corruptions and one of groups, as text."""
    clean = robustness["clean"]
    corruptions = [
        (LABELS.get(kind, kind), *(f"{one['jaccard']:.1%}" for one in (clean, *found)))
        for kind, found in robustness["corrupted"].items()
    ]
    form = "{n}|{jaccard:.1%}|{interval[0]:.1%} – {interval[1]:.1%}|{dice:.1%}|{failures:.1%}"
    groups = [
        (one["name"], *form.format_map(one).split("|"))
        for one in (*robustness["by_size"], *robustness["by_skin_tone"])
    ]
    return [
        ("Corrupted images, by severity", _CORRUPTIONS, corruptions),
        ("Groups of images", _GROUPS, groups),
    ]


def robustness_figure(robustness: Mapping[str, Any]) -> Figure:
    """Draw scores against severity, a small plot per kind."""
    clean, corrupted, columns = robustness["clean"], robustness["corrupted"], 4
    rows = -(-len(corrupted) // columns)
    figure = Figure(figsize=(2.7 * columns, 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis, (kind, found) in zip(axes.ravel(), corrupted.items(), strict=False):
        steps = pd.DataFrame([clean, *found])
        axis.plot(steps["dice"], color=BLUE, marker="o", ms=3, label="mean Dice")
        if clean["quality"] is not None:
            style = {"color": ORANGE, "ls": "--", "marker": "o", "ms": 3}
            axis.plot(steps["quality"], label="mean estimated Dice", **style)
        axis.set(title=LABELS.get(kind, kind), ylim=(0, 1), xticks=range(len(steps)))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    plain_axes(axes.ravel())
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    for axis in axes[-1]:
        axis.set_xlabel("severity")
    return figure


def _summarize(name: str, group: pd.DataFrame) -> dict[str, Any]:
    jaccard = group["jaccard"].to_numpy()
    return {
        "name": name,
        "n": len(group),
        "jaccard": float(jaccard.mean()),
        "interval": bootstrap_interval(image_means(jaccard, resample(len(group)))),
        "dice": float(group["dice"].mean()),
        "failures": float((jaccard < FAILURE).mean()),
        "quality": None if group["quality"].isna().all() else float(group["quality"].mean()),
    }
