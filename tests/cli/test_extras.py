import json
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = """
import sys
for name in ("torch", "matplotlib", "yaml", "scipy", "lightning_fabric", "fsspec",
             "fastapi", "uvicorn", "pyarrow", "onnx"):
    sys.modules[name] = None  # importing it fails as if it were not installed
from egeunet.cli.main import main
main()
"""


def egeunet_alone(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command as an installation without extras does."""
    command = [sys.executable, "-c", BLOCKED, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("train", "egeunet-isic2018"), "train"),
        (("evaluate", "isic2018", "--data", "my"), "train"),
        (("export", "runs/x"), "train"),
        (("models",), "train"),
        (("report", "results"), "train"),
        (("demo",), "train"),
        (("serve",), "serve"),
        (("batch", "photos", "-o", "out"), "batch"),
    ],
)
def test_a_command_names_the_extra_it_takes(
    words: tuple[object, ...], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    done = egeunet_alone(*words)
    assert done.returncode == 1
    assert done.stderr.endswith(f" is not installed. Run: pip install 'egeunet[{extra}]'.\n")


def test_the_advice_holds_for_an_install_from_source() -> None:
    """Without an index, pip finds the extra's libraries through the installed package alone."""
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--dry-run", "egeunet[serve]"]
    subprocess.run(command, check=True, capture_output=True)


def test_the_network_is_timed_without_an_extra(run_folder: Path) -> None:
    done = egeunet_alone("benchmark", run_folder / "model.onnx", "--rounds", 10)
    assert done.returncode == 0, done.stderr
    assert "p95 ms" in done.stdout


def test_without_words_the_shipped_network_is_timed_and_missing_rows_are_told() -> None:
    done = egeunet_alone("benchmark", "--rounds", 10, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["weights"] == "isic2018"
    assert [row["name"] for row in report["rows"]] == ["engine", "ONNX"]
    assert "other formats are left out: torch is not installed" in done.stderr


def test_the_weights_are_told_of_without_an_extra() -> None:
    done = egeunet_alone("weights")
    assert done.returncode == 0, done.stderr
    assert "isic2018" in done.stdout
