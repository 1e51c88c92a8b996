"""Light and camera: what they do to a photo, and to the samples of a training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from egeunet.data.augmentation import artifacts
from egeunet.data.augmentation.artifacts import (
    degrade,
    gaussian_blur,
    gaussian_noise,
    jpeg_compression,
    ruler,
    synthetic_hair,
    to_bytes,
    to_floats,
    uneven_illumination,
)
from egeunet.data.augmentation.geometry import Augmentation
from egeunet.data.cache import Arrays
from egeunet.data.loader import Loader
from egeunet.data.synthetic import draw

STILL = {"horizontal_flip": 0, "vertical_flip": 0, "rotation": 0}


@pytest.fixture(scope="module")
def photo():
    return draw(3, (64, 48))[0]


def test_one_side_lacks_its_share_of_light_and_the_other_none():
    white = np.full((64, 48, 3), 250, np.uint8)
    for seed in range(5):
        lit = uneven_illumination(np.random.default_rng(seed), white, 0.4)
        assert lit.max() == 250
        assert lit.min() == pytest.approx(250 * 0.6, abs=1)
        assert np.ptp(lit.astype(int), axis=2).max() == 0  # no color comes in


def test_blur_keeps_the_mean_and_takes_detail(photo):
    blurred = gaussian_blur(photo, 3)
    assert blurred.mean() == pytest.approx(photo.mean(), abs=2)
    assert np.abs(np.diff(blurred.astype(int), axis=0)).mean() < 0.5 * (
        np.abs(np.diff(photo.astype(int), axis=0)).mean()
    )


def test_grain_has_the_deviation_that_is_asked_for():
    grey = np.full((128, 128, 3), 128, np.uint8)
    noisy = gaussian_noise(np.random.default_rng(0), grey, 0.1).astype(float) / 255
    assert noisy.std() == pytest.approx(0.1, rel=0.03)


def test_a_lower_quality_costs_more(photo):
    errors = [np.abs(jpeg_compression(photo, q).astype(int) - photo).mean() for q in (90, 50, 10)]
    assert errors == sorted(errors)
    assert errors[0] < errors[2]


def test_nothing_happens_that_is_not_asked_for(photo):
    for seed in range(5):
        same = degrade(np.random.default_rng(seed), photo, 0, 0)
        np.testing.assert_array_equal(same, photo)


def test_one_of_three_faults_with_the_probability_asked_for(photo):
    found = [degrade(np.random.default_rng(seed), photo, 0, 0.5) for seed in range(60)]
    changed = sum((one != photo).any() for one in found)
    assert 18 <= changed <= 42  # 30 ± 3 deviations
    assert all(one.shape == photo.shape and one.dtype == np.uint8 for one in found)


def test_the_strongest_faults_are_those_documented(photo, monkeypatch):
    """A blur of 3 pixels, noise of 0.18 and a JPEG quality of 15."""
    asked = {}
    for name in ("gaussian_blur", "gaussian_noise", "jpeg_compression"):
        given = asked[name] = []
        monkeypatch.setattr(artifacts, name, lambda *args, given=given: given.append(args[-1]))
    for seed in range(600):
        degrade(np.random.default_rng(seed), photo, 0, 1)
    assert 2.9 < max(asked["gaussian_blur"]) < 3
    assert 0.175 < max(asked["gaussian_noise"]) < 0.18
    assert min(asked["jpeg_compression"]) == 15
    assert max(asked["jpeg_compression"]) == 95


@pytest.fixture(scope="module")
def arrays():
    images = np.stack([draw(seed, (32, 32))[0] for seed in range(8)])
    masks = np.eye(32, dtype=np.uint8)[None].repeat(8, 0)
    return Arrays(tuple("abcdefgh"), images, masks, np.ones(8, np.float32))


def test_the_loader_changes_images_and_not_masks(arrays):
    plain, moved = (
        next(iter(Loader(arrays, batch_size=8, augmentation=settings).epoch()))
        for settings in (Augmentation(**STILL), Augmentation(**STILL, light=0.6, camera=0.5))
    )
    assert torch.equal(plain.masks, moved.masks)
    assert all((one != other).any() for one, other in zip(plain.images, moved.images, strict=True))
    assert moved.images.amin() == 0  # scaled by their own extremes, as at inference
    assert moved.images.amax().item() == pytest.approx(255)


GOLDEN = Path(__file__).with_name("artifacts.npz")
DRAWN = {
    "hair": lambda rng, image: to_bytes(synthetic_hair(rng, to_floats(image))),
    "ruler": lambda rng, image: to_bytes(ruler(rng, to_floats(image))),
    "light": lambda rng, image: uneven_illumination(rng, image, 0.8),
    "camera": lambda rng, image: degrade(rng, image, 0.5, 0.9),
}


def draw_thumbnails(name):
    """Eight images of 96×128 that a function drew on, reduced to 24×32."""
    y, x = np.mgrid[:96, :128]
    image = np.stack([150 + x // 2, 120 + y // 2, 90 + (x + y) // 3], axis=2).astype(np.uint8)
    drawn = (DRAWN[name](np.random.default_rng(seed), image) for seed in range(8))
    return np.stack([np.asarray(Image.fromarray(one).reduce(4)) for one in drawn])


@pytest.mark.parametrize("name", DRAWN)
def test_a_seed_draws_what_it_drew_when_the_results_were_made(name):
    """`python tests/data/augmentation/test_artifacts.py` draws the file anew."""
    with np.load(GOLDEN) as golden:
        difference = np.abs(draw_thumbnails(name).astype(int) - golden[name])
    assert difference.max() <= 3  # rounding, of processors and of the JPEG decoder


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **{name: draw_thumbnails(name) for name in DRAWN})
