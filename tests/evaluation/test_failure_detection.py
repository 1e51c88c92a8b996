import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from egeunet.evaluation.failure_detection import (
    auroc,
    estimates_figure,
    fit_quality,
    quality_table,
    score_estimates,
)


@pytest.fixture
def drawn():
    """Evidence of 400 images and Dice scores that depend on it."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 2))
    mean = 1 / (1 + np.exp(-(1.5 - features @ [0.9, -0.4])))
    return features, rng.beta(8 * mean, 8 * (1 - mean))


@pytest.fixture
def scores(drawn):
    features, dice = drawn
    first, *rest = fit_quality(features, dice)
    return 1 / (1 + np.exp(-(first + features @ rest))), dice, dice / (2 - dice)


def test_the_fit_is_that_of_weighted_logistic_regression(drawn):
    """A fraction is that much of a success and the rest of a failure."""
    features, dice = drawn
    twice = LogisticRegression(C=1e9, tol=1e-10).fit(
        np.concatenate([features, features]),
        np.repeat([1, 0], len(dice)),
        sample_weight=np.concatenate([dice, 1 - dice]),
    )
    first, *rest = fit_quality(features, dice)
    assert first == pytest.approx(twice.intercept_[0], abs=1e-3)
    assert rest == pytest.approx(twice.coef_[0], abs=1e-3)


def test_what_was_fitted_is_calibrated(scores):
    found = score_estimates(*scores)
    assert found["mean_expected"] == pytest.approx(found["mean_dice"], abs=1e-4)
    assert found["calibration_error"] < 0.03
    expected, dice, jaccard = scores
    shifted = score_estimates(0.5 * expected, dice, jaccard)
    assert shifted["calibration_error"] == pytest.approx(0.5 * dice.mean(), abs=0.02)


def test_auroc_is_that_of_scikit_learn(scores):
    failed = scores[2] < 0.65
    expected = np.round(scores[0], 1)  # with ties
    assert auroc(expected, failed) == pytest.approx(roc_auc_score(failed, -expected))
    found = score_estimates(*scores)
    low, high = found["intervals"]["auroc"]
    assert low < found["auroc"] < high


def test_a_perfect_order_reaches_the_optimum_and_no_order_the_mean():
    dice = np.linspace(0.3, 1, 200)
    perfect = score_estimates(dice, dice, dice / (2 - dice))
    assert perfect["auroc"] == 1
    assert perfect["aurc"] == perfect["aurc_optimal"] < perfect["aurc_random"]
    assert perfect["calibration_error"] == 0
    assert perfect["pearson"] == pytest.approx(1)
    assert perfect["review"]["failed"] == perfect["review"]["found"] == 1
    failures = (dice / (2 - dice) < 0.65).sum()
    assert perfect["risk_at_90"] == pytest.approx((failures - 20) / 180)
    rng = np.random.default_rng(0)
    areas = [score_estimates(rng.random(200), dice, dice / (2 - dice))["aurc"] for _ in range(5)]
    assert np.mean(areas) == pytest.approx(perfect["aurc_random"], abs=0.03)


def test_without_failures_what_is_undefined_says_so():
    dice = np.full(30, 0.9)
    found = score_estimates(dice, dice, dice / (2 - dice))
    json.dumps(found, allow_nan=False)
    assert found["auroc"] is None
    assert found["pearson"] is None
    assert found["review"]["failed"] is None
    texts = dict(row[:2] for row in quality_table(found))
    assert texts["quality: AUROC of failures (Jaccard < .65)"] == "undefined"


def test_the_figure_has_its_three_panels(scores):
    titles = [axis.get_title() for axis in estimates_figure(*scores).axes]
    assert titles == ["risk and coverage", "failures among masks kept", "reliability"]
