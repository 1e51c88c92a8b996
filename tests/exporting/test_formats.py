import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import egeunet
from egeunet.data.datasets import open_dataset
from egeunet.engine.model import EngineModel
from egeunet.errors import EgeunetError, UsageError
from egeunet.exporting.formats import FORMATS, export_run
from egeunet.inference.image_io import read_image
from egeunet.inference.preprocess import to_input
from egeunet.training.run import load_run


def test_formats_of_a_trained_run(trained: Path, tmp_path: Path) -> None:
    # The others have tests of their own; a network of two epochs is too rough to be rounded.
    files = egeunet.export(trained, tmp_path)
    assert [one.path.name for one in files] == ["model.egeu", "model.onnx", "photo.onnx"]
    assert len([*tmp_path.iterdir()]) == 3
    for one in files:
        if one.path.suffix == ".egeu":
            entries = EngineModel(one.path.read_bytes()).metadata
        else:
            session = onnxruntime.InferenceSession(str(one.path))
            entries = session.get_modelmeta().custom_metadata_map
        assert json.loads(entries["parity"]) == one.parity.to_dict()
        assert entries["dataset"]
    exact = {one.path.name: one.parity for one in files}
    for name in ("model.egeu", "model.onnx"):
        assert exact[name].difference < 1e-3
        assert exact[name].iou > 0.999
    assert exact["photo.onnx"].iou > 0.995


def test_training_leaves_what_the_segmenter_opens(trained: Path) -> None:
    assert (trained / "model.onnx").is_file()
    assert (trained / "photo.onnx").is_file()
    segmenter = egeunet.Segmenter(trained, threads=1)
    photo = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    image = torch.from_numpy(to_input(photo, (64, 64))[None])
    with torch.no_grad():
        expected = load_run(trained).model(image).numpy()
    np.testing.assert_allclose(
        segmenter.logits(image.numpy()), expected, atol=2e-4 * np.abs(expected).max()
    )


def test_every_format_of_one_size_passes_the_check_of_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EGEUNET_DATA", str(tmp_path))
    opened = (".egeu", ".onnx")  # by `Segmenter`
    names = [form.name for form in FORMATS if form.file.endswith(opened) and "model" in form.file]
    for one in egeunet.export("isic2018", tmp_path / "out", formats=names):
        if one.path.name.startswith("model"):
            assert egeunet.Segmenter(one.path).metadata.size == (256, 256)


def test_without_the_data_drawn_images_are_compared_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EGEUNET_DATA", str(tmp_path))
    (one, _) = egeunet.export("isic2018", tmp_path / "out", formats=["onnx"])
    assert one.parity.of == "synthetic"
    assert "on synthetic images only: " in caplog.text
    told, shipped = egeunet.Segmenter(one.path).metadata, egeunet.Segmenter("isic2018").metadata
    assert told.scores == shipped.scores != {}
    assert told.scores_on == shipped.scores_on == "validation"


def test_an_unknown_format_names_the_known(trained: Path) -> None:
    with pytest.raises(UsageError, match=r"'onxx'.*engine-fp16"):
        egeunet.export(trained, formats=["onxx"])


def test_the_engine_is_for_egeunet_of_one_class(make_run) -> None:
    with pytest.raises(UsageError, match=r"engine runs EGE-UNet with one class.*format onnx"):
        export_run(make_run(num_classes=3), formats=["engine"])


class Forgetful(nn.Module):
    """Gives something else each time, so that no graph computes what it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x) + self.calls * 100.0


def test_a_graph_that_differs_is_not_kept(make_run) -> None:
    run = make_run(model=Forgetful().eval())
    (run.folder / "model.onnx").write_bytes(b"the one before")
    with pytest.raises(EgeunetError, match=r"model\.onnx.*differs from torch.*not kept"):
        export_run(run)
    assert [path.name for path in run.folder.iterdir()] == ["model.onnx"]
    assert (run.folder / "model.onnx").read_bytes() == b"the one before"


def test_on_real_photos_torch_core_photo_and_segmenter_agree(tmp_path, real_data) -> None:
    run = load_run("isic2018")
    export_run(run, tmp_path)
    segmenter = egeunet.Segmenter(tmp_path / "model.onnx", threads=1)
    photo_graph = onnxruntime.InferenceSession(str(tmp_path / "photo.onnx"))
    ious = []
    for sample in open_dataset("isic2018", real_data / "isic2018").samples[::200]:
        photo = read_image(sample.image)
        with torch.no_grad():
            logits = run.model(torch.from_numpy(to_input(photo)[None]))[0, 0].numpy()
        np.testing.assert_allclose(
            segmenter.logits(to_input(photo)[None])[0, 0], logits, atol=1e-3 * np.abs(logits).max()
        )
        mask = segmenter(sample.image).mask
        (probability,) = photo_graph.run(["probability"], {"photo": photo})
        other = probability >= 0.5
        ious.append((mask & other).sum() / max(1, (mask | other).sum()))
    assert np.mean(ious) > 0.995
