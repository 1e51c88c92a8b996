"""Leaks between the splits of a dataset; `test_check.py` covers the copies themselves."""

import numpy as np
import pytest
from PIL import Image

from egeunet.data.datasets import open_dataset, open_folder
from egeunet.data.duplicates import leaking_ids
from egeunet.data.splits import split_dataset
from egeunet.data.synthetic import write_dataset


@pytest.fixture
def split(tmp_path):
    return split_dataset(open_folder(write_dataset(tmp_path / "drawn", 60, (64, 64))))


def copy(source, target, quality=None):
    """Replace one sample's image by another's, pixel by pixel or saved as JPEG again."""
    with Image.open(source.image) as image:
        pixels = Image.fromarray(np.asarray(image))
    if quality is None:
        target.image.write_bytes(source.image.read_bytes())
    else:
        pixels.save(target.image, quality=quality)


def test_drawn_images_leak_nowhere(split):
    assert leaking_ids(split) == leaking_ids(split, "val") == ()


def test_exact_and_near_copies_of_earlier_splits_are_named(split):
    copy(split.train[3], split.test[1])
    copy(split.val[0], split.test[4], quality=90)
    copy(split.train[5], split.train[6])  # within a split nothing leaks
    copy(split.test[7], split.test[8])
    assert leaking_ids(split) == tuple(sorted((split.test[1].id, split.test[4].id)))
    assert leaking_ids(split, "val") == ()
    copy(split.train[9], split.val[2], quality=90)
    assert leaking_ids(split, "val") == (split.val[2].id,)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "leaks"), [("kvasir_seg", ("test_16",)), ("isic2018", ("ISIC_0012673",))]
)
def test_the_leaks_of_the_real_data(name, leaks, real_data):
    assert leaking_ids(split_dataset(open_dataset(name, real_data / name))) == leaks
