import json

import numpy as np
import pytest
import torch

from egeunet.data.cache import Arrays
from egeunet.evaluation.corruptions import SEVERITIES
from egeunet.evaluation.robustness import CORRUPTION_COLUMNS, GROUP_COLUMNS, Robustness, assess


def darkness(images):
    """A network that calls what is dark lesion."""
    grey = torch.from_numpy(np.array(images)).float().mean(dim=3)
    return (0.2 * (120 - grey))[:, None]


@pytest.fixture
def discs():
    """Twelve images of dark discs of growing size on light skin."""
    y, x = np.mgrid[:64, :64]
    distance = np.hypot(y - 31.5, x - 31.5)
    masks = np.stack([distance < radius for radius in range(6, 18)]).astype(np.uint8)
    skin, lesion = np.array([225, 190, 170]), np.array([70, 50, 40])
    images = np.where(masks[..., None] > 0, lesion, skin).astype(np.uint8)
    ids = tuple(f"disc_{index}" for index in range(12))
    return Arrays(ids, images, masks, np.ones(12, np.float32))


@pytest.fixture
def found(discs):
    return assess(darkness, discs, expect_dice=lambda p: float(p.max()), kinds=("blur", "light"))


def test_what_is_perfect_without_corruption_is_worse_with_it(found):
    assert found.clean.jaccard == 1
    assert set(found.corrupted) == {"blur", "light"}
    for scores in found.corrupted.values():
        assert [score.name for score in scores] == list(map(str, SEVERITIES))
        assert scores[-1].jaccard < 0.9
        assert scores[-1].jaccard < scores[0].jaccard
        assert all(score.interval[0] <= score.jaccard <= score.interval[1] for score in scores)
    assert 0.99 < found.clean.quality <= 1


def test_groups_cover_every_image_once(found):
    assert [score.n for score in found.by_size] == [3, 3, 3, 3]
    assert sum(score.n for score in found.by_skin_tone) == 12
    shares = [score.name for score in found.by_size]
    assert shares[0].startswith("lesion 2.")
    assert shares == sorted(shares, key=lambda name: float(name.split()[1].rstrip("%")))


def test_it_is_told_as_text_json_and_figure(found):
    row = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    again = Robustness.from_dict(row)
    assert again.corruption_rows() == found.corruption_rows()
    assert again.group_rows() == found.group_rows()
    assert {len(row) for row in found.corruption_rows()} == {len(CORRUPTION_COLUMNS)}
    assert {len(row) for row in found.group_rows()} == {len(GROUP_COLUMNS)}
    titles = [axis.get_title() for axis in again.figure().axes]
    assert titles[:2] == ["blur", "uneven illumination"]
