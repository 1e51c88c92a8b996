import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import egeunet
from egeunet.cli.main import app
from egeunet.data.synthetic import write_dataset
from egeunet.errors import UsageError


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """What a training of one epoch leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EGEUNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        samples = write_dataset(tmp_path_factory.mktemp("samples"), 16, size=(32, 32))
        return egeunet.train(
            "egeunet-synthetic",
            "options.widths=[8, 8, 8, 8, 8, 8]",
            *("data.size=32", "trainer.epochs=1", "trainer.batch_size=8"),
            *(f"data.root={samples}", f"out={tmp_path_factory.mktemp('runs') / 'x'}"),
        )


def test_the_files_and_how_near_they_come_to_torch(run_folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(run_folder), "-o", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [Path(row["path"]) for row in rows] == [tmp_path / "model.onnx", tmp_path / "photo.onnx"]
    for row in rows:
        assert row["bytes"] == Path(row["path"]).stat().st_size
        assert row["iou"] > 0.995
        assert row["photos"] == 16


def test_the_run_folder_is_the_default_and_a_table_names_each_file(run_folder: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(run_folder), "-f", "onnx-fp16"])
    assert done.exit_code == 0, done.output
    assert (run_folder / "model-fp16.onnx").is_file()
    assert "model-fp16.onnx" in done.stdout


def test_wrong_words_are_named(run_folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(run_folder), "-f", "tflight"])
    assert isinstance(done.exception, UsageError)
    assert "'tflight'" in str(done.exception)
    done = CliRunner().invoke(app, ["export", str(tmp_path)])
    assert isinstance(done.exception, UsageError)
    assert "not a run folder" in str(done.exception)
