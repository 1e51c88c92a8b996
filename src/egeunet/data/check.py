"""Check every file of a dataset before training on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from egeunet.data.datasets import Dataset, Sample
from egeunet.data.duplicates import Fingerprint, find_same, find_similar, fingerprint
from egeunet.data.masks import read_values, to_classes
from egeunet.data.splits import Protocol, split_dataset
from egeunet.environment import count_cores
from egeunet.errors import EgeunetError
from egeunet.inference.image_io import read_image
from egeunet.progress import track

T = TypeVar("T")
Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of a dataset.

    Attributes:
        level: "error" spoils training or its scores, "warning" may, "note" is for the record.
        kind: The kind of problem, in the same words for all of its kind.
        ids: The samples concerned.
        detail: One sentence.
    """

    level: Level
    kind: str
    ids: tuple[str, ...]
    detail: str


@dataclass(frozen=True)
class Check:
    """The result of checking a dataset.

    Attributes:
        name: Name of the dataset.
        root: Its folder.
        images: Number of images.
        readable: Number of pairs of which both files can be read.
        foreground: Mean fraction of foreground in the readable masks, 0…1.
        findings: Problems: errors first, each kind together.
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
        """Return the result in types that JSON knows."""
        return {**asdict(self), "root": str(self.root), "ok": self.ok}


def check_dataset(dataset: Dataset, protocol: Protocol = "holdout", num_classes: int = 1) -> Check:
    """Decode every image and mask, and report what would spoil training or its scores.

    Errors: unreadable or truncated files, images without a mask and the reverse, sizes that
    differ, masks with other classes, the same pixels in two splits, a dataset that cannot be split.
    Warnings: empty and full masks, masks that are not binary, copies within a split, and near
    copies (perceptual hash). Notes: soft JPEG masks, which are thresholded at 127.

    Args:
        dataset: The dataset to check.
        protocol: The protocol in whose splits leaks are looked for.
        num_classes: As for training; 1 expects binary masks.
    """
    findings = [
        Finding("error", "mask without image", (path.stem,), f"{path} matches no image.")
        for path in dataset.orphans
    ]
    samples = dataset.samples
    splits: Mapping[str, str | None] = {sample.id: sample.split for sample in samples}
    try:
        splits = split_dataset(dataset, protocol).split_of()
    except EgeunetError as error:
        findings.append(Finding("error", "no split", (), str(error)))
    with ThreadPoolExecutor(count_cores()) as pool:
        results = pool.map(lambda sample: _check_sample(sample, num_classes), samples)
        checked = list(track(results, "checking", len(samples)))
    prints = {one.id: taken for one, (_, taken, _) in zip(samples, checked, strict=True) if taken}
    fractions = [fraction for *_, fraction in checked if fraction is not None]
    findings += [finding for found, *_ in checked for finding in found]
    findings += _check_copies(prints, splits)
    findings.sort(key=lambda f: (LEVELS.index(f.level), f.kind))
    foreground = float(np.mean(fractions)) if fractions else 0.0
    return Check(
        dataset.name, dataset.root, len(samples), len(fractions), foreground, tuple(findings)
    )


def _check_sample(
    sample: Sample, num_classes: int
) -> tuple[list[Finding], Fingerprint | None, float | None]:
    """Return the problems of a sample, the fingerprint of its image, its foreground fraction."""
    findings: list[Finding] = []

    def add(level: Level, kind: str, detail: str) -> None:
        findings.append(Finding(level, kind, (sample.id,), detail))

    def attempt(kind: str, path: Path, function: Callable[..., T], *arguments: object) -> T | None:
        try:
            return function(*arguments)
        except EgeunetError as error:
            add("error", kind, str(error))
        except MemoryError:
            add("error", kind, f"{path} needs more memory than there is.")
        return None

    image = attempt("unreadable image", sample.image, read_image, sample.image)
    taken = None if image is None else fingerprint(image)
    if (path := sample.mask) is None:
        add("error", "image without mask", f"{sample.image} has no mask.")
        return findings, taken, None
    values = attempt("unreadable mask", path, read_values, path, num_classes)
    if values is None:
        return findings, taken, None
    if image is not None and values.shape != image.shape[:2]:
        sizes = (f"{one.shape[1]}×{one.shape[0]}" for one in (image, values))
        detail = "{}: the image has {} pixels, its mask {}.".format(sample.id, *sizes)
        add("error", "sizes differ", detail)
    mask = attempt("unknown class", path, to_classes, values, num_classes, str(path))
    if mask is None:
        return findings, taken, None
    for problem in _check_values(values, mask, num_classes, path):
        add(*problem)
    return findings, taken, None if image is None else float((mask > 0).mean())


def _check_values(
    values: NDArray[np.integer], mask: NDArray[np.uint8], num_classes: int, path: Path
) -> Iterator[tuple[Level, str, str]]:
    """Yield the problems of a mask's values and of the classes they are read as."""
    lossy = path.suffix.lower() in (".jpg", ".jpeg")
    present = np.unique(values)
    gray = num_classes == 1 and bool(set(present.tolist()) - {0, 1, 255, 65535})
    if gray and not mask.any() and not lossy:
        found = f"{path} holds the values {present[0]} to {present[-1]}, all read as background."
        yield "error", "not binary", f"{found} If they are classes, give their number."
        return
    if gray and lossy:
        yield "note", "soft JPEG mask", f"{path} has soft edges; it is thresholded at 127."
    elif gray:
        found = f"{path} holds {len(present)} different values"
        yield "warning", "not binary", f"{found}; it is thresholded at 127."
    if not mask.any():
        yield "warning", "empty mask", f"{path} marks nothing."
    elif mask.all():
        yield "warning", "full mask", f"{path} marks everything."


def _check_copies(
    prints: dict[str, Fingerprint], splits: Mapping[str, str | None]
) -> Iterator[Finding]:
    """Yield exact and near copies; `splits` may lack samples that the protocol leaves out."""
    ids, taken = list(prints), list(prints.values())
    for group in find_same(taken):
        same = tuple(ids[index] for index in group)
        crossing = _crossing(same, splits)
        detail = f"{' and '.join(crossing or same)} have the same pixels."
        if crossing:
            yield Finding("error", "same image in two splits", same, detail)
        else:
            yield Finding("warning", "same image twice", same, detail)
    for first, second in find_similar(taken):
        pair = ids[first], ids[second]
        crossing = _crossing(pair, splits)
        kind = "near copies in two splits" if crossing else "near copies"
        yield Finding("warning", kind, pair, f"{' and '.join(crossing or pair)} look the same.")


def _crossing(ids: Sequence[str], splits: Mapping[str, str | None]) -> tuple[str, ...] | None:
    """Return two samples, each with the name of its split, if they are in different splits."""
    for one, other in combinations(ids, 2):
        names = splits.get(one), splits.get(other)
        if all(names) and names[0] != names[1]:
            return f"{one} ({names[0]})", f"{other} ({names[1]})"
    return None
