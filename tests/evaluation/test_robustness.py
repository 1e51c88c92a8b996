import json
from functools import partial

import numpy as np
import pytest
import torch

from egeunet.data.cache import Arrays
from egeunet.evaluation.corruptions import SEVERITIES
from egeunet.evaluation.predictors import segment_batches
from egeunet.evaluation.robustness import assess, robustness_figure, tables


def darkness(images):
    """A network that segments dark pixels as lesion."""
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
    segment = partial(segment_batches, darkness, expect_dice=lambda p: float(p.max()))
    return assess(segment, discs, kinds=("blur", "light"))


def test_corruptions_lower_a_perfect_score(found):
    assert found["clean"]["jaccard"] == 1
    assert set(found["corrupted"]) == {"blur", "light"}
    for scores in found["corrupted"].values():
        assert [score["name"] for score in scores] == list(map(str, SEVERITIES))
        assert scores[-1]["jaccard"] < min(0.9, scores[0]["jaccard"])
        for score in scores:
            assert score["interval"][0] <= score["jaccard"] <= score["interval"][1]
    assert 0.99 < found["clean"]["quality"] <= 1


def test_groups_cover_every_image_once(found):
    assert [score["n"] for score in found["by_size"]] == [3, 3, 3, 3]
    assert sum(score["n"] for score in found["by_skin_tone"]) == 12
    shares = [score["name"] for score in found["by_size"]]
    assert shares[0].startswith("lesion 2.")
    assert shares == sorted(shares, key=lambda name: float(name.split()[1].rstrip("%")))


def test_tables_and_figure_are_the_same_after_json(found):
    again = json.loads(json.dumps(found, allow_nan=False))
    assert tables(again) == tables(found)
    for _, columns, rows in tables(found):
        assert {len(row) for row in rows} == {len(columns)}
    titles = [axis.get_title() for axis in robustness_figure(again).axes]
    assert titles[:2] == ["blur", "uneven illumination"]
