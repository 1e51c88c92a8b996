import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score

from egeunet.data.check import check_dataset
from egeunet.data.datasets import open_folder
from egeunet.data.masks import read_mask
from egeunet.data.synthetic import draw, write_dataset
from egeunet.errors import UsageError


def test_the_seed_decides_everything():
    first, again, other = draw(5), draw(5), draw(6)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).mean() > 0.5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(16, 120), st.integers(16, 120), st.sampled_from([1, 3]))
def test_any_size_gives_a_photo_and_a_mask_that_is_neither_empty_nor_full(
    seed, height, width, num_classes
):
    photo, mask = draw(seed, (height, width), num_classes)
    assert photo.shape == (height, width, 3)
    assert mask.shape == (height, width)
    assert photo.dtype == mask.dtype == np.uint8
    assert 0.01 < (mask > 0).mean() < 0.65
    expected = {0, 1} if num_classes == 1 else {0, 1, 2}
    assert set(np.unique(mask)) == expected


def test_classes_refine_the_binary_mask_of_the_same_photo():
    photo, mask = draw(9)
    photo3, mask3 = draw(9, num_classes=3)
    np.testing.assert_array_equal(photo, photo3)
    np.testing.assert_array_equal(mask, mask3 > 0)


def test_the_photo_shows_what_the_mask_says():
    # How well darkness alone tells lesion from skin; hair, shadows and dark corners blur it.
    scores, core = [], []
    for seed in range(24):
        photo, mask = draw(seed, (128, 128), 3)
        darkness = -photo.astype(float).mean(axis=2)
        scores.append(roc_auc_score((mask > 0).ravel(), darkness.ravel()))
        inside = mask > 0
        core.append(roc_auc_score(mask[inside] == 2, darkness[inside]))
    assert np.median(scores) > 0.95
    assert np.median(core) > 0.75


def test_skin_tones_go_from_very_light_to_very_dark():
    tones = []
    for seed in range(60):
        photo, mask = draw(seed, (64, 64))
        tones.append(np.median(photo[mask == 0].mean(axis=1)))
    assert min(tones) < 80
    assert max(tones) > 190


@pytest.mark.parametrize("num_classes", [1, 3])
def test_a_written_set_has_exact_masks_and_passes_the_check(num_classes, tmp_path):
    root = write_dataset(tmp_path / "set", 12, (48, 64), seed=3, num_classes=num_classes)
    dataset = open_folder(root)
    assert len(dataset.samples) == 12
    assert check_dataset(dataset, num_classes=num_classes).findings == ()
    for index, sample in enumerate(dataset.samples):
        mask = draw((3, index), (48, 64), num_classes)[1]
        np.testing.assert_array_equal(read_mask(sample.mask, num_classes), mask)
    with Image.open(dataset.samples[0].mask) as image:
        assert image.mode == ("L" if num_classes == 1 else "P")


def test_the_first_images_do_not_depend_on_the_count(tmp_path):
    few, more = (
        write_dataset(tmp_path / "a", 2, (32, 32)),
        write_dataset(tmp_path / "b", 4, (32, 32)),
    )
    name = "images/synthetic_00001.jpg"
    assert (few / name).read_bytes() == (more / name).read_bytes()


def test_nothing_is_overwritten_and_wrong_arguments_are_named(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="not empty"):
        write_dataset(tmp_path / "mine", 1)
    assert (tmp_path / "mine/thesis.txt").read_text() == "all of it"
    with pytest.raises(UsageError, match="at least 1"):
        write_dataset(tmp_path / "new", 0)
    with pytest.raises(UsageError, match="16×16 or more"):
        write_dataset(tmp_path / "new", 1, (8, 8))
    with pytest.raises(UsageError, match="1 or 3 classes"):
        draw(0, num_classes=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
