import json
import math

import numpy as np
import pytest

from egeunet.errors import EgeunetError
from egeunet.inference.quality import FAILURE, REVIEW, DiceEstimator, features
from egeunet.inference.segmenter import Segmenter

MODEL = DiceEstimator(plain=(0.5, -1.5, 0.3), tta=(0.0, -1.0, 0.2), images=100)


def blob(inside, outside=0.0, side=20):
    scores = np.full((64, 64), outside, np.float32)
    scores[10 : 10 + side, 10 : 10 + side] = inside
    return scores


def test_the_self_dice_is_what_a_map_expects_of_itself():
    """Of truths drawn from the probabilities, the mean overlap with the map is Σp² / Σp."""
    rng = np.random.default_rng(0)
    p = rng.beta(0.4, 0.8, (64, 64)).astype(np.float32)
    truths = rng.random((500, 64, 64)) < p
    overlap = 2 * (truths * p).sum(axis=(1, 2)) / (truths.sum(axis=(1, 2)) + p.sum())
    own, area = features(p)
    assert 1.01 - math.exp(own) == pytest.approx(overlap.mean(), abs=0.005)
    assert math.exp(area) - 0.001 == pytest.approx(p.mean(), abs=1e-6)


def test_sure_masks_are_expected_to_be_better_and_empty_ones_to_fail():
    qualities = [MODEL.estimate(blob(p)) for p in (0.99, 0.8, 0.6)]
    assert qualities == sorted(qualities, reverse=True)
    nothing = MODEL.estimate(np.zeros((64, 64), np.float32))
    faint = MODEL.estimate(blob(0.1))
    assert 0 < nothing < faint < qualities[-1] < qualities[0] < 1
    assert MODEL.estimate(blob(0.8), tta=True) != MODEL.estimate(blob(0.8))


def test_the_limit_is_the_jaccard_index_of_the_challenge():
    assert pytest.approx(FAILURE) == REVIEW / (2 - REVIEW)


def test_it_goes_through_the_metadata():
    assert DiceEstimator.from_json(MODEL.to_json()) == MODEL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "{}",
        '{"plain": [1, 2], "tta": [1, 2, 3], "images": 9}',
        '{"plain": [1, 2, NaN], "tta": [1, 2, 3], "images": 9}',
        '{"plain": "abc", "tta": [1, 2, 3], "images": 9}',
    ],
)
def test_numbers_that_make_no_sense_are_one_sentence(write_graph, text):
    with pytest.raises(EgeunetError, match="are invalid"):
        Segmenter(write_graph(quality=text))


def test_a_result_tells_its_quality(write_graph, lesion):
    result = Segmenter(write_graph(quality=MODEL.to_json()))(lesion)
    assert result.quality == MODEL.estimate(result.scores)
    assert result.review is (result.quality < REVIEW)
    values = json.loads(result.to_json())
    assert (values["quality"], values["review"]) == (result.quality, result.review)
    assert "quality=" in repr(result)
    mirrored = Segmenter(write_graph(quality=MODEL.to_json()), tta=True)(lesion)
    assert mirrored.quality == MODEL.estimate(mirrored.scores, tta=True)


def test_an_unsure_mask_is_for_review(write_graph, lesion):
    low = DiceEstimator((-3.0, 0.0, 0.0), (3.0, 0.0, 0.0), 100)
    assert Segmenter(write_graph(quality=low.to_json()))(lesion).review is True
    assert Segmenter(write_graph(quality=low.to_json()), tta=True)(lesion).review is False


def test_weights_that_do_not_say_give_none(write_graph, lesion):
    result = Segmenter(write_graph())(lesion)
    assert result.quality is None
    assert result.review is None
    assert json.loads(result.to_json())["quality"] is None
    assert "quality" not in repr(result)
