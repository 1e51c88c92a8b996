import numpy as np
import pytest
from PIL import Image

from egeunet.data.cache import Arrays
from egeunet.data.synthetic import draw
from egeunet.evaluation.corruptions import KINDS, SEVERITIES, corrupt, rotate


@pytest.fixture(scope="module")
def arrays():
    drawn = [draw(seed, (96, 96)) for seed in range(3)]
    images, masks = (np.stack(part) for part in zip(*drawn, strict=True))
    images.setflags(write=False)  # as the cache maps them
    return Arrays(("a", "b", "c"), images, masks, np.ones(3, np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_is_the_same_each_time_and_stronger_with_severity(arrays, kind):
    before = arrays.images.copy()
    distances = []
    for severity in SEVERITIES:
        found = corrupt(arrays, kind, severity)
        again = corrupt(arrays, kind, severity)
        np.testing.assert_array_equal(found.images, again.images)
        assert found.images.dtype == np.uint8
        assert found.images.shape == arrays.images.shape
        difference = found.images.astype(float) - arrays.images
        distances.append(np.sqrt((difference**2).mean()))
    assert distances[0] > 1
    assert distances[-1] > 1.15 * distances[0]
    np.testing.assert_array_equal(arrays.images, before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_depends_on_the_id_and_not_on_the_place(arrays, kind):
    last = Arrays(("c",), arrays.images[2:], arrays.masks[2:], arrays.aspects[2:])
    alone, among = corrupt(last, kind, 3), corrupt(arrays, kind, 3)
    np.testing.assert_array_equal(alone.images[0], among.images[2])


def test_another_seed_draws_other_hairs(arrays):
    first, second = (corrupt(arrays, "hair", 3, seed=seed).images for seed in (0, 1))
    assert (first != second).any()


def test_only_rotation_moves_masks(arrays):
    for kind in KINDS:
        moved = corrupt(arrays, kind, 5).masks
        assert (moved is arrays.masks) == (kind != "rotation")
        assert set(np.unique(moved)) <= {0, 1}


def test_a_mask_turns_with_its_image():
    """A dark disc off the centre: where it is in the image, it is in the mask."""
    y, x = np.mgrid[:96, :96]
    mask = ((y - 30) ** 2 + (x - 48) ** 2 < 12**2).astype(np.uint8)
    image = np.repeat((220 - 180 * mask)[..., None], 3, axis=2).astype(np.uint8)
    arrays = Arrays(("disc",), image[None], mask[None], np.ones(1, np.float32))
    found = corrupt(arrays, "rotation", 5)
    dark = found.images[0, ..., 0] < 130
    turned = found.masks[0] > 0
    assert (dark & turned).sum() / (dark | turned).sum() > 0.97
    rows, columns = np.nonzero(turned)
    assert rows.mean() == pytest.approx(47.5 - 17.5 * np.cos(np.pi / 4), abs=1)
    assert abs(columns.mean() - 47.5) == pytest.approx(17.5 * np.sin(np.pi / 4), abs=1)


def test_no_turn_changes_nothing(arrays):
    image = arrays.images[0]
    np.testing.assert_array_equal(rotate(image, 0, Image.Resampling.BILINEAR), image)
