"""New colors against Pillow's and NumPy's, and the compiled code against the formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from egeunet.data.augmentation import color
from egeunet.data.augmentation.color import ColorChange, recolor
from egeunet.data.augmentation.geometry import Augmentation
from egeunet.data.cache import Arrays
from egeunet.data.loader import Loader


def photos(count=3, height=12, width=9, seed=0):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(0, 256, (count, height, width, 3), np.uint8))


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_compiled_code_and_formulas_give_the_same_bits(height, width, seed):
    images = photos(4, height, width, seed)
    generator = np.random.default_rng(seed)
    settings = Augmentation(gain=0.5, gamma=0.9, saturation=1)
    colors = settings.sample_colors(4, generator)
    compiled = recolor(images, colors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(color, "load_kernels", lambda: None)
        assert torch.equal(recolor(images, colors), compiled)


def test_saturation_is_pillows():
    images = photos(1)
    for factor in (0.0, 0.5, 1.0, 1.7):
        moved = recolor(
            images, ColorChange.from_factors(np.ones((1, 3)), np.ones(1), np.full(1, factor))
        )
        oracle = ImageEnhance.Color(Image.fromarray(images[0].numpy())).enhance(factor)
        assert np.abs(moved[0].numpy().astype(int) - np.asarray(oracle, int)).max() <= 1


def test_gain_and_gamma_are_the_formula():
    images = photos(2)
    gain, gamma = np.array([[0.8, 1.0, 1.2], [1, 1, 1]]), np.array([1.0, 1.3])
    moved = recolor(images, ColorChange.from_factors(gain, gamma, np.ones(2))).numpy()
    expected = 255 * (images[0].numpy() / 255) * gain[0] / 1.2
    np.testing.assert_allclose(moved[0], expected, atol=0.51)
    np.testing.assert_allclose(moved[1], 255 * (images[1].numpy() / 255) ** 1.3, atol=0.51)


def test_colors_that_are_not_asked_for_stay():
    assert Augmentation().sample_colors(4, np.random.default_rng(0)) is None
    images = photos()
    same = ColorChange.from_factors(np.ones((3, 3)), np.ones(3), np.ones(3))
    assert torch.equal(recolor(images, same), images)


def test_each_sample_gets_colors_of_its_own():
    images = photos(1).expand(6, -1, -1, -1)
    settings = Augmentation(gain=0.2, gamma=0.3, saturation=0.3)
    moved = recolor(images, settings.sample_colors(6, np.random.default_rng(0)))
    assert len({sample.numpy().tobytes() for sample in moved}) == 6


def draw_colors(value, **settings):
    """A pixel in the colors of 2,000 samples."""
    colors = Augmentation(**settings).sample_colors(2000, np.random.default_rng(0))
    pixel = torch.tensor(value, dtype=torch.uint8).expand(2000, 1, 1, 3).contiguous()
    return recolor(pixel, colors).numpy().reshape(2000, 3).astype(float)


def test_gains_lie_on_both_sides_of_1():
    """The largest of three gains leaves its channel as it is, so that nothing is clipped."""
    ratios = draw_colors([255, 255, 255], gain=0.3).min(axis=1) / 255
    assert 0.7 / 1.3 - 0.01 <= ratios.min() < 0.6
    assert ratios.max() > 0.97


def test_gammas_lie_on_both_sides_of_1():
    levels = draw_colors([128, 128, 128], gamma=0.3)[:, 0] / 255
    np.testing.assert_allclose([levels.min(), levels.max()], [0.5**1.3, 0.5**0.7], atol=0.01)
    assert abs(np.median(levels) - 0.5) < 0.02


def test_saturations_lie_on_both_sides_of_1():
    """Of 0.5 to 1.5: the difference of two channels, 100 before."""
    differences = np.ptp(draw_colors([150, 50, 50], saturation=0.5), axis=1)
    np.testing.assert_allclose([differences.min(), differences.max()], [50, 150], atol=3)
    assert abs(np.median(differences) - 100) < 5


def test_the_loader_recolors_images_and_not_masks():
    """The network sees them scaled by their own extremes, as at inference."""
    arrays = Arrays(
        ids=tuple("abcdefgh"),
        images=photos(8, 16, 16).numpy(),
        masks=np.eye(16, dtype=np.uint8)[None].repeat(8, 0),
        aspects=np.ones(8, np.float32),
    )
    still = {"horizontal_flip": 0, "vertical_flip": 0, "rotation": 0}
    plain, moved = (
        next(iter(Loader(arrays, batch_size=8, augmentation=settings).epoch()))
        for settings in (Augmentation(**still), Augmentation(**still, gain=0.4, saturation=0.4))
    )
    assert torch.equal(plain.masks, moved.masks)
    assert not torch.equal(plain.images, moved.images)
    for image in moved.images:
        assert image.min() == 0
        assert image.max().item() == pytest.approx(255)
