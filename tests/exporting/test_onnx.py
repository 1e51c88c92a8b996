import json
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from egeunet.data.synthetic import draw
from egeunet.errors import EgeunetError, UsageError
from egeunet.exporting.formats import FORMATS, export_run, write_format
from egeunet.exporting.onnx import (
    around_photo,
    core_graph,
    describe,
    photo_graph,
)
from egeunet.exporting.parity import make_reference
from egeunet.inference.onnx_session import check_graph, open_session
from egeunet.inference.preprocess import to_input, upsample
from egeunet.inference.segmenter import Segmenter
from egeunet.inference.weights import SHIPPED, parse_metadata
from egeunet.models import list_models
from egeunet.training.run import load_run


def open_graph(graph) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph.SerializeToString())


@pytest.mark.parametrize("model", ["egeunet", "malunet"])
def test_core_gives_the_logits_of_torch(make_run, model) -> None:
    run = make_run(model)
    image = np.stack([to_input(draw(seed, (64, 64))[0], (64, 64)) for seed in range(3)])
    (given,) = open_graph(core_graph(run)).run(["logits"], {"image": image})
    with torch.no_grad():
        expected = run.model(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(given, expected, atol=2e-4 * max(1, np.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_the_export_of_every_model_opens_and_gives_its_logits(make_run, name) -> None:
    run = make_run(name)
    form = next(form for form in FORMATS if form.file == "model.onnx")
    exported = write_format(form, run, run.folder, make_reference(run))
    session = open_session(exported.path, exported.path.read_bytes(), ["CPUExecutionProvider"])
    assert check_graph(session, exported.path).model == name
    image = np.random.default_rng(0).uniform(0, 255, (3, 3, 64, 64)).astype(np.float32)
    (given,) = session.run(["logits"], {"image": image})
    with torch.no_grad():
        expected = run.model(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(given, expected, atol=2e-4 * max(1, np.abs(expected).max()))


@pytest.fixture(scope="module")
def around(make_run):
    """Of so many classes a run and the session of its graph from photo to probability."""

    @cache
    def of(num_classes=1):
        run = load_run("isic2018") if num_classes == 1 else make_run(num_classes=num_classes)
        return run, open_graph(photo_graph(run))

    return of


def test_dynamic_takes_any_size_in_steps_of_32_and_the_segmenter_names_another(make_run) -> None:
    run = make_run()
    (dynamic,) = export_run(run, formats=["onnx-dynamic"])
    session = onnxruntime.InferenceSession(dynamic.path)
    rng = np.random.default_rng(0)
    for shape in ((1, 3, 64, 64), (2, 3, 96, 64), (1, 3, 64, 256)):
        image = rng.uniform(0, 255, shape).astype(np.float32)
        (given,) = session.run(["logits"], {"image": image})
        with torch.no_grad():
            expected = run.model(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(given, expected, atol=2e-4 * max(1, np.abs(expected).max()))

    with pytest.raises(EgeunetError, match=r"Cannot open .*dynamic\.onnx: .*Use model\.onnx of"):
        Segmenter(dynamic.path)


def test_a_model_whose_graph_has_one_size_is_not_exported_as_dynamic(make_run) -> None:
    with pytest.raises(UsageError, match=r"made for one image size. Use the format onnx"):
        export_run(make_run("ultralight_vm_unet"), formats=["onnx-dynamic"])


@pytest.mark.parametrize(
    ("size", "num_classes"),
    [((64, 64), 1), ((240, 320), 1), ((900, 70), 1), ((40, 50), 1), ((1, 1), 1), ((150, 200), 3)],
)
def test_photo_gives_the_probability_at_the_photos_size(around, size, num_classes) -> None:
    run, session = around(num_classes)
    photo = draw(3, (max(16, size[0]), max(16, size[1])))[0][: size[0], : size[1]].astype(float)
    # Full contrast: min-max normalization of a dark image amplifies differences of rounding.
    photo = ((photo - photo.min()) / max(1, np.ptp(photo)) * 255).round().astype(np.uint8)
    (given,) = session.run(["probability"], {"photo": photo})
    with torch.no_grad():
        logits = run.model(torch.from_numpy(to_input(photo, run.recipe.data.shape)[None]))[0]
    scores = (logits.sigmoid() if num_classes == 1 else logits.softmax(0)).numpy()
    expected = np.stack([upsample(plane, size) for plane in scores])
    assert given.shape == (size if num_classes == 1 else (3, *size))
    given = given.reshape(expected.shape)
    # A photo smaller than the map: the two libraries weigh the pixels at its rim differently.
    np.testing.assert_allclose(given, expected, atol=0.05 if min(size) > 1 else 0.1)
    assert np.abs(given - expected).mean() < 0.005 or size == (1, 1)


def test_the_shipped_weights_take_a_photo_as_the_segmenter_does() -> None:
    session = open_graph(around_photo(onnx.load(SHIPPED / "isic2018.onnx")))
    photo = draw(8, (300, 400))[0]
    result = Segmenter("isic2018")(photo)
    probability, scores = session.run(["probability", "scores"], {"photo": photo})
    # The two libraries round a few bytes differently when they shrink a photo.
    np.testing.assert_allclose(scores[0, 0], result.scores, atol=5e-3)
    np.testing.assert_allclose(probability, result.probability, atol=5e-3)


def test_a_photo_of_one_colour(around) -> None:
    run, session = around()
    photo = np.full((50, 70, 3), 93, np.uint8)
    (given,) = session.run(["probability"], {"photo": photo})
    with torch.no_grad():
        expected = run.model(torch.zeros(1, 3, *run.recipe.data.shape)).sigmoid()[0, 0].numpy()
    np.testing.assert_allclose(given.mean(), upsample(expected, (50, 70)).mean(), atol=0.01)


def test_metadata_is_what_the_segmenter_reads(make_run) -> None:
    run = make_run(num_classes=3)
    (run.folder / "metrics.json").write_text(
        json.dumps({"selected": {"val_dice": 0.9, "epoch": 3}, "selected_on": "validation"})
    )
    entries = describe(run, format="onnx")
    found = parse_metadata(entries, "x")
    assert found.size == (64, 64)
    assert len(found.classes) == 3
    assert json.loads(entries["scores"]) == {"val_dice": 0.9}
    assert entries["scores_on"] == "validation"
    assert entries["format"] == "onnx"
    assert entries["recipe_hash"] == run.recipe.hash()
    assert "not a medical device" in entries["intended_use"]
