"""Train, validation and test splits by sample id, the same on every machine."""

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
    """A dataset divided under a protocol; each split is sorted by id.

    Attributes:
        train: Samples to train on.
        val: Samples to select the checkpoint on. Under the protocol "paper" this is `test`.
        test: Samples to report on.

    Raises:
        EgeunetError: If a split is empty, or a sample or a group is in two splits.
    """

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    test: tuple[Sample, ...]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for name, samples in self.subsets().items():
            if not samples:
                raise EgeunetError(
                    f"The dataset is too small for this protocol: its {name} split is empty."
                )
            # The prefixes keep an id from being mistaken for a group of the same name.
            keys = {key for s in samples for key in (f"i{s.id}", s.group and f"g{s.group}") if key}
            for key in sorted(keys):
                if seen.setdefault(key, name) != name:
                    raise EgeunetError(
                        f"The splits overlap: {key[1:]} is in both {seen[key]} and {name}."
                    )

    def subsets(self) -> dict[str, tuple[Sample, ...]]:
        """Return the disjoint splits by name, without "val" where it is the test split."""
        subsets = {"train": self.train, "val": self.val, "test": self.test}
        if self.val == self.test:
            del subsets["val"]
        return subsets

    def split_of(self) -> dict[str, str]:
        """Return the name of each sample's split by its id."""
        return {one.id: name for name, samples in self.subsets().items() for one in samples}


def split_dataset(dataset: Dataset, protocol: Protocol = "holdout", seed: int = 0) -> Split:
    """Split a dataset by the list shipped for it if there is one, else by `cut`.

    Lists are shipped for ISIC 2018 and ISIC 2017 with seed 0. Samples that a list does not name
    are left out.

    Args:
        dataset: The dataset to split.
        protocol: "paper" or "holdout"; see `cut`.
        seed: Seed of the split; the lists are of seed 0.

    Raises:
        EgeunetError: If a shipped list names ids that the folder lacks, or a split stays empty.
    """
    listed = {} if seed else shipped_list(dataset.name, protocol)
    if not listed:
        return cut(dataset, protocol, seed)
    samples = {sample.id: sample for sample in dataset.samples}
    if missing := sorted(listed.keys() - samples.keys()):
        raise EgeunetError(
            f"{dataset.root} lacks {len(missing)} of the {len(listed)} images in the split list of "
            f"{dataset.name} ({protocol}), such as {missing[0]}. Complete the folder; or, if it is "
            "a dataset of your own, give it another name (in a recipe: data.name=null)."
        )
    subsets: dict[str, list[Sample]] = defaultdict(list)
    for key, name in sorted(listed.items()):
        subsets[name].append(samples[key])
    train, val, test = (tuple(subsets[name]) for name in ("train", "val", "test"))
    return Split(train, val or test, test)


def shipped_list(dataset: str, protocol: str) -> dict[str, str]:
    """Return id → split of the list that comes with the package; empty if there is none."""
    source = resources.files("egeunet.data") / "splits" / f"{dataset}_{protocol}.txt"
    return parse_list(source.read_text(encoding="utf-8")) if source.is_file() else {}


def cut(dataset: Dataset, protocol: Protocol = "holdout", seed: int = 0) -> Split:
    """Split a dataset by the hash of its ids, the same on every machine.

    Samples are ordered by the SHA-256 of "seed:id" (of "seed:group" where there are groups, which
    stay whole) and this order is cut:

    - "paper": the first 70 % (rounded) are `train`, the rest is `test`, and `val` is `test`.
    - "holdout": the first 70 % are `train`, the next 10 % `val`, the rest `test` (both rounded
      down, `val` at least 1). Official splits are kept: all three as they are; without a `val`, an
      eighth of the official `train` becomes it; without a `test`, the official `val` is the `test`
      and an eighth of the official `train` becomes `val`.

    Raises:
        EgeunetError: If a split stays empty.
        UsageError: If there is no such protocol.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"There is no protocol {protocol!r}; choose {' or '.join(PROTOCOLS)}.")
    samples, info = dataset.samples, REGISTRY.get(dataset.name)
    pooled = info.pooled if info else ()
    if pooled:
        samples = tuple(s for s in samples if s.split is None or s.split in pooled)
    total = len(samples)
    if protocol == "paper":
        train, test = _deal(samples, seed, [(7 * total + 5) // 10])
        return Split(train, test, test)
    train, val, test = (
        tuple(s for s in samples if s.split == name) for name in ("train", "val", "test")
    )
    if pooled or not train or not (val or test):
        return Split(*_deal(samples, seed, [7 * total // 10, max(1, total // 10)]))
    if not val or not test:
        test = test or val
        val, train = _deal(train, seed, [max(1, len(train) // 8)])
    return Split(train, val, test)


def format_list(dataset: Dataset, protocol: Protocol, seed: int, split: Split) -> str:
    """Return a split as text: a header that says how it was made, then `<id> <split>` per line."""
    subsets = split.subsets()
    counts = ", ".join(f"{len(samples)} {name}" for name, samples in subsets.items())
    lines = [
        f"# {dataset.name}, protocol {protocol}: {counts}",
        f"# made by: egeunet data split {dataset.name} --protocol {protocol} --seed {seed}",
        f'# (ids in the order of sha256("{seed}:<id>"), cut into parts, then sorted by id)',
    ]
    rows = sorted(split.split_of().items())
    return "\n".join([*lines, *(f"{key} {name}" for key, name in rows)]) + "\n"


def parse_list(text: str) -> dict[str, str]:
    """Return id → split of a text that `format_list` wrote."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    # An id may contain spaces, the name of a split does not.
    return dict(line.rsplit(" ", 1) for line in lines)


def _deal(samples: Iterable[Sample], seed: int, counts: Sequence[int]) -> list[tuple[Sample, ...]]:
    """Deal samples in hash order into splits of these sizes and a last one with the rest.

    A group that reaches across a border goes to the earlier split.
    """
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.group or sample.id].append(sample)
    order = sorted(groups, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).hexdigest())
    subsets: list[list[Sample]] = [[] for _ in range(len(counts) + 1)]
    borders = [sum(counts[: index + 1]) for index in range(len(counts))]
    dealt = 0
    for key in order:
        subsets[sum(dealt >= border for border in borders)] += groups[key]
        dealt += len(groups[key])
    return [tuple(sorted(subset, key=lambda s: s.id)) for subset in subsets]
