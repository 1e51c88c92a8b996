import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def egeunet(tmp_path):
    """Run `egeunet data …` in an empty folder."""

    def run(*words: str, data: Path | None = None) -> subprocess.CompletedProcess:
        environment = {key: value for key, value in os.environ.items() if key != "EGEUNET_DATA"}
        if data:
            environment["EGEUNET_DATA"] = str(data)
        return subprocess.run(
            [sys.executable, "-m", "egeunet", "data", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture
def drawn(egeunet, tmp_path) -> Path:
    done = egeunet("synthesize", "-o", "drawn", "--count", "12", "--height", "48", "--width", "64")
    assert (done.returncode, done.stdout) == (0, "drawn\n"), done.stderr
    return tmp_path / "drawn"


def test_list_names_every_dataset_with_its_license(egeunet):
    table = egeunet("list").stdout
    rows = json.loads(egeunet("list", "--json").stdout)
    assert {row["name"] for row in rows} >= {"isic2017", "isic2018", "ph2", "kvasir_seg"}
    for row in rows:
        assert row["name"] in table
        assert row["license"]


def test_check_passes_a_good_set_and_fails_a_broken_one(egeunet, drawn):
    good = egeunet("check", "drawn")
    assert good.returncode == 0
    assert "12 of 12 pairs can be read" in good.stdout
    assert "no errors" in good.stdout
    photo = drawn / "images/synthetic_00003.jpg"
    photo.write_bytes(photo.read_bytes()[:500])
    bad = egeunet("check", "drawn")
    assert bad.returncode == 1
    assert "unreadable image" in bad.stdout
    assert "synthetic_00003.jpg" in bad.stdout
    report = egeunet("check", "drawn", "--json")
    assert report.returncode == 1
    (finding,) = json.loads(report.stdout)["findings"]
    assert finding["ids"] == ["synthetic_00003"]


def test_split_writes_the_same_list_to_stdout_and_to_a_file_and_replaces_none(egeunet, drawn):
    shown = egeunet("split", "drawn", "--protocol", "holdout").stdout
    rows = [line.split() for line in shown.splitlines() if not line.startswith("#")]
    parts = [part for _, part in rows]
    assert {part: parts.count(part) for part in parts} == {"train": 8, "val": 1, "test": 3}
    assert egeunet("split", "drawn", "-o", "list.txt").returncode == 0
    path = drawn.parent / "list.txt"
    assert path.read_text() == shown
    again = egeunet("split", "drawn", "--seed", "1", "-o", "list.txt")
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert egeunet("split", "drawn", "--seed", "1", "-o", "list.txt", "--overwrite").returncode == 0
    assert path.read_text() != shown


def test_synthesize_replaces_nothing(egeunet, drawn):
    again = egeunet("synthesize", "-o", "drawn")
    assert again.returncode == 2
    assert "not empty" in again.stderr


def test_download_says_where_to_get_what_a_form_guards(egeunet, tmp_path):
    done = egeunet("download", "ph2", data=tmp_path)
    assert done.returncode == 1
    assert "www.fc.up.pt" in done.stderr
    assert "PH2 Dataset images" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("check", "isic2081"), 2, "did you mean isic2018?"),
        (("check", "isic2018"), 1, "EGEUNET_DATA"),
        (("check", "no/where"), 1, "no folder"),
        (("check", "drawn", "--protocol", "mine"), 2, "mine"),
        (("download", "isic2018"), 2, "EGEUNET_DATA"),
        (("download", "isic2018", "-o", "x", "--mirror", "ftp://a.b/"), 2, "Only http and https"),
        (("synthesize", "-o", "x", "--num-classes", "2"), 2, "1 or 3 classes"),
    ],
)
def test_mistakes_are_one_sentence_with_the_right_exit_code(words, code, message, egeunet):
    done = egeunet(*words)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_check_names_hostile_files_within_little_memory(tmp_path):
    """A sparse file of 300 GB, and images that would decode to gigabytes."""
    resource = pytest.importorskip("resource")
    for name in ("images", "masks"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for sample in ("good", "sparse", "wide", "damaged"):
            Image.new("L", (32, 24), 255).save(tmp_path / "set" / name / f"{sample}.png")
    with (tmp_path / "set/images/sparse.png").open("r+b") as file:
        file.truncate(300 * 10**9)
    Image.new("L", (30_000_000, 1)).save(tmp_path / "set/images/wide.png")
    Image.new("1", (60_000, 60_000)).save(tmp_path / "set/masks/wide.png")
    (tmp_path / "set/masks/damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\xff" * 99)
    done = subprocess.run(
        [sys.executable, "-m", "egeunet", "data", "check", "set", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9, 3 * 10**9)),
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    errors = {
        (finding["kind"], finding["ids"][0])
        for finding in json.loads(done.stdout)["findings"]
        if finding["kind"].startswith("unreadable")
    }
    assert errors == {
        ("unreadable image", "sparse"),
        ("unreadable image", "wide"),
        ("unreadable mask", "wide"),
        ("unreadable mask", "damaged"),
    }
