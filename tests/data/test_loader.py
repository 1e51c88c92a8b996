"""Batches: the same at any time for the same seed, scaled as inference scales."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from egeunet.data.augmentation.geometry import Augmentation
from egeunet.data.cache import Arrays
from egeunet.data.loader import Loader, scale_batch
from egeunet.data.synthetic import draw
from egeunet.inference.preprocess import min_max_normalize


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    return Arrays(
        ids=tuple(f"s{index:02}" for index in range(19)),
        images=generator.integers(0, 256, (19, 32, 32, 3), np.uint8),
        masks=generator.integers(0, 3, (19, 32, 32), np.uint8),
        aspects=np.ones(19, np.float32),
    )


@given(
    arrays_of.arrays(np.uint8, (2, 4, 5, 3), elements=st.integers(0, 255)),
    st.booleans(),
)
def test_scaling_is_that_of_inference(images, constant):
    if constant:
        images[0] = images[0, 0, 0, 0]
    ours = scale_batch(torch.from_numpy(images)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, min_max_normalize(images), rtol=1e-6, atol=1e-4)


def test_an_epoch_sees_every_sample_once_in_its_own_order(arrays):
    loader = Loader(arrays, batch_size=4, augmentation=Augmentation(), seed=1)
    epochs = [[key for batch in loader.epoch(n) for key in batch.ids] for n in (0, 1)]
    assert len(loader) == 5
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(arrays.ids)
    assert epochs[0] != epochs[1]


def test_without_augmentation_samples_come_in_order_as_they_are(arrays):
    batches = list(Loader(arrays, batch_size=4).epoch())
    assert [key for batch in batches for key in batch.ids] == list(arrays.ids)
    np.testing.assert_array_equal(batches[4].masks[:, 0].numpy(), arrays.masks[16:].astype("f4"))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_step_can_be_drawn_again(arrays, workers):
    loader = Loader(arrays, batch_size=4, augmentation=Augmentation(), seed=1, workers=workers)
    whole = list(loader.epoch(7))
    late = list(loader.epoch(7, start=3))
    assert [batch.ids for batch in late] == [batch.ids for batch in whole[3:]]
    assert torch.equal(late[0].images, whole[3].images)
    assert torch.equal(late[0].masks, whole[3].masks)


def test_the_parts_of_several_processes_are_the_batch_of_one(arrays):
    """Whatever is drawn; the odd last batch goes to each of them as a whole."""
    augmentation = Augmentation(
        scale=(0.8, 1.2), hair=0.5, gain=0.2, saturation=0.3, light=0.5, camera=0.5
    )
    whole, *parts = (
        list(
            Loader(arrays, batch_size=4, augmentation=augmentation, rank=rank, ranks=ranks).epoch(3)
        )
        for rank, ranks in ((0, 1), (0, 2), (1, 2))
    )
    for batch, first, second in zip(whole[:4], *(part[:4] for part in parts), strict=True):
        assert batch.ids == first.ids + second.ids
        assert torch.equal(batch.images, torch.cat((first.images, second.images)))
        assert torch.equal(batch.masks, torch.cat((first.masks, second.masks)))
    assert len(whole) == 5
    assert torch.equal(whole[4].images, parts[0][4].images)
    assert torch.equal(whole[4].images, parts[1][4].images)


def test_batches_of_samples_as_they_are_are_dealt_out(arrays):
    loaders = [Loader(arrays, batch_size=4, rank=rank, ranks=3) for rank in range(3)]
    assert [len(loader) for loader in loaders] == [2, 2, 1]
    ids = [batch.ids for loader in loaders for batch in loader.epoch()]
    assert sorted(ids) == [batch.ids for batch in Loader(arrays, batch_size=4).epoch()]


def test_a_step_names_the_samples_of_all_its_parts(arrays):
    settings = {"batch_size": 4, "augmentation": Augmentation(), "seed": 1}
    whole = list(Loader(arrays, **settings).epoch(2))
    assert Loader(arrays, **settings, rank=1, ranks=2).ids(2, 3) == whole[3].ids


STILL = Augmentation(horizontal_flip=0, vertical_flip=0, rotation=0)
MOVES = {
    "horizontal_flip": 1.0,
    "vertical_flip": 1.0,
    "rotation": 1.0,
    "scale": (0.5, 0.7),
    "shear": 40.0,
    "translation": 0.4,
}
COLORS = {"hair": 1.0, "gain": 0.5, "gamma": 0.9, "saturation": 1.0, "light": 0.9, "camera": 1.0}


@pytest.mark.parametrize(("setting", "value"), [*MOVES.items(), *COLORS.items()])
def test_every_setting_of_the_augmentation_changes_the_batch(setting, value, arrays):
    """And masks move exactly where images do."""
    images = np.stack([draw(seed, (32, 32))[0] for seed in range(19)])
    arrays = replace(arrays, images=images)

    def load(augmentation):
        (batch,) = Loader(arrays, num_classes=3, batch_size=19, augmentation=augmentation).epoch()
        return batch

    still, moved = load(STILL), load(STILL.model_copy(update={setting: value}))
    assert still.ids == moved.ids
    changed = (still.images != moved.images).flatten(1).any(1)
    assert changed.float().mean() > 0.8
    assert torch.equal(still.masks, moved.masks) == (setting in COLORS)


def test_every_setting_is_in_the_test_above():
    assert set(Augmentation.model_fields) == {*MOVES, *COLORS, "angle"}


def test_hair_lies_over_the_samples_that_are_drawn(arrays):
    """A line is much darker or brighter than what it crosses; masks and other samples stay."""
    arrays = replace(arrays, images=np.full((400, 32, 32, 3), 128, np.uint8), ids=("s",) * 400)
    arrays = replace(arrays, masks=np.ones((400, 32, 32), np.uint8), aspects=np.ones(400, "f4"))
    (batch,) = Loader(
        arrays, batch_size=400, augmentation=STILL.model_copy(update={"hair": 0.3})
    ).epoch()
    covered = (batch.images != 0).flatten(1).any(1)  # an image of one value is scaled to 0
    assert 0.2 < covered.float().mean() < 0.4
    assert (batch.masks == 1).all()


def test_classes_come_as_indices(arrays):
    batch = next(iter(Loader(arrays, num_classes=3, batch_size=4).epoch()))
    assert batch.masks.dtype == torch.int64
    assert batch.masks.shape == (4, 32, 32)


def test_an_epoch_that_is_left_early_leaves_no_thread_behind(arrays):
    import threading

    before = threading.active_count()
    batches = Loader(arrays, batch_size=1, workers=2).epoch()
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_the_masks_of_a_teacher_move_with_the_masks(arrays):
    arrays = replace(arrays, masks=arrays.masks & 1)
    soft = np.random.default_rng(3).integers(0, 128, arrays.masks.shape, np.uint8)
    settings = {"augmentation": Augmentation(), "seed": 5, "batch_size": 3}
    with_soft = Loader(arrays, soft=soft, **settings).epoch(2)
    marked = Loader(replace(arrays, masks=soft), **settings).epoch(2)
    for batch, plain, moved in zip(
        with_soft, Loader(arrays, **settings).epoch(2), marked, strict=True
    ):
        assert torch.equal(batch.images, plain.images)
        assert torch.equal(batch.masks, plain.masks)
        torch.testing.assert_close(batch.soft, moved.masks / 127)
        assert plain.soft is None
