"""Augmentation moves image and mask alike, by the geometry it claims."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from scipy.stats import kstest

from egeunet.compat import import_torchvision
from egeunet.data.augmentation import geometry
from egeunet.data.augmentation.geometry import Augmentation, transform
from egeunet.data.loader import scale_batch

SQUARE = np.ones(1, np.float32)


def moving(horizontal_flip=0.0, vertical_flip=0.0, rotation=0.0, **settings):
    moves = {"horizontal_flip": horizontal_flip, "vertical_flip": vertical_flip}
    return Augmentation(**moves, rotation=rotation, **settings)


NEVER = moving()


def draw(settings, aspects=SQUARE, seed=0, angle=None):
    return settings.sample_maps(aspects, np.random.default_rng(seed), angle)


def batch(height=12, width=12, count=1, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, height, width, 3), np.uint8)
    masks = generator.integers(0, 2, (count, height, width), np.uint8)
    return torch.from_numpy(images), torch.from_numpy(masks)


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 2**32),
    on=st.booleans(),
)
def test_compiled_code_and_formulas_give_the_same_bits(height, width, seed, on):
    """Also where photos were anything from four times as high to four times as wide."""
    images, masks = batch(height, width, count=5, seed=seed)
    aspects = np.exp2(np.random.default_rng(seed).uniform(-2, 2, 5)).astype(np.float32)
    more = {"scale": (0.5, 2.0), "shear": 30, "translation": 0.3} if on else {}
    maps = draw(Augmentation(rotation=float(on), **more), aspects, seed)
    given_ = transform(images, masks, maps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "load_kernels", lambda: None)
        expected = transform(images, masks, maps)
    for one, other in zip(given_, expected, strict=True):
        assert torch.equal(one, other)
    for one, _ in (given_, expected):
        assert one.is_contiguous(memory_format=torch.channels_last)


@given(height=st.integers(1, 33), width=st.integers(1, 33))
def test_nothing_drawn_only_scales(height, width):
    images, masks = batch(height, width)
    for maps in (None, draw(NEVER)):
        moved, moved_masks = transform(images, masks, maps)
        assert torch.equal(moved, scale_batch(images))
        assert torch.equal(moved_masks, masks)


@given(height=st.integers(1, 33), width=st.integers(1, 33))
def test_flips_are_exact(height, width):
    images, masks = batch(height, width)
    moved, moved_masks = transform(images, masks, draw(moving(1)))
    assert torch.equal(moved, scale_batch(images).flip(3))
    assert torch.equal(moved_masks, masks.flip(2))
    moved, moved_masks = transform(images, masks, draw(moving(0, 1)))
    assert torch.equal(moved, scale_batch(images).flip(2))
    assert torch.equal(moved_masks, masks.flip(1))


def test_a_quarter_turn_is_exact():
    images, masks = batch()
    moved, moved_masks = transform(images, masks, draw(moving(rotation=1), angle=90))
    whole = scale_batch(images)
    assert any(torch.equal(moved, torch.rot90(whole, k, (2, 3))) for k in (1, -1))
    assert moved_masks.sum() == masks.sum()


def test_a_rotation_is_pillows():
    images, masks = batch(64, 64)
    images = torch.nn.functional.avg_pool2d(images.float().permute(0, 3, 1, 2), 9, 1, 4)
    images = images.permute(0, 2, 3, 1).byte()
    moved, _ = transform(images, masks, draw(moving(rotation=1), angle=30))
    moved, whole = moved[0].permute(1, 2, 0).numpy(), scale_batch(images)[0].permute(1, 2, 0)
    distances = []
    for angle in (30, -30):
        turned = np.asarray(Image.fromarray(whole.byte().numpy()).rotate(angle))
        middle = np.s_[16:48, 16:48]
        distances.append(np.abs(turned[middle] - moved[middle]).mean())
    assert min(distances) < 3


def test_the_rotation_happens_in_the_photos_geometry():
    """A disc in a photo twice as wide as high is an ellipse in the square, and stays that one."""
    y, x = np.mgrid[-1:1:129j, -1:1:129j]
    disc = (((x * 2) ** 2 + y**2) < 0.5**2).astype(np.uint8)
    masks = torch.from_numpy(disc).unsqueeze(0)
    images = masks.unsqueeze(-1).expand(-1, -1, -1, 3) * 255
    for angle in (20, 45, 90):
        maps = draw(moving(rotation=1), np.full(1, 2, np.float32), angle=angle)
        _, moved = transform(images, masks, maps)
        overlap = (moved & masks).sum() / (moved | masks).sum()
        assert overlap > 0.95


@pytest.mark.parametrize("aspect", [1.0, 1.5])
def test_zoom_shear_and_shift_are_torchvisions(aspect):
    """In the photo's geometry: a wide photo is stretched, moved by torchvision, and squeezed."""
    import_torchvision()
    from torchvision.transforms.v2 import functional

    side = 120
    disc = torch.zeros(1, side, side, dtype=torch.uint8)
    disc[0, 30:80, 40:100] = 1
    images = torch.zeros(1, side, side, 3, dtype=torch.uint8)
    for seed in range(6):
        settings = moving(rotation=1, scale=(0.7, 1.4), shear=20, translation=0.1)
        maps = draw(settings, np.full(1, aspect, np.float32), seed, angle=25)
        _, moved = transform(images, disc, maps)
        # What was drawn, read from the map: [[1, k], [0, 1]] / scale · rotation.
        (a, b, right), (c, d, down) = maps[0].astype(float)
        c, b = c / aspect, b * aspect
        scale = 1 / np.hypot(c, d)
        assert 0.7 <= scale <= 1.4
        shear = np.rad2deg(np.arctan((a * c + b * d) * scale**2))
        assert abs(shear) <= 20
        assert max(abs(right), abs(down)) <= 0.2
        width = round(side * aspect)
        wide = functional.resize(disc, [side, width], functional.InterpolationMode.NEAREST)
        shift = [-right * width / 2, -down * side / 2]
        wide = functional.affine(wide, 0, shift, 1, [0, 0])
        wide = functional.affine(wide, -25, [0, 0], scale, [shear, 0])
        expected = functional.resize(wide, [side, side], functional.InterpolationMode.NEAREST)
        overlap = (moved & expected).sum() / (moved | expected).sum()
        assert overlap > 0.95


def test_what_is_not_asked_for_draws_what_it_always_drew():
    """The numbers of the paper's operations do not depend on those that came later."""
    plain, more = draw(Augmentation()), draw(Augmentation(translation=0.1))
    np.testing.assert_array_equal(plain[:, :, :2], more[:, :, :2])
    assert (plain[:, :, 2] == 0).all()
    assert (more[:, :, 2] != 0).all()


def test_what_comes_from_outside_is_0_and_does_not_change_the_scale():
    images, masks = batch(16, 16)
    images = images.clamp(40, 200)
    images[0, 8, 8, 1], images[0, 0, 0] = 37, 255  # the brightest pixel is turned out of sight
    masks = torch.ones_like(masks)
    moved, moved_masks = transform(images, masks, draw(moving(rotation=1), angle=45))
    assert (moved[0, :, 0, 0] == 0).all()
    assert moved_masks[0, 0, 0] == 0
    values = scale_batch(images).unique()
    assert torch.isin(moved[0, :, moved_masks[0].bool()], values).all()
    assert moved.max() < 255


def test_image_and_mask_move_together():
    images, masks = batch(32, 32, count=16)
    images = masks.unsqueeze(-1).expand(-1, -1, -1, 3) * 200
    maps = draw(Augmentation(), np.full(16, 4 / 3, np.float32))
    moved, moved_masks = transform(images, masks, maps)
    assert torch.equal(moved[:, 0], moved_masks * 255.0)


def draw_many(count=20_000, **settings):
    """Maps of a square image, with nothing drawn but what `settings` name."""
    return draw(moving(**settings), np.ones(count, np.float32)).astype(float)


def assert_uniform(values, low, high):
    """Kolmogorov–Smirnov, at a level that a test with a fixed seed passes or fails for good."""
    assert kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


def test_the_defaults_are_the_papers():
    chosen = {"horizontal_flip": 0.5, "vertical_flip": 0.5, "rotation": 0.5, "scale": (1, 1)}
    assert {key: value for key, value in Augmentation() if value} == chosen | {
        "angle": "per_sample"
    }


def test_rotation_angles_cover_the_full_circle_uniformly():
    maps = draw_many(rotation=1)
    angles = np.rad2deg(np.arctan2(maps[:, 1, 0], maps[:, 1, 1])) % 360
    assert_uniform(angles, 0, 360)
    np.testing.assert_allclose(np.linalg.det(maps[:, :, :2]), 1, atol=1e-6)


def test_angles_do_not_depend_on_whether_a_sample_is_turned():
    maps = draw(moving(rotation=0.3), np.ones(20_000, np.float32)).astype(float)
    turned = maps[maps[:, 0, 1] != 0]
    assert_uniform(np.rad2deg(np.arctan2(turned[:, 1, 0], turned[:, 1, 1])) % 360, 0, 360)


@pytest.mark.parametrize(
    ("setting", "largest", "too_large"),
    [
        *((name, 1.0, 1.001) for name in ("horizontal_flip", "vertical_flip", "rotation")),
        *((name, 1.0, 1.001) for name in ("translation", "hair", "saturation", "light", "camera")),
        *((name, 0.999, 1.0) for name in ("gain", "gamma")),
        ("shear", 45.0, 45.001),
    ],
)
def test_settings_out_of_range_are_refused(setting, largest, too_large):
    for value in (0.0, largest):
        assert getattr(Augmentation(**{setting: value}), setting) == value
    for value in (-0.001, too_large):
        with pytest.raises(ValidationError, match=setting):
            Augmentation(**{setting: value})


def test_a_zoom_from_large_to_small_is_refused():
    assert Augmentation(scale=(0.9, 0.9)).scale == (0.9, 0.9)
    with pytest.raises(ValidationError, match="smallest zoom factor is greater"):
        Augmentation(scale=(1.1, 0.9))


def test_flips_and_rotation_happen_independently_as_often_as_asked():
    maps = draw(moving(0.3, 0.6, 0.2), np.ones(20_000, np.float32)).astype(float)
    turned = maps[:, 0, 1] != 0
    flips = np.sign(np.stack((maps[:, 0, 0], maps[:, 1, 1]))[:, ~turned])
    for flip_x, flip_y, share in ((-1, -1, 0.18), (-1, 1, 0.12), (1, -1, 0.42), (1, 1, 0.28)):
        found = ((flips[0] == flip_x) & (flips[1] == flip_y)).mean()
        assert found == pytest.approx(share, abs=0.02)
    assert turned.mean() == pytest.approx(0.2, abs=0.02)
    mirrored = np.linalg.det(maps[turned, :, :2]) < 0
    assert mirrored.mean() == pytest.approx(0.3 * 0.4 + 0.7 * 0.6, abs=0.03)


def test_scale_is_log_uniform_between_its_limits():
    maps = draw_many(scale=(0.5, 4.0))
    assert_uniform(-np.log(maps[:, 0, 0]), np.log(0.5), np.log(4.0))
    np.testing.assert_allclose(maps[:, 0, 0], maps[:, 1, 1])


def test_shear_and_translation_are_uniform_to_both_sides():
    sheared = draw_many(shear=30)
    assert_uniform(np.rad2deg(np.arctan(sheared[:, 0, 1])), -30, 30)
    shifted = draw_many(translation=0.25)[:, :, 2]
    for axis in (0, 1):
        assert_uniform(shifted[:, axis], -0.5, 0.5)  # the image is 2 wide in these units
    assert abs(np.corrcoef(shifted.T)[0, 1]) < 0.03


def test_the_published_quirk_is_one_angle_for_all():
    maps = draw(moving(rotation=0.5), np.ones(100, np.float32), angle=33.0)
    assert len(np.unique(maps.reshape(-1, 6), axis=0)) == 2
