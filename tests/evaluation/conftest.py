import numpy as np
import pytest
import torch

from egeunet.data.cache import Arrays


def make_arrays(masks, seed=0):
    masks = np.array(masks, np.uint8)
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (*masks.shape, 3), dtype=np.uint8)
    images.setflags(write=False)  # as the cache maps them
    masks.setflags(write=False)
    ids = tuple(f"photo_{index}" for index in range(len(masks)))
    return Arrays(ids, images, masks, np.ones(len(masks), np.float32))


def make_predictor(predictions, num_classes=1):
    """A predictor that returns these class indices in order, a batch per call."""
    queue = list(np.asarray(predictions))

    def predict(images):
        assert images.dtype == np.uint8
        assert images.shape[3] == 3
        classes = torch.from_numpy(np.stack([queue.pop(0) for _ in images])).long()
        if num_classes == 1:
            return classes.unsqueeze(1) * 6.0 - 3
        return torch.nn.functional.one_hot(classes, num_classes).permute(0, 3, 1, 2) * 6.0

    return predict


@pytest.fixture
def arrays_of():
    return make_arrays


@pytest.fixture
def predictor_of():
    return make_predictor


@pytest.fixture
def blobs():
    """24 pairs of masks (24, 32, 40): a rectangle and one whose corners were moved a little."""
    generator = np.random.default_rng(0)
    truths, predictions = np.zeros((2, 24, 32, 40), np.uint8)
    for truth, prediction in zip(truths, predictions, strict=True):
        top, left = generator.integers(3, 10, 2)
        height, width = generator.integers(6, 18, 2)
        truth[top : top + height, left : left + width] = 1
        d = generator.integers(-2, 3, 4)
        prediction[top + d[0] : top + height + d[1], left + d[2] : left + width + d[3]] = 1
    return truths, predictions
