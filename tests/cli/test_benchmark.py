import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from egeunet.cli.main import app
from egeunet.errors import EgeunetError
from egeunet.inference import weights


def egeunet(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "egeunet", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_onnx_file_is_one_row_of_a_table_and_of_two_files(
    run_folder: Path, tmp_path: Path
) -> None:
    file = run_folder / "model.onnx"
    done = egeunet("benchmark", file, "--rounds", 10, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "p95 ms" in done.stdout
    assert "torch" not in done.stdout
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    (row,) = report["rows"]
    assert row["name"] == "ONNX"
    assert row["size_kb"] == file.stat().st_size / 1000
    assert row["threads"]["1"]["p50_ms"] > 0
    assert report["environment"]["cpu"]
    assert report["scored_on"] is None
    assert (tmp_path / "out" / "benchmark.png").stat().st_size > 5000
    again = egeunet("benchmark", file, "-o", tmp_path / "out")
    assert again.returncode == 2
    assert "benchmark.json exists; give --overwrite" in again.stderr


def test_shipped_weights_that_were_changed_are_not_measured(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (run_folder / "model.onnx").read_bytes()
    (tmp_path / "isic2018.onnx").write_bytes(data[:-1])
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(data).hexdigest()}  isic2018.onnx\n")
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    done = CliRunner().invoke(app, ["benchmark"])
    assert isinstance(done.exception, EgeunetError)
    assert "is missing or was changed" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nothing",), 2, "no weights 'nothing'"),
        ((".",), 2, "not a run folder"),
        (("--rounds", 3), 2, "rounds"),
    ],
)
def test_wrong_words_give_one_sentence(words: tuple[object, ...], code: int, message: str) -> None:
    done = egeunet("benchmark", *words)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
