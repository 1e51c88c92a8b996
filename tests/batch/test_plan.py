"""Plans are the same for the same archive, and nothing goes on with another one."""

import os
import re
import shutil
import tarfile
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from egeunet.batch.plan import (
    PLAN,
    check_places,
    compare_plan,
    plan_lines,
    plan_shards,
    read_shard_line,
    write_plan,
)
from egeunet.batch.storage import Folder
from egeunet.errors import EgeunetError, UsageError

HEADER = {"version": "1", "inputs": ["x"], "weights": "w@0", "shard_size": 2, "masks": False}


def open_plan(output, header, shards):
    lines = plan_lines(header, shards)
    offsets = compare_plan(output, lines)
    return write_plan(output, lines) if offsets is None else offsets


def plan(output, shards, **changes):
    return open_plan(Folder(str(output)), HEADER | changes, iter(shards))


def test_photos_come_in_order_from_all_folders_and_the_last_shard_is_smaller(images):
    root = images[0].parents[1]
    shards = list(plan_shards([str(root)], 4, "out"))
    assert [len(shard["images"]) for shard in shards] == [4, 4, 1]
    assert [path for shard in shards for path in shard["images"]] == [str(p) for p in images]


def test_hidden_files_links_to_folders_and_other_files_are_left_out(images, tmp_path):
    for name in (".hidden.jpg", "notes.txt", "._a.jpg", "b.JPG"):
        shutil.copy(images[0], tmp_path / name)
    (tmp_path / "link").symlink_to(images[0].parent)
    (tmp_path / ".folder").mkdir()
    shutil.copy(images[0], tmp_path / ".folder" / "c.jpg")
    assert list(plan_shards([str(tmp_path)], 4, "out")) == [{"images": [f"{tmp_path}/b.JPG"]}]


def test_a_glob_names_files(images):
    pattern = f"{images[0].parents[1]}/*/00[0-3].jpg"
    (shard,) = plan_shards([pattern], 10, "out")
    assert shard["images"] == sorted(
        str(p) for p in images if p.stem in ["000", "001", "002", "003"]
    )


def test_what_two_globs_find_is_taken_once_and_the_output_left_out(images):
    root, folder = images[0].parents[1], images[0].parent
    others = images[-1].parent  # a folder that the first one looks into, and a image of it
    inputs = [f"{root}/**/*.jpg", f"{root}/*/00*.jpg", str(others), str(images[-1])]
    (shard,) = plan_shards(inputs, 100, str(folder))
    assert shard["images"] == sorted(str(path) for path in images if path.parent != folder)


def test_a_glob_of_a_file_uri(images):
    (shard,) = plan_shards([f"file://{images[0].parent}/*.jpg"], 100, "out")
    names = sorted(path.name for path in images if path.parent == images[0].parent)
    assert [path.rpartition("/")[2] for path in shard["images"]] == names


def test_tars_and_row_groups_are_never_cut(images, tmp_path):
    tarfile.open(tmp_path / "a.tar.gz", "w:gz").close()
    table = pa.table({"id": list(range(10)), "image": [b"x"] * 10, "label": [0] * 10})
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=3)
    shutil.copy(images[0], tmp_path / "c.jpg")
    file = f"{tmp_path}/b.parquet"
    assert list(plan_shards([str(tmp_path)], 4, "out")) == [
        {"tar": f"{tmp_path}/a.tar.gz"},
        {"parquet": file, "groups": [0, 2], "row": 0},
        {"parquet": file, "groups": [2, 4], "row": 6},
        {"images": [f"{tmp_path}/c.jpg"]},
    ]


def test_what_cannot_be_planned_is_said_in_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="There is no file or folder"):
        list(plan_shards([f"{tmp_path}/none"], 4, "out"))
    pq.write_table(pa.table({"image": [1], "text": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match=r"no column of images.*found image, text"):
        list(plan_shards([str(tmp_path)], 4, "out"))
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(EgeunetError, match=r"x\.parquet is not a Parquet file that can be read"):
        list(plan_shards([str(tmp_path)], 4, "out"))
    with pytest.raises(UsageError, match="cannot be opened"):
        list(plan_shards(["nonsense://x"], 4, "out"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_may_not_be_read_is_an_error(tmp_path):
    (tmp_path / "x").mkdir(mode=0)
    with pytest.raises(EgeunetError, match="cannot be read"):
        list(plan_shards([str(tmp_path)], 4, "out"))


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["a", "a/"], "o", "named twice"),
        (["a", "a/b"], "o", "a/b lies in a"),
        (["s3://x/a/b", "s3://x/a"], "o", "s3://x/a/b lies in s3://x/a"),
        (["a"], "a/o", "a/o lies in a"),
        (["."], "o", "o lies in"),
        (["a"], "a", "is an input"),
    ],
)
def test_places_that_hold_one_another_are_refused(inputs, output, message):
    with pytest.raises(UsageError, match=message):
        check_places(inputs, output)


def test_neighbours_with_a_common_beginning_are_taken():
    check_places(["a", "a2", "s3://x/a", "s3://x/ab"], "a-out")


def test_a_plan_is_read_back_line_by_line(tmp_path):
    shards = [{"images": ["ä\n.jpg", os.fsdecode(b"\xff.jpg")]}, {"tar": "x.tar"}]
    written = plan(tmp_path / "out", shards)
    assert plan(tmp_path / "out", shards) == written
    folder = Folder(str(tmp_path / "out"))
    assert [read_shard_line(folder, start, stop) for start, stop in pairwise(written)] == shards


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "w@1"}, "(weights):"),
        ({"shard_size": 3, "masks": True}, "(shard size, masks):"),
        ({"inputs": ["y"]}, "(inputs):"),
        ({"version": "2"}, "(version):"),
    ],
)
def test_other_settings_are_refused(tmp_path, changes, message):
    plan(tmp_path, [{"tar": "x"}])
    with pytest.raises(UsageError, match=re.escape(message)):
        plan(tmp_path, [{"tar": "x"}], **changes)


@pytest.mark.parametrize("shards", [["x"], ["x", "z"], ["x", "y", "z"], []])
def test_other_photos_are_refused(tmp_path, shards):
    plan(tmp_path, [{"tar": "x"}, {"tar": "y"}])
    with pytest.raises(UsageError, match="images"):
        plan(tmp_path, [{"tar": name} for name in shards])


def test_without_a_photo_no_folder_is_made(tmp_path):
    with pytest.raises(UsageError, match="No images were found"):
        plan(tmp_path / "out", [])
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / PLAN).write_text("hello\n")
    with pytest.raises(UsageError, match="is damaged"):
        plan(tmp_path, [{"tar": "x"}])
    (tmp_path / PLAN).unlink()
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part-00000.parquet").touch()
    with pytest.raises(UsageError, match="has parts but no plan"):
        plan(tmp_path, [{"tar": "x"}])
    with pytest.raises(UsageError, match="is a file"):
        Folder(str(Path(tmp_path, "parts", "part-00000.parquet")))
