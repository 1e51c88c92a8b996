"""Looks at every file of a dataset before anything is learned from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from egeunet.data.datasets import Dataset, Sample
from egeunet.data.duplicates import Print, find_same, find_similar, take_print
from egeunet.data.masks import read_values, to_classes
from egeunet.data.splits import Protocol, split_dataset
from egeunet.environment import count_cores
from egeunet.errors import EgeunetError
from egeunet.inference.image_io import read_image
from egeunet.reporting import Reporter

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know about a dataset.

    Attributes:
        level: "error" spoils what is learned or measured; "warning" may; "note" is for the record.
        kind: What it is, the same words for all of its kind.
        ids: The samples it is about.
        detail: One sentence.
    """

    level: Level
    kind: str
    ids: tuple[str, ...]
    detail: str


@dataclass(frozen=True)
class Check:
    """What a look at a dataset gave.

    Attributes:
        name: The dataset.
        root: Its folder.
        images: Number of images.
        readable: Number of pairs of which both files could be read.
        foreground: Mean fraction of foreground in the readable masks, 0…1.
        findings: Errors first, each kind together.
    """

    name: str
    root: Path
    images: int
    readable: int
    foreground: float
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return all(finding.level != "error" for finding in self.findings)

    def by_kind(self) -> dict[tuple[Level, str], list[Finding]]:
        """Return the findings by their level and kind."""
        kinds: dict[tuple[Level, str], list[Finding]] = {}
        for finding in self.findings:
            kinds.setdefault((finding.level, finding.kind), []).append(finding)
        return kinds

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in types that JSON knows."""
        return {**asdict(self), "root": str(self.root), "ok": self.ok}


def check_dataset(
    dataset: Dataset,
    protocol: Protocol = "holdout",
    num_classes: int = 1,
    reporter: Reporter | None = None,
) -> Check:
    """Decode every image and mask, and look for what would spoil training or its result.

    Errors: unreadable or truncated files, images without a mask and the reverse, sizes that
    differ, masks with other classes, the same pixels in two parts of the split, a split that
    cannot be made. Warnings: empty and full masks, masks that are not binary, copies within a
    part, and near-copies (perceptual hash). Notes: soft JPEG masks, which are thresholded at 127.

    Args:
        dataset: What to look at.
        protocol: The split in which leaks are looked for.
        num_classes: As for training; 1 expects binary masks.
        reporter: Hears of the progress.
    """
    findings = [
        Finding("error", "mask without image", (path.stem,), f"{path} fits no image.")
        for path in dataset.orphans
    ]
    parts: Mapping[str, str | None] = {sample.id: sample.part for sample in dataset.samples}
    try:
        parts = split_dataset(dataset, protocol).part_of()
    except EgeunetError as error:
        findings.append(Finding("error", "no split", (), str(error)))

    prints: dict[str, Print] = {}
    fractions: list[float] = []
    with ThreadPoolExecutor(count_cores()) as pool:
        looks = pool.map(lambda sample: _look(sample, num_classes), dataset.samples)
        total = len(dataset.samples)
        for sample, look in zip(
            dataset.samples,
            (reporter or Reporter()).track(looks, "checking", total),
            strict=True,
        ):
            findings += look.findings
            if look.taken:
                prints[sample.id] = look.taken
            if look.fraction is not None:
                fractions.append(look.fraction)
    findings += _copies(prints, parts)
    findings.sort(key=lambda f: (LEVELS.index(f.level), f.kind))
    foreground = float(np.mean(fractions)) if fractions else 0.0
    return Check(dataset.name, dataset.root, total, len(fractions), foreground, tuple(findings))


@dataclass(frozen=True)
class _Look:
    findings: tuple[Finding, ...]
    taken: Print | None
    fraction: float | None


def _look(sample: Sample, num_classes: int) -> _Look:
    findings: list[Finding] = []

    def add(level: Level, kind: str, detail: str) -> None:
        findings.append(Finding(level, kind, (sample.id,), detail))

    photo = taken = fraction = None
    try:
        photo = read_image(sample.image)
        taken = take_print(photo)
    except EgeunetError as error:
        add("error", "unreadable image", str(error))
    if sample.mask is None:
        add("error", "image without mask", f"{sample.image} has no mask.")
        return _Look(tuple(findings), taken, None)
    try:
        values = read_values(sample.mask, num_classes)
    except EgeunetError as error:
        add("error", "unreadable mask", str(error))
        return _Look(tuple(findings), taken, None)
    if photo is not None and values.shape != photo.shape[:2]:
        image_size, mask_size = photo.shape[1::-1], values.shape[::-1]
        add(
            "error",
            "sizes differ",
            f"{sample.id}: the image has {image_size[0]}×{image_size[1]} pixels, "
            f"its mask {mask_size[0]}×{mask_size[1]}.",
        )
    try:
        mask = to_classes(values, num_classes, str(sample.mask))
    except EgeunetError as error:
        add("error", "unknown class", str(error))
        return _Look(tuple(findings), taken, None)
    for level, kind, detail in _judge(values, mask, num_classes, sample.mask):
        add(level, kind, f"The mask of {sample.id} {detail}")
    if photo is not None:
        fraction = float((mask > 0).mean())
    return _Look(tuple(findings), taken, fraction)


def _judge(
    values: NDArray[np.integer], mask: NDArray[np.uint8], num_classes: int, path: Path
) -> Iterator[tuple[Level, str, str]]:
    """Yield what is odd about a mask's values and its classes."""
    present = np.unique(values)
    lossy = path.suffix.lower() in (".jpg", ".jpeg")
    between = num_classes == 1 and set(present.tolist()) - {0, 1, 255, 65535}
    vanished = between and not mask.any()
    if vanished and not lossy:
        yield (
            "error",
            "not binary",
            f"holds the values {present[0]} to {present[-1]}, all of which read as background; "
            "if they are classes, say how many.",
        )
        return
    if between and lossy:
        yield "note", "soft JPEG mask", "has soft edges; it is thresholded at 127."
    elif between:
        yield (
            "warning",
            "not binary",
            f"holds {len(present)} different values; it is thresholded at 127.",
        )
    if not mask.any():
        yield "warning", "empty mask", "marks nothing."
    elif mask.all():
        yield "warning", "full mask", "marks everything."


def _copies(prints: dict[str, Print], parts: Mapping[str, str | None]) -> Iterator[Finding]:
    """Yield exact and near copies; `parts` may lack samples that the split leaves out."""
    ids, taken = list(prints), list(prints.values())
    for group in find_same(taken):
        same = tuple(ids[index] for index in group)
        if crossing := _crossing(same, parts):
            detail = f"{' and '.join(crossing)} have the same pixels."
            yield Finding("error", "same image in two parts", same, detail)
        else:
            detail = f"{' and '.join(same)} have the same pixels."
            yield Finding("warning", "same image twice", same, detail)
    for first, second in find_similar(taken):
        pair = ids[first], ids[second]
        crossing = _crossing(pair, parts)
        kind = "near-copies in two parts" if crossing else "near-copies"
        yield Finding("warning", kind, pair, f"{' and '.join(crossing or pair)} look the same.")


def _crossing(ids: Sequence[str], parts: Mapping[str, str | None]) -> tuple[str, ...] | None:
    """Return two samples, each with its part, if they lie in different parts."""
    for one, other in combinations(ids, 2):
        here, there = parts.get(one), parts.get(other)
        if here and there and here != there:
            return f"{one} ({here})", f"{other} ({there})"
    return None
