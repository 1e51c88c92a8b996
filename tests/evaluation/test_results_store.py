import json
import os
import subprocess
import sys

import pytest
import torch

from egeunet.errors import EgeunetError
from egeunet.evaluation.results_store import (
    append_result,
    read_counts,
    read_results,
    write_counts,
)
from egeunet.metrics.counts import count_pixels


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_are_added_at_the_end(tmp_path):
    path = tmp_path / "results" / "all.jsonl"
    rows = [{"model": "egeunet", "seed": seed, "note": "größer"} for seed in range(3)]
    for row in rows:
        append_result(path, row)
    assert read(path) == rows


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ('{"a": 1}\n{"a": ', [{"a": 1}]),
        ('{"a": ', []),
        ('{"a": 1}\n{"a": 3}', [{"a": 1}, {"a": 3}]),  # all but the line's end
        ('{"a": 1}\n', [{"a": 1}]),
    ],
)
def test_a_row_that_a_kill_cut_off_is_no_row_and_makes_place_for_the_next(tmp_path, before, kept):
    path = tmp_path / "all.jsonl"
    path.write_text(before)
    assert read_results(tmp_path) == kept
    append_result(path, {"a": 2})
    assert read(path) == read_results(tmp_path) == [*kept, {"a": 2}]


@pytest.mark.parametrize("line", ['{"a": ', "null", "[1]", '{"a":' + "[" * 100_000])
def test_what_is_no_row_between_others_is_told_of(tmp_path, line):
    (tmp_path / "all.jsonl").write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    with pytest.raises(EgeunetError, match=r"Line 2 of .*all\.jsonl is not a JSON object"):
        read_results(tmp_path)


def test_processes_may_write_at_once(tmp_path):
    path = tmp_path / "all.jsonl"
    program = (
        "import sys; from egeunet.evaluation.results_store import append_result\n"
        "for i in range(100): append_result(sys.argv[1], {'by': sys.argv[2], 'x': 'y' * 5000})"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(number)])
        for number in range(3)
    ]
    assert [writer.wait(timeout=600) for writer in writers] == [0, 0, 0]
    rows = read(path)
    assert sorted(row["by"] for row in rows) == ["0"] * 100 + ["1"] * 100 + ["2"] * 100


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_result(tmp_path / "all.jsonl", {"iou": float("nan")})
    assert not (tmp_path / "all.jsonl").exists()


def test_a_full_disk_is_an_error():
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("no /dev/full on this system")
    with pytest.raises(EgeunetError, match="Cannot append the result to /dev/full"):
        append_result("/dev/full", {"a": 1})


def test_a_disk_that_fills_up_leaves_the_file_as_it_was(tmp_path):
    resource = pytest.importorskip("resource", reason="no limits on file sizes on this system")
    path = tmp_path / "all.jsonl"
    append_result(path, {"a": 1})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(EgeunetError, match="the disk is full"):
            append_result(path, {"a": "long" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


def test_a_folder_in_the_way_is_an_error(tmp_path):
    with pytest.raises(EgeunetError, match="Cannot append"):
        append_result(tmp_path, {"a": 1})


def test_counts_come_back_as_they_were(tmp_path):
    generator = torch.Generator().manual_seed(0)
    prediction, truth = torch.randint(0, 2, (2, 4, 20, 20), generator=generator)
    counts = count_pixels(prediction, truth, num_classes=2)
    write_counts(tmp_path / "a.csv", ("a", "b", "c", "=d"), counts)
    ids, back = read_counts(tmp_path / "a.csv")
    assert ids == ("a", "b", "c", "=d")
    assert all(torch.equal(one, other) for one, other in zip(counts, back, strict=True))


@pytest.mark.parametrize(
    "text", ["id,class,tp\na,0,1\n", "id,class,tp,fp,fn,tn\na,0,1,2,3,x\n", "a\0,b\n" * 3, ""]
)
def test_a_file_that_holds_no_counts_is_one_sentence(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(EgeunetError, match="Evaluate the run again") as error:
        read_counts(tmp_path / "a.csv")
    assert "\n" not in str(error.value)
