import json
import os
import subprocess
import sys

import numpy as np
import pytest

from egeunet.errors import EgeunetError
from egeunet.evaluation.evaluator import evaluate_arrays
from egeunet.evaluation.report import COLUMNS, append_result, read_results, table_rows


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_are_added_at_the_end(tmp_path):
    path = tmp_path / "results" / "all.jsonl"
    rows = [{"system": "egeunet", "seed": seed, "note": "größer"} for seed in range(3)]
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


@pytest.mark.parametrize("line", ['{"a": ', "null", "[1]"])
def test_what_is_no_row_between_others_is_told_of(tmp_path, line):
    (tmp_path / "all.jsonl").write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    with pytest.raises(EgeunetError, match=r"Line 2 of .*all\.jsonl is no row of JSON"):
        read_results(tmp_path)


def test_processes_may_write_at_once(tmp_path):
    path = tmp_path / "all.jsonl"
    program = (
        "import sys; from egeunet.evaluation.report import append_result\n"
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
    with pytest.raises(EgeunetError, match="could not be added to /dev/full"):
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
    with pytest.raises(EgeunetError, match="could not be added"):
        append_result(tmp_path, {"a": 1})


def test_the_table_has_every_metric_with_its_interval(blobs, arrays_of, predictor_of):
    truths, predictions = blobs
    predictions[0] = 0
    found = evaluate_arrays(predictor_of(predictions), arrays_of(truths))
    rows = table_rows(found)
    assert all(len(row) == len(COLUMNS) for row in rows)
    table = {row[0]: row[1:] for row in rows}
    low, high = found.intervals["pooled"]["iou"]
    assert table["mIoU, pooled"] == (f"{found.pooled['iou']:.2%}", f"{low:.2%} – {high:.2%}", "")
    distance = f"{found.means['hd95']:.2f} px"
    assert table["HD95 per image (1 undefined)"][0] == distance
    assert len(rows) == len(found.pooled) + len(found.means)


def test_the_table_names_classes_and_what_is_undefined(arrays_of, predictor_of):
    masks = np.zeros((1, 8, 8), np.uint8)
    masks[0, 0, 0] = 1
    found = evaluate_arrays(
        predictor_of(masks, 3), arrays_of(masks), num_classes=3, class_names=("body", "core")
    )
    table = {row[0]: row[1] for row in table_rows(found)}
    assert table["body: IoU, pooled"] == "100.00%"
    assert table["core: IoU, pooled"] == "undefined"
