"""`egeunet demo`: it runs on a dataset, again and again, and touches nobody's files."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from egeunet.cli.demo import MARKER
from egeunet.cli.main import app
from egeunet.data.synthetic import write_dataset
from egeunet.errors import UsageError


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "skin", 4, size=(32, 32))
    words, before = ["demo", "--data", str(data)], sorted(data.rglob("*"))
    with pytest.raises(UsageError, match="has other files"):
        CliRunner().invoke(app, [*words, "--output", str(data)], catch_exceptions=False)
    assert sorted(data.rglob("*")) == before


def test_a_dataset_that_an_earlier_demo_drew_is_not_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_dataset(tmp_path / "runs" / "demo" / "synthetic", 4, size=(32, 32))
    (tmp_path / "runs" / "demo" / MARKER).touch()
    with pytest.raises(UsageError, match="would be erased"):
        CliRunner().invoke(app, ["demo", "--data", str(data)], catch_exceptions=False)
    assert data.is_dir()


@pytest.mark.slow
def test_it_runs_twice_and_leaves_what_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGEUNET_CACHE", str(tmp_path / "cache"))
    data, out = write_dataset(tmp_path / "skin #1", 20, size=(32, 32)), tmp_path / "demo: here"
    words = ["demo", "--data", str(data), "--output", str(out), "--epochs", "1"]
    for _ in range(2):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    assert (out / "demo.png").is_file()
    assert (out / "run" / "model.onnx").is_file()
    assert len(list((out / "masks").glob("*_mask.png"))) == 4
