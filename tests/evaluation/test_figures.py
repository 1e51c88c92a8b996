import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from egeunet.errors import EgeunetError
from egeunet.evaluation.figures import (
    PREDICTION,
    TRUTH,
    contour_grid,
    save_figure,
    training_curves,
)

HEADER = "epoch,lr,train_loss,val_loss,val_iou,val_dice,seconds\n"


def pixels_of(path, colour):
    with Image.open(path) as picture:
        distance = np.abs(np.asarray(picture.convert("RGB")) / 255 - to_rgb(colour)).max(axis=2)
    return int((distance < 0.02).sum())


def photo(height, width):
    return np.full((height, width, 3), 180, np.uint8)


@pytest.fixture
def squares():
    truth, prediction = np.zeros((2, 48, 64), np.uint8)
    truth[10:30, 10:30] = 1
    prediction[12:40, 12:50] = 1
    return truth, prediction


def test_worst_cases_show_both_outlines(squares, tmp_path):
    truth, prediction = squares
    empty = np.zeros_like(truth)
    plain, marked = tmp_path / "plain.png", tmp_path / "marked.png"
    save_figure(contour_grid([photo(48, 64)], [empty], [empty], ["nothing"]), plain)
    save_figure(contour_grid([photo(48, 64)], [truth], [prediction], ["both"]), marked)
    for colour in (TRUTH, PREDICTION):
        assert pixels_of(marked, colour) > pixels_of(plain, colour) + 100


def test_an_outline_at_the_border_of_the_image_is_drawn(tmp_path):
    full, empty = np.ones((32, 32), np.uint8), np.zeros((32, 32), np.uint8)
    save_figure(contour_grid([photo(32, 32)], [empty], [empty], [""]), tmp_path / "empty.png")
    save_figure(contour_grid([photo(32, 32)], [full], [empty], [""]), tmp_path / "full.png")
    drawn, legend = (pixels_of(tmp_path / f"{name}.png", TRUTH) for name in ("full", "empty"))
    assert drawn > legend + 200


@pytest.mark.parametrize("count", [1, 5])
def test_grids_of_any_number_and_size(count, tmp_path):
    masks = [np.eye(20 + i, 30, dtype=np.uint8) * 2 for i in range(count)]
    images = [photo(20 + i, 30) for i in range(count)]
    names = [f"photo {i}\nJaccard 0.50" for i in range(count)]
    save_figure(contour_grid(images, masks, masks, names), tmp_path / "grid.png", dpi=40)
    with Image.open(tmp_path / "grid.png") as picture:
        assert min(picture.size) > 50


@pytest.mark.parametrize("epochs", [1, 60])
def test_curves_of_any_length(epochs, tmp_path):
    rows = [
        f"{e},1e-3,{2 / e},{1 / e},{0.8 - 0.3 / e},{0.9 - 0.2 / e},3" for e in range(1, epochs + 1)
    ]
    (tmp_path / "history.csv").write_text(HEADER + "\n".join(rows) + "\n")
    shorter = tmp_path / "shorter.csv"
    shorter.write_text(HEADER + rows[0] + "\n")
    paths = {"one": [tmp_path / "history.csv"], "mean": [tmp_path / "history.csv", shorter]}
    figure = training_curves(paths, "test")
    save_figure(figure, tmp_path / "curves.png")
    axes = {axis.get_title(): axis for axis in figure.axes}
    assert {"training loss, all outputs", "learning rate", "mIoU, test split"} < set(axes)
    one, mean = axes["mIoU, test split"].lines
    expected = [0.8 - 0.3 / e for e in range(1, epochs + 1)]
    assert list(one.get_ydata()) == pytest.approx(expected)
    assert list(mean.get_ydata()) == pytest.approx(expected[:1])  # the epochs that both have


@pytest.mark.parametrize(
    ("text", "message"),
    [(HEADER, "no epoch yet"), ("a,b\n1,2\n", "expected a CSV"), (HEADER + "1,2\n", "expected")],
)
def test_a_file_that_is_no_history_is_an_error(text, message, tmp_path):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(EgeunetError, match=message):
        training_curves({"": [tmp_path / "history.csv"]})


def test_a_missing_history_is_an_error(tmp_path):
    with pytest.raises(EgeunetError, match=r"history\.csv is not the history"):
        training_curves({"": [tmp_path / "history.csv"]})


def test_figures_leave_no_global_state(squares, tmp_path):
    from matplotlib import pyplot as plt

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(25):  # pyplot warns from 20 open figures on
            contour_grid([photo(48, 64)], [squares[0]], [squares[1]], ["a"])
    assert plt.get_fignums() == []
