import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from egeunet.inference.preprocess import (
    min_max_normalize,
    resize,
    to_input,
    upsample,
    upsample_mask,
)

images = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


@given(images)
def test_scale_is_the_papers_min_max(image: NDArray[np.uint8]) -> None:
    x = image.astype(np.float64)
    expected = (x - x.min()) / (x.max() - x.min()) * 255 if x.max() > x.min() else x * 0
    found = min_max_normalize(image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_scale_treats_each_image_of_a_batch_alone() -> None:
    batch = np.random.default_rng(0).integers(0, 200, (4, 8, 8, 3), dtype=np.uint8)
    batch[1] //= 2
    np.testing.assert_array_equal(
        min_max_normalize(batch), np.stack([min_max_normalize(image) for image in batch])
    )


def test_scale_takes_floats() -> None:
    image = np.random.default_rng(0).normal(size=(5, 7, 3))
    assert min_max_normalize(image).min() == 0
    assert min_max_normalize(image).max() == 255


def _triangle_resize(image: NDArray[np.uint8], size: int, axis: int) -> NDArray[np.float64]:
    """Resample one axis with a triangle as wide as the shrinking asks for, in float64."""
    n = image.shape[axis]
    step = n / size
    support = max(step, 1.0)
    centres = (np.arange(size) + 0.5) * step
    distance = np.abs(np.arange(n)[None] + 0.5 - centres[:, None]) / support
    weights = np.maximum(0, 1 - distance)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.moveaxis(np.tensordot(weights, image.astype(np.float64), (1, axis)), 0, axis)


@pytest.mark.parametrize(("height", "width"), [(192, 256), (700, 431), (33, 1200), (5, 3)])
def test_resize_agrees_with_a_float_reference(height: int, width: int) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = _triangle_resize(_triangle_resize(photo, 256, 1), 256, 0)
    # Pillow rounds to uint8 after each axis.
    assert np.abs(resize(photo).astype(float) - expected).max() <= 1.01


def test_resize_and_to_input_have_the_shape_asked_for() -> None:
    photo = np.zeros((50, 70, 3), dtype=np.uint8)
    photo[0, 0, 1] = 9
    assert resize(photo, (32, 64)).shape == (32, 64, 3)
    found = to_input(photo, (32, 64))
    assert found.shape == (3, 32, 64)
    assert found.dtype == np.float32
    assert found[1, 0, 0] == found.max() == 255


def test_a_photo_of_the_networks_size_is_not_changed() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(photo), photo)
    np.testing.assert_array_equal(to_input(photo), min_max_normalize(photo).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(1, 1), (256, 256), (300, 500), (100, 1000)])
def test_restore_stays_within_the_probabilities(size: tuple[int, int]) -> None:
    probability = np.random.default_rng(0).random((256, 256), dtype=np.float32)
    found = upsample(probability, size)
    assert found.shape == size
    assert found.dtype == np.float32
    assert found.min() >= probability.min() - 1e-6
    assert found.max() <= probability.max() + 1e-6


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(0, 1, width=32),
    ),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.floats(0.05, 0.95),
)
def test_the_mask_of_a_photo_is_where_its_probability_reaches_the_threshold(
    probability: np.ndarray, size: tuple[int, int], threshold: float
) -> None:
    mask = upsample_mask(probability, size, threshold)
    expected = upsample(probability, size)
    assert mask.shape == size
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected >= np.float32(threshold))


@pytest.mark.parametrize("engine", [True, False])
def test_a_mask_of_12_megapixels_is_that_of_its_probability(
    engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    probability = upsample(rng.random((24, 24), dtype=np.float32), (256, 256))
    expected = upsample(probability, (3000, 4000)) >= 0.5
    if not engine:
        monkeypatch.setattr("egeunet.inference.preprocess.load_engine", lambda: None)
    mask = upsample_mask(probability, (3000, 4000), 0.5)
    assert np.count_nonzero(mask != expected) <= (0 if engine else 20)
