import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import egeunet
from egeunet.errors import EgeunetError, UsageError
from egeunet.inference.result import Result


@pytest.fixture
def result() -> Result:
    """A square of 64×64 of 256×256, sure by 0.9 inside and 0.9 outside; the photo is larger."""
    scores = np.full((256, 256), 0.1, dtype=np.float32)
    scores[64:128, 128:192] = 0.9
    return Result(np.full((512, 1024, 3), 180, np.uint8), scores, source="a.jpg")


@pytest.fixture
def classes() -> Result:
    """Three bands of 10 rows each, one per class, at the network's own size."""
    scores = np.full((3, 30, 20), 0.1, dtype=np.float32)
    for k in range(3):
        scores[k, 10 * k : 10 * k + 10] = 0.8
    names = ("skin", "body", "core")
    return Result(np.zeros((30, 20, 3), np.uint8), scores, classes=names)


def test_everything_is_at_the_photos_size(result: Result) -> None:
    assert result.probability.shape == (512, 1024)
    assert result.probability.dtype == np.float32
    assert result.mask.shape == (512, 1024)
    assert result.mask.dtype == bool
    assert result.mask[130:254, 514:766].all()
    assert result.box == (512, 128, 768, 256)
    assert result.area_pixels == result.mask.sum()
    assert result.area == result.area_pixels / (512 * 1024)
    assert result.area == pytest.approx(1 / 16, rel=0.01)
    assert len(result.contours) == 1


def test_the_threshold_is_the_first_probability_inside() -> None:
    scores = np.array([[0.3, 0.5, 0.7]], dtype=np.float32)
    photo = np.zeros((1, 3, 3), np.uint8)
    assert Result(photo, scores).mask.tolist() == [[False, True, True]]
    assert Result(photo, scores, threshold=0.7).mask.tolist() == [[False, False, True]]


def test_an_empty_mask() -> None:
    result = Result(np.zeros((9, 7, 3), np.uint8), np.zeros((8, 8), np.float32))
    assert result.box is None
    assert result.area == 0
    assert result.contours == []
    assert result.to_dict()["box"] is None
    assert result.overlay().size == (7, 9)
    assert "box=None" in repr(result)


def test_to_dict_is_json(result: Result) -> None:
    values = json.loads(result.to_json())
    assert values == result.to_dict()
    assert values["source"] == "a.jpg"
    assert (values["width"], values["height"]) == (1024, 512)
    assert values["box"] == [512, 128, 768, 256]
    assert values["area_pixels"] == result.area_pixels
    assert values["threshold"] == 0.5
    assert np.array_equal(values["contours"][0], result.contours[0])
    assert "contours" not in result.to_dict(contours=False)


def test_save_writes_zeros_and_255_that_read_back_as_the_mask(
    result: Result, tmp_path: Path
) -> None:
    path = result.save(tmp_path / "new" / "mask.png")
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(image), result.mask * np.uint8(255))
    assert [file.name for file in path.parent.iterdir()] == ["mask.png"]


def test_save_refuses_a_format_that_loses_and_a_place_that_is_none(
    result: Result, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"end in \.png"):
        result.save(tmp_path / "mask.jpg")
    (tmp_path / "file").touch()
    with pytest.raises(EgeunetError, match="Cannot write"):
        result.save(tmp_path / "file" / "mask.png")


def test_overlay_wants_an_opacity(result: Result) -> None:
    assert result.overlay().size == (1024, 512)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="opacity"):
            result.overlay(opacity=wrong)


def test_several_classes(classes: Result, tmp_path: Path) -> None:
    assert classes.probability.shape == (3, 30, 20)
    assert classes.mask.dtype == np.uint8
    np.testing.assert_array_equal(
        classes.mask, np.repeat(np.repeat([[0], [1], [2]], 10, axis=0), 20, axis=1)
    )
    assert classes.area == pytest.approx(2 / 3)
    assert classes.box == (0, 10, 20, 30)
    values = classes.to_dict()
    assert values["areas"] == pytest.approx({"skin": 1 / 3, "body": 1 / 3, "core": 1 / 3})
    assert "threshold" not in values
    with Image.open(classes.save(tmp_path / "mask.png")) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), classes.mask)
        colours = {tuple(colour) for colour in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert len(colours) == 3
    assert len(np.unique(np.asarray(classes.overlay()).reshape(-1, 3), axis=0)) >= 3


def test_the_mask_of_several_classes_is_the_most_probable_one_in_every_band(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = np.random.default_rng(0).random((3, 16, 16), dtype=np.float32)
    monkeypatch.setattr("egeunet.inference.preprocess._VALUES", 3 * 90 * 7)
    result = Result(np.zeros((100, 90, 3), np.uint8), scores, classes=("a", "b", "c"))
    agree = result.mask == result.probability.argmax(axis=0)
    assert agree.mean() > 0.999, "all but ties up to rounding"


def test_notebooks_show_a_small_png(result: Result) -> None:
    with Image.open(io.BytesIO(result._repr_png_())) as image:
        assert image.format == "PNG"
        assert image.size == (640, 320)


def test_show_opens_a_viewer_outside_notebooks(
    result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image.size))
    result.show()
    assert shown == [(1024, 512)]


def test_plot_draws_into_axes(result: Result) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = plt.subplots(1, 2)[1]
    assert result.plot(axes[1]) is axes[1]
    assert "lesion" in axes[1].get_title()
    assert len(axes[1].images) == 1
    assert len(result.plot().images) == 1
    plt.close("all")


def test_a_list_of_results_as_a_data_frame(result: Result, classes: Result) -> None:
    pytest.importorskip("pandas")
    frame = egeunet.to_dataframe([result, classes])
    assert list(frame["width"]) == [1024, 20]
    assert frame["area"][0] == result.area
    assert "contours" not in frame
