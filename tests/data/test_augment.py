"""Augmentation moves image and mask alike, by the geometry it claims."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from egeunet.data.augment import Augmentation, warp

NEVER = Augmentation(0, 0, 0)
SQUARE = np.ones(1, np.float32)


def draw(settings, aspects=SQUARE, seed=0):
    return torch.from_numpy(settings.draw(aspects, np.random.default_rng(seed)))


def batch(height=12, width=12, count=1, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, height, width, 3), np.uint8)
    masks = generator.integers(0, 2, (count, height, width), np.uint8)
    return torch.from_numpy(images), torch.from_numpy(masks)


@given(height=st.integers(1, 33), width=st.integers(1, 33))
def test_nothing_drawn_changes_nothing(height, width):
    images, masks = batch(height, width)
    moved, moved_masks = warp(images, masks, draw(NEVER))
    assert torch.equal(moved, images)
    assert torch.equal(moved_masks, masks)


@given(height=st.integers(1, 33), width=st.integers(1, 33))
def test_flips_are_exact(height, width):
    images, masks = batch(height, width)
    moved, moved_masks = warp(images, masks, draw(Augmentation(1, 0, 0)))
    assert torch.equal(moved, images.flip(2))
    assert torch.equal(moved_masks, masks.flip(2))
    moved, moved_masks = warp(images, masks, draw(Augmentation(0, 1, 0)))
    assert torch.equal(moved, images.flip(1))
    assert torch.equal(moved_masks, masks.flip(1))


def test_a_quarter_turn_is_exact():
    images, masks = batch()
    moved, moved_masks = warp(images, masks, draw(Augmentation(0, 0, 1, angle=90)))
    quarter = torch.rot90(images, -1, (1, 2)), torch.rot90(images, 1, (1, 2))
    assert any(torch.equal(moved, turned) for turned in quarter)
    assert moved_masks.sum() == masks.sum()


def test_a_rotation_is_pillows():
    images, masks = batch(64, 64)
    images = torch.nn.functional.avg_pool2d(images.float().permute(0, 3, 1, 2), 9, 1, 4)
    images = images.permute(0, 2, 3, 1).byte()
    moved, _ = warp(images, masks, draw(Augmentation(0, 0, 1, angle=30)))
    distances = []
    for angle in (30, -30):
        turned = np.asarray(Image.fromarray(images[0].numpy()).rotate(angle))
        middle = np.s_[16:48, 16:48]
        distances.append(np.abs(turned[middle].astype(int) - moved[0].numpy()[middle]).mean())
    assert min(distances) < 2


def test_the_rotation_happens_in_the_photos_geometry():
    """A disc in a photo twice as wide as high is an ellipse in the square, and stays that one."""
    y, x = np.mgrid[-1:1:129j, -1:1:129j]
    disc = (((x * 2) ** 2 + y**2) < 0.5**2).astype(np.uint8)
    masks = torch.from_numpy(disc).unsqueeze(0)
    images = masks.unsqueeze(-1).expand(-1, -1, -1, 3) * 255
    for angle in (20, 45, 90):
        maps = draw(Augmentation(0, 0, 1, angle=angle), np.full(1, 2, np.float32))
        _, moved = warp(images, masks, maps)
        overlap = (moved & masks).sum() / (moved | masks).sum()
        assert overlap > 0.95


def test_what_comes_from_outside_is_background_at_the_darkest_value():
    images, masks = batch(16, 16)
    images = images.clamp(min=40)
    images[0, 3, 3, 1] = 37
    moved, moved_masks = warp(images, torch.ones_like(masks), draw(Augmentation(0, 0, 1, angle=45)))
    assert (moved[0, 0, 0] == 37).all()
    assert moved_masks[0, 0, 0] == 0


def test_image_and_mask_move_together():
    images, masks = batch(32, 32, count=16)
    images = masks.unsqueeze(-1).expand(-1, -1, -1, 3) * 200
    maps = draw(Augmentation(), np.full(16, 4 / 3, np.float32))
    moved, moved_masks = warp(images, masks, maps)
    assert torch.equal(moved[..., 0], moved_masks * 200)


def test_each_operation_is_drawn_as_often_as_asked():
    count = 20_000
    maps = draw(Augmentation(), np.ones(count, np.float32))
    assert abs((torch.linalg.det(maps) < 0).float().mean() - 0.5) < 0.02
    turned = (maps[:, 0, 1].abs() > 1e-6).float().mean()
    assert abs(turned - 0.5) < 0.02
    angles = torch.atan2(maps[:, 1, 0], maps[:, 1, 1])
    assert angles[maps[:, 0, 1].abs() > 1e-6].unique().numel() > 5000


def test_the_published_quirk_is_one_angle_for_all():
    maps = draw(Augmentation(0, 0, 0.5, angle=33.0), np.ones(100, np.float32))
    assert maps.flatten(1).unique(dim=0).shape[0] == 2
