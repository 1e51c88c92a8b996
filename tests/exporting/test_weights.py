"""Shipped weights: how they are made, what lies in the package, and that nobody changed it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import egeunet
from egeunet.data.synthetic import draw
from egeunet.errors import EgeunetError, UsageError
from egeunet.files import sha256_file
from egeunet.inference.preprocess import to_input
from egeunet.inference.weights import SHIPPED
from egeunet.training.run import load_run
from research.cards import make_weights, write_sums

SOURCE = Path(egeunet.__file__).parent


@pytest.fixture(scope="module")
def package(trained: Path, tmp_path_factory) -> Path:
    """A copy of the package with weights of a small run in it, as `make weights` leaves it."""
    folder = tmp_path_factory.mktemp("site") / "egeunet"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    make_weights(trained, "isic2018", folder / "weights", folder.parent / "weights.jsonl")
    return folder


def run_python(package: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


OPEN = """
import egeunet, sys
assert egeunet.__file__.startswith(sys.path[1]), egeunet.__file__
segmenter = egeunet.Segmenter()
assert "torch" not in sys.modules
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(segmenter.metadata.model, int(peak[0]) / 1000)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
def test_a_segmenter_without_words_never_imports_torch_and_takes_little_memory(package) -> None:
    done = run_python(package, OPEN)
    assert done.returncode == 0, done.stderr
    model, peak = done.stdout.split()
    assert model == "egeunet"
    assert float(peak) < 150, "MB"


def test_one_changed_byte_is_one_sentence(package: Path, tmp_path: Path) -> None:
    changed = tmp_path / "egeunet"
    shutil.copytree(package, changed)
    file = changed / "weights" / "isic2018.egeu"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    code = "from egeunet.cli.main import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = ["predict", "-", "-o", "-"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "isic2018.egeu is missing or was changed" in line


def test_the_card_says_what_the_row_says(package: Path) -> None:
    weights = package / "weights"
    (row,) = map(json.loads, (package.parent / "weights.jsonl").read_text().splitlines())
    card = (weights / "isic2018.md").read_text()
    assert row["weights_sha256"] == sha256_file(weights / "isic2018.onnx")
    assert (row["split"], row["protocol"], row["selected_on"]) == ("test", "holdout", "validation")
    assert row["n"] == row["images"]["test"] > 0
    low, high = row["intervals"]["pooled"]["dice"]
    for words in (
        row["weights_sha256"],
        row["recipe_hash"],
        f"| DSC, pooled | {row['pooled']['dice']:.2%} | {low:.2%} – {high:.2%} |",
        f"{row['epochs']} epochs",
        "not a medical device",
        "## What it must not be used for",
    ):
        assert words in card


def test_the_checksums_are_those_of_sha256sum(package: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.egeu"):
        shutil.copy(package / "weights" / "isic2018.onnx", tmp_path / name)
    write_sums(tmp_path)
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert lines == [f"{sha256_file(tmp_path / name)}  {name}" for name in ("a.onnx", "b.egeu")]


def test_a_run_that_was_selected_on_the_test_split_is_not_shipped(
    trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "x")
    recipe = tmp_path / "x" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("protocol: holdout", "protocol: paper"))
    with pytest.raises(UsageError, match="protocol paper"):
        make_weights(tmp_path / "x", "x", tmp_path / "out", tmp_path / "rows.jsonl")
    assert not (tmp_path / "out").exists()


def test_what_is_shipped() -> None:
    files = sorted(SHIPPED.glob("*.onnx"))
    assert [file.stem for file in files] == ["isic2018", "kvasir"]
    photo, truth = draw(1, (240, 320))
    for file in files:
        assert file.stat().st_size < 300_000
        assert sha256_file(file) in file.with_suffix(".md").read_text(encoding="utf-8")
        result = egeunet.Segmenter(file.stem)(photo)
        assert result.mask.shape == truth.shape
        assert np.isfinite(result.scores).all()
        in_torch = SHIPPED / f"{file.stem}.safetensors"
        assert in_torch.stat().st_size < 300_000
        image = torch.from_numpy(to_input(photo))[None]
        with torch.no_grad():
            scores = egeunet.create_model(weights=file.stem)(image).sigmoid()[0, 0]
        np.testing.assert_allclose(scores, result.scores, atol=1e-4)
    sums = (SHIPPED / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    engine, torch_files = SHIPPED.glob("*.egeu"), SHIPPED.glob("*.safetensors")
    everything = sorted([*files, *engine, *torch_files])
    assert sums == [f"{sha256_file(file)}  {file.name}" for file in everything]


def test_shipped_weights_for_torch_are_verified(package: Path, monkeypatch) -> None:
    monkeypatch.setattr("egeunet.inference.weights.SHIPPED", package / "weights")
    assert load_run("isic2018").recipe.model == "egeunet"
    file = package / "weights" / "isic2018.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(EgeunetError, match="is missing or was changed"):
        egeunet.create_model(weights="isic2018")
