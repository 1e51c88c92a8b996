from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egeunet.data.datasets import Dataset, Sample, open_dataset
from egeunet.data.splits import PROTOCOLS, Split, cut, format_list, split_dataset
from egeunet.errors import EgeunetError, UsageError

COUNTS = {
    ("isic2018", "paper"): {"train": 1816, "test": 778},
    ("isic2018", "holdout"): {"train": 1815, "val": 259, "test": 520},
    ("isic2017", "paper"): {"train": 1345, "test": 576},
    ("isic2017", "holdout"): {"train": 1344, "val": 192, "test": 385},
}


def dataset(ids, groups=None, parts=None, name="mine") -> Dataset:
    samples = [
        Sample(key, Path(key), Path(key), (parts or {}).get(key), (groups or {}).get(key))
        for key in ids
    ]
    return Dataset(name, Path(), tuple(sorted(samples, key=lambda s: s.id)))


def ids(samples) -> list[str]:
    return [sample.id for sample in samples]


names = st.sets(
    st.text("abc019_ ", min_size=1, max_size=6).map(str.strip).filter(bool), min_size=10
)


@given(names, st.sampled_from(PROTOCOLS), st.integers(0, 9))
def test_a_split_covers_everything_once_in_the_right_sizes(keys, protocol, seed):
    split = cut(dataset(keys), protocol, seed)
    parts = split.subsets()
    together = [key for samples in parts.values() for key in ids(samples)]
    assert sorted(together) == sorted(keys)
    n = len(keys)
    if protocol == "paper":
        assert split.val == split.test
        assert len(split.train) == (7 * n + 5) // 10
    else:
        assert (len(split.train), len(split.val)) == (7 * n // 10, n // 10)
    assert all(ids(samples) == sorted(ids(samples)) for samples in parts.values())


@given(names, st.data(), st.integers(0, 9))
def test_groups_stay_whole(keys, data, seed):
    groups = {key: data.draw(st.sampled_from("ABCDEFGHIJKL")) for key in keys}
    # Few large groups can leave a part empty; a lone sample for each part keeps this out.
    split = cut(dataset(keys | {f"lone {i}" for i in range(90)}, groups), "holdout", seed)
    parts = [{sample.group for sample in part} - {None} for part in split.subsets().values()]
    assert len(set().union(*parts)) == sum(map(len, parts))
    assert sum(map(len, split.subsets().values())) == len(keys) + 90


def test_the_order_of_listing_does_not_matter_and_the_seed_does():
    keys = [f"ISIC_{i:07d}" for i in range(200)]
    assert cut(dataset(keys)) == cut(dataset(reversed(keys)))
    assert cut(dataset(keys), seed=1) != cut(dataset(keys))


def test_the_order_is_that_of_sha256():
    # In the shell: for i in a b c d e f g h i j; do echo "$(printf 0:$i | sha256sum) $i"; done|sort
    split = cut(dataset("abcdefghij"))
    assert (ids(split.train), ids(split.val), ids(split.test)) == (
        ["a", "d", "f", "g", "h", "i", "j"],
        ["c"],
        ["b", "e"],
    )


def test_the_owners_parts_are_kept_by_holdout_and_pooled_by_paper():
    parts = {f"{part}_{i}": part for part in ("train", "val", "test") for i in range(10)}
    split = cut(dataset(parts, parts=parts))
    assert {part: {s.split for s in samples} for part, samples in split.subsets().items()} == {
        "train": {"train"},
        "val": {"val"},
        "test": {"test"},
    }
    paper = cut(dataset(parts, parts=parts), "paper")
    assert len(paper.train) == 21


@pytest.mark.parametrize("absent", ["val", "test"])
def test_an_absent_part_is_cut_from_the_owners_train(absent):
    there = [part for part in ("train", "val", "test") if part != absent]
    parts = {f"{part}_{i:02d}": part for part in there for i in range(16)}
    split = cut(dataset(parts, parts=parts))
    assert [len(samples) for samples in (split.train, split.val, split.test)] == [14, 2, 16]
    assert {s.split for s in split.test} == {there[1]}
    assert {s.split for s in split.train + split.val} == {"train"}


def test_overlap_and_emptiness_are_errors():
    a, b, c = (Sample(key, Path(key), Path(key)) for key in "abc")
    with pytest.raises(EgeunetError, match="a is in both train and test"):
        Split((a, b), (c,), (a,))
    torn = [Sample(key, Path(key), Path(key), group="lesion 7") for key in "abc"]
    with pytest.raises(EgeunetError, match="lesion 7 is in both"):
        Split((torn[0],), (torn[1],), (torn[2],))
    with pytest.raises(EgeunetError, match="val split is empty"):
        Split((a,), (), (b,))
    with pytest.raises(EgeunetError, match="too small"):
        cut(dataset("ab"))
    with pytest.raises(UsageError, match="choose paper or holdout"):
        split_dataset(dataset("abcdefghij"), "official")


@pytest.mark.parametrize(("name", "protocol"), COUNTS)
def test_shipped_lists_are_sorted_disjoint_and_of_the_sizes_of_the_protocol(name, protocol):
    text = (resources.files("egeunet.data") / f"splits/{name}_{protocol}.txt").read_text()
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    keys = [key for key, _ in rows]
    assert keys == sorted(set(keys))
    parts = [part for _, part in rows]
    assert {part: parts.count(part) for part in set(parts)} == COUNTS[name, protocol]
    # The list alone makes the split, whatever else the folder holds.
    split = split_dataset(dataset([*keys, "ISIC_9999999"], name=name), protocol)
    counts = {part: len(samples) for part, samples in split.subsets().items()}
    assert counts == COUNTS[name, protocol]
    with pytest.raises(EgeunetError, match=rf"lacks 1 of the {len(keys)} images.*{keys[5]}"):
        split_dataset(dataset(keys[:5] + keys[6:], name=name), protocol)


@pytest.mark.data
@pytest.mark.parametrize(("name", "protocol"), COUNTS)
def test_shipped_lists_are_what_the_function_gives_on_the_real_data(name, protocol, real_data):
    opened = open_dataset(name, real_data / "isic2018")
    split = cut(opened, protocol)
    assert split == split_dataset(opened, protocol)
    shipped = resources.files("egeunet.data") / f"splits/{name}_{protocol}.txt"
    assert format_list(opened, protocol, 0, split) == shipped.read_text()
