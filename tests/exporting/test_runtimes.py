"""Formats of other runtimes, each run by its own."""

import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import egeunet
from egeunet.data.synthetic import draw
from egeunet.errors import MissingExtraError
from egeunet.exporting.runtimes import file_size, open_network
from egeunet.inference.preprocess import to_input
from egeunet.training.run import load_run

RUNTIMES = {
    "openvino": "openvino",
    "litert": "litert_torch",
    "executorch": "executorch",
    "ncnn": "pnnx",
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in RUNTIMES if name != "openvino"]


def skip_without(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


@pytest.mark.parametrize("name", ["openvino", *SLOW])
def test_a_runtime_gives_the_logits_of_torch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a batch, and on any number of threads."""
    skip_without(RUNTIMES[name])
    monkeypatch.setenv("EGEUNET_DATA", str(tmp_path))
    (one,) = egeunet.export("isic2018", tmp_path / "out", formats=[name])
    assert one.parity.iou > 0.9999
    written = [path for path in (tmp_path / "out").iterdir() if path.suffix != ".json"]
    assert file_size(one.path) == sum(path.stat().st_size for path in written)
    images = np.stack([to_input(draw(seed, (240, 320))[0]) for seed in range(3)])
    with torch.no_grad():
        expected = load_run("isic2018").model(torch.from_numpy(images)).numpy()
    for threads in (1, 2):
        given = open_network(one.path, threads)(images)
        np.testing.assert_allclose(given, expected, atol=1e-4 * np.abs(expected).max())


def test_openvino_files_hold_the_metadata(tmp_path: Path, monkeypatch) -> None:
    openvino = pytest.importorskip("openvino")
    monkeypatch.setenv("EGEUNET_DATA", str(tmp_path))
    (one,) = egeunet.export("isic2018", tmp_path / "out", formats=["openvino"])
    model = openvino.Core().read_model(one.path)
    assert model.get_rt_info(["egeunet", "model"]).astype(str) == "egeunet"
    assert "Research use only" in model.get_rt_info(["egeunet", "intended_use"]).astype(str)


@pytest.mark.slow
def test_litert_files_hold_the_metadata(tmp_path: Path, monkeypatch) -> None:
    skip_without("litert_torch")
    monkeypatch.setenv("EGEUNET_DATA", str(tmp_path))
    (one,) = egeunet.export("isic2018", tmp_path / "out", formats=["litert"])
    with zipfile.ZipFile(one.path) as file:
        entries = json.loads(file.read("egeunet.json"))
    assert entries["model"] == "egeunet"
    assert json.loads(entries["parity"]) == one.parity.to_dict()


@pytest.mark.slow
def test_a_core_ml_package_is_written_and_not_run(tmp_path: Path, monkeypatch, caplog) -> None:
    skip_without("coremltools")
    monkeypatch.setenv("EGEUNET_DATA", str(tmp_path))
    (one,) = egeunet.export("isic2018", tmp_path / "out", formats=["coreml"])
    assert one.path.is_dir()
    assert (one.parity is None) == (sys.platform != "darwin")


def test_a_missing_converter_names_its_extra(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pnnx", None)
    monkeypatch.setenv("EGEUNET_DATA", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"pip install 'egeunet\[ncnn\]'"):
        egeunet.export("isic2018", tmp_path / "out", formats=["ncnn"])
