"""Which samples train, which select, which test: lists by id that no file system can change."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, get_args

from egeunet.data.datasets import Dataset, Sample
from egeunet.data.registry import REGISTRY
from egeunet.errors import EgeunetError, UsageError

Protocol = Literal["paper", "holdout"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)


@dataclass(frozen=True)
class Split:
    """The parts of a dataset under a protocol, each sorted by id.

    Attributes:
        train: To learn from.
        val: To select the checkpoint on. Under the protocol "paper" this is `test`, as published.
        test: To report on.

    Raises:
        EgeunetError: If a part is empty, or a sample or a group lies in two parts.
    """

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]

    def __post_init__(self) -> None:
        for part, samples in self.parts().items():
            if not samples:
                raise EgeunetError(
                    f"The split leaves nothing for {part}: the dataset is too small for it."
                )
        seen: dict[str, str] = {}
        for part, samples in self.parts().items():
            # The prefixes keep an id from being mistaken for a group of the same name.
            keys = {key for s in samples for key in (f"i{s.id}", s.group and f"g{s.group}") if key}
            for key in sorted(keys):
                if seen.setdefault(key, part) != part:
                    raise EgeunetError(
                        f"The split is not clean: {key[1:]} is in both {seen[key]} and {part}."
                    )

    def parts(self) -> dict[str, tuple[Sample, ...]]:
        """Return the disjoint parts by name; there is no "val" where it is the test part itself."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        if self.val == self.test:
            del parts["val"]
        return parts

    def part_of(self) -> dict[str, str]:
        """Return the part of each sample by its id."""
        return {one.id: part for part, samples in self.parts().items() for one in samples}


def split_dataset(dataset: Dataset, protocol: Protocol = "holdout", seed: int = 0) -> Split:
    """Split a dataset by a protocol, from the shipped list if there is one, else by `cut`.

    Lists are shipped for ISIC 2018 and ISIC 2017 with seed 0; samples that they do not name are
    left out.

    Args:
        dataset: What to split.
        protocol: "paper" or "holdout"; see `cut`.
        seed: Another seed gives another split of the same kind.

    Raises:
        EgeunetError: If the shipped list names ids that the folder lacks, or a part stays empty.
    """
    _check(protocol)
    listed = {} if seed else shipped_list(dataset.name, protocol)
    if not listed:
        return cut(dataset, protocol, seed)
    samples = {sample.id: sample for sample in dataset.samples}
    missing = sorted(listed.keys() - samples.keys())
    if missing:
        raise EgeunetError(
            f"{dataset.root} lacks {len(missing)} of the {len(listed)} images that the list of "
            f"{dataset.name}, protocol {protocol}, names, such as {missing[0]}: complete the "
            "folder; or, if it is a dataset of your own, give it another name (in a recipe: "
            "data.name=null)."
        )
    return _gather((samples[key], part) for key, part in sorted(listed.items()))


def shipped_list(dataset: str, protocol: str) -> dict[str, str]:
    """Return id → part of the list that comes with the package; empty if there is none."""
    source = resources.files("egeunet.data") / "splits" / f"{dataset}_{protocol}.txt"
    return parse_list(source.read_text(encoding="utf-8")) if source.is_file() else {}


def cut(dataset: Dataset, protocol: Protocol = "holdout", seed: int = 0) -> Split:
    """Split a dataset by the hash of its ids, the same on every machine.

    Samples are ordered by the SHA-256 of "seed:id" (of "seed:group" where there are groups, which
    stay whole) and this order is cut:

    - "paper": the first 70 % (rounded) train, the rest is `test`, and `val` is the same.
    - "holdout": the first 70 % train, the next 10 % are `val`, the rest is `test` (both rounded
      down, `val` at least 1). Where the owner made parts these are kept: all three as they are;
      without a `val`, an eighth of his `train` becomes it; without a `test`, his `val` is the
      `test` and an eighth of his `train` becomes `val`.

    Raises:
        EgeunetError: If a part stays empty.
    """
    _check(protocol)
    samples = dataset.samples
    info = REGISTRY.get(dataset.name)
    if info and info.pooled:
        samples = tuple(s for s in samples if s.part is None or s.part in info.pooled)
    owned = _owned(samples) if protocol == "holdout" and not (info and info.pooled) else None
    total = len(samples)
    if protocol == "paper":
        train, test = _deal(samples, seed, [(7 * total + 5) // 10])
        return Split(train, test, test)
    if owned is None:
        return Split(*_deal(samples, seed, [7 * total // 10, max(1, total // 10)]))
    train, val, test = owned
    if not val or not test:
        test = test or val
        val, train = _deal(train, seed, [max(1, len(train) // 8)])
    return Split(train, val, test)


def format_list(dataset: Dataset, protocol: Protocol, seed: int, split: Split) -> str:
    """Return a split as text: a header that says how it was made, then `<id> <part>` per line."""
    parts = split.parts()
    counts = ", ".join(f"{len(samples)} {part}" for part, samples in parts.items())
    lines = [
        f"# {dataset.name}, protocol {protocol}: {counts}",
        f"# made by: egeunet data split {dataset.name} --protocol {protocol} --seed {seed}",
        f'# (ids in the order of sha256("{seed}:<id>"), cut into parts, then sorted by id)',
    ]
    rows = sorted((sample.id, part) for part, samples in parts.items() for sample in samples)
    return "\n".join([*lines, *(f"{key} {part}" for key, part in rows)]) + "\n"


def _check(protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise UsageError(f"There is no protocol {protocol!r}; known are {', '.join(PROTOCOLS)}.")


def parse_list(text: str) -> dict[str, str]:
    """Return id → part of what `format_list` writes."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    # An id may contain spaces, a part does not.
    return dict(line.rsplit(" ", 1) for line in lines)


def _gather(samples: Iterable[tuple[Sample, str]]) -> Split:
    parts: dict[str, list[Sample]] = defaultdict(list)
    for sample, part in samples:
        parts[part].append(sample)
    test = tuple(parts["test"])
    return Split(tuple(parts["train"]), tuple(parts["val"]) or test, test)


def _owned(
    samples: Sequence[Sample],
) -> tuple[tuple[Sample, ...], tuple[Sample, ...], tuple[Sample, ...]] | None:
    """Return the owner's parts; None if there are not at least two."""
    train, val, test = (
        tuple(s for s in samples if s.part == part) for part in ("train", "val", "test")
    )
    return (train, val, test) if train and (val or test) else None


def _deal(samples: Sequence[Sample], seed: int, counts: Sequence[int]) -> list[tuple[Sample, ...]]:
    """Deal samples in hash order into parts of these sizes and a last one with the rest.

    A group that reaches across a border goes to the earlier part.
    """
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.group or sample.id].append(sample)
    order = sorted(groups, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).hexdigest())
    parts: list[list[Sample]] = [[] for _ in range(len(counts) + 1)]
    borders = [sum(counts[: index + 1]) for index in range(len(counts))]
    dealt = 0
    for key in order:
        part = sum(dealt >= border for border in borders)
        parts[part] += groups[key]
        dealt += len(groups[key])
    return [tuple(sorted(part, key=lambda s: s.id)) for part in parts]
