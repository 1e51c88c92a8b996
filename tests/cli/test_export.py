import json
from pathlib import Path

from typer.testing import CliRunner

from egeunet.cli.main import app
from egeunet.errors import UsageError


def test_the_files_and_how_near_they_come_to_torch(run_folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(run_folder), "-o", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    names = ["model.egeu", "model.onnx", "photo.onnx"]
    assert [Path(row["path"]) for row in rows] == [tmp_path / name for name in names]
    for row in rows:
        assert row["bytes"] == Path(row["path"]).stat().st_size
        assert row["iou"] > 0.995
        assert row["images"] == 4, "the test part of 16"


def test_the_run_folder_is_the_default_and_a_table_names_each_file(run_folder: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(run_folder), "-f", "onnx-fp16"])
    assert done.exit_code == 0, done.output
    assert (run_folder / "model-fp16.onnx").is_file()
    assert "model-fp16.onnx" in done.stdout


def test_files_that_exist_are_replaced_only_if_told(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.onnx").write_bytes(b"of another run")
    words = ["export", str(run_folder), "-o", str(tmp_path)]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, UsageError)
    assert "photo.onnx exists; give --overwrite" in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.onnx"]
    assert (tmp_path / "photo.onnx").read_bytes() == b"of another run"
    assert CliRunner().invoke(app, [*words, "--overwrite"]).exit_code == 0
    assert (tmp_path / "photo.onnx").stat().st_size > 1000


def test_wrong_words_are_named(run_folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(run_folder), "-f", "tflight"])
    assert isinstance(done.exception, UsageError)
    assert "'tflight'" in str(done.exception)
    done = CliRunner().invoke(app, ["export", str(tmp_path)])
    assert isinstance(done.exception, UsageError)
    assert "not a run folder" in str(done.exception)
