import csv
import json
import os
from pathlib import Path

import pytest

from egeunet.errors import EgeunetError, UsageError
from egeunet.inference.predictions import check_options, open_table, read_rows

GOOD = {"name": "a.png", "mask": "a_mask.png", "box": [1, 2, 30, 40], "quality": 0.5}
GOOD |= {"weights": "x@1", "tta": True, "error": None}
BAD = {"name": "b.png", "mask": None, "error": "b.png is empty"}


def test_rows_of_several_runs_stand_in_two_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for row in (BAD, GOOD):
        with open_table(out) as add:
            add(row)
    assert read_rows(out) == {"a.png": GOOD, "b.png": BAD}
    assert "not a medical device" in json.loads((out / "predictions.json").read_text())["notice"]
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert [int(first[key]) for key in ("x0", "y0", "x1", "y1")] == GOOD["box"]
    assert (float(first["quality"]), first["tta"]) == (0.5, "True")
    assert "empty" in second["error"]
    assert sorted(path.name for path in out.iterdir()) == ["predictions.csv", "predictions.json"]


def test_a_row_is_there_before_the_table_is_closed_and_a_line_cut_off_is_none(
    tmp_path: Path,
) -> None:
    with open_table(tmp_path) as add:
        add(GOOD)
        assert read_rows(tmp_path) == {"a.png": GOOD}
        killed = (tmp_path / "predictions.jsonl").read_bytes()
    (tmp_path / "predictions.json").unlink()
    (tmp_path / "predictions.jsonl").write_bytes(killed + b'\n{"name": "b.p')
    with open_table(tmp_path) as add:
        add(BAD | {"name": "c.png"})
        assert list(read_rows(tmp_path)) == ["a.png", "c.png"]
    assert list(read_rows(tmp_path)) == ["a.png", "c.png"]
    assert not (tmp_path / "predictions.jsonl").exists()


@pytest.mark.skipif(os.name == "nt", reason="folders are held as POSIX does")
def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    with open_table(tmp_path) as add:
        add(GOOD)
        with pytest.raises(UsageError, match="Another process is writing"), open_table(tmp_path):
            pass
        add(BAD)
    assert list(read_rows(tmp_path)) == ["a.png", "b.png"]


def test_rows_of_other_options_are_named(tmp_path: Path) -> None:
    rows = {"a.png": GOOD, "b.png": BAD}
    check_options(tmp_path, rows, {"weights": "x@1", "tta": True})
    with pytest.raises(UsageError, match=r"with other options \(fill holes\).*--overwrite"):
        check_options(tmp_path, rows, {"weights": "x@1", "tta": True, "fill_holes": False})


def test_a_table_of_another_origin_is_not_replaced(tmp_path: Path) -> None:
    assert read_rows(tmp_path) == {}
    for text in ("", "[]", '{"images": [1]}', '{"images": [{}]}', "\xff"):
        (tmp_path / "predictions.json").write_text(text, encoding="latin-1")
        with pytest.raises(EgeunetError, match="move it away"):
            read_rows(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"images": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"images": [{"name": "a", "box": 5}]}',
        '{"images": [{"name": ["a"]}]}',
        '{"images": 7}',
    ],
    ids=["deep", "deep-rows", "box", "name", "number"],
)
def test_a_table_with_other_json_gives_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "predictions.json").write_text(text)
    with pytest.raises(EgeunetError, match="move it away"):
        read_rows(tmp_path)
    (tmp_path / "predictions.json").unlink()
    (tmp_path / "predictions.jsonl").write_text(f"{text}\n{json.dumps(GOOD)}")
    assert read_rows(tmp_path)["a.png"] == GOOD


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_in_the_place_of_the_journal_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(EgeunetError, match="symbolic link"), open_table(out):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_cells_that_spreadsheets_would_run_are_quoted(tmp_path: Path) -> None:
    names = ["=1+1.png", "+a.png", "-a.png", "@a.png", "\ta.png", "a=1.png"]
    with open_table(tmp_path) as add:
        for name in names:
            add(GOOD | {"name": name, "area": -0.5})
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["name"] for row in rows) == sorted(
        name if name[0] == "a" else f"'{name}" for name in names
    )
    assert {row["area"] for row in rows} == {"-0.5"}
