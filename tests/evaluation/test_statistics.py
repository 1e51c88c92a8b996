import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from egeunet.evaluation.statistics import (
    bootstrap_interval,
    compare_means,
    compare_pooled,
    holm,
    image_means,
    pooled_scores,
    resample,
)
from egeunet.metrics.counts import Counts


def counts_of(jaccards, truth=1000, pixels=4096):
    """Counts of images whose predictions lie inside a truth of so many pixels."""
    tp = torch.from_numpy((np.asarray(jaccards) * truth).round().astype(np.int64))[:, None]
    zero = torch.zeros_like(tp)
    return Counts(tp, zero, truth - tp, zero + pixels - truth)


@given(st.integers(1, 40), st.integers(0, 5))
@settings(deadline=None, max_examples=20)
def test_a_bootstrap_sample_has_as_many_images_as_the_set(n, seed):
    weights = resample(n, resamples=50, seed=seed)
    assert (weights.sum(axis=1) == n).all()
    assert (weights == resample(n, resamples=50, seed=seed)).all()


def test_the_interval_of_a_mean_is_scipys():
    values = np.random.default_rng(0).beta(5, 2, 200)
    low, high = bootstrap_interval(image_means(values, resample(200, 5000)))
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.05 * width)
    assert high == pytest.approx(expected.high, abs=0.05 * width)


def test_pooled_scores_of_a_sample_are_those_of_its_images_written_out():
    generator = np.random.default_rng(0)
    counts = Counts(*(torch.from_numpy(generator.integers(1, 99, (6, 1))) for _ in range(4)))
    weights = resample(6, resamples=5)
    found = pooled_scores(counts, weights)
    for row, iou, specificity in zip(weights, found["iou"], found["specificity"], strict=True):
        drawn = np.repeat(np.arange(6), row.astype(int))
        tp, fp, fn, tn = (float(count[drawn].sum()) for count in counts)
        assert iou == pytest.approx(tp / (tp + fp + fn))
        assert specificity == pytest.approx(tn / (tn + fp))


def test_undefined_values_are_left_out_of_means():
    values = np.array([1.0, np.nan, 3.0])
    weights = np.array([[1.0, 1, 1], [0, 2, 1], [0, 3, 0]])
    assert image_means(values, weights) == pytest.approx([2, 3, np.nan], nan_ok=True)


def test_one_image_has_an_interval_without_width():
    assert bootstrap_interval(image_means(np.array([0.7]), resample(1))) == (0.7, 0.7)


def test_a_clear_difference_is_found():
    generator = np.random.default_rng(0)
    hard = generator.uniform(0.5, 0.8, 100)  # what is hard for both cancels out
    a, b = counts_of(hard + 0.1 + generator.normal(0, 0.01, 100)), counts_of(hard)
    found = compare_pooled(a, b)
    assert found.difference == pytest.approx(0.1, abs=0.005)
    assert found.interval[0] < found.difference < found.interval[1]
    assert compare_pooled(b, a).difference == pytest.approx(-found.difference)
    means = compare_means(hard + 0.1, hard)
    assert means.difference == pytest.approx(0.1)
    assert means.p_value < 1e-6


def test_a_difference_within_its_interval_is_none():
    generator = np.random.default_rng(0)
    a, b = generator.uniform(0.6, 0.9, (2, 50))
    for found in (compare_pooled(counts_of(a), counts_of(b)), compare_means(a, b)):
        assert found.interval[0] < 0 < found.interval[1]
    assert compare_means(a, b).p_value > 0.05


def test_intervals_and_p_values_of_differences_are_those_of_scipy():
    first, second = np.random.default_rng(3).beta(5, 2, (2, 80))
    found = compare_means(first, second)
    assert found.p_value == pytest.approx(stats.wilcoxon(first, second).pvalue)

    def difference(a, b, axis):
        return (a - b).mean(axis=axis)

    expected = stats.bootstrap(
        (first, second),
        difference,
        paired=True,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.interval == pytest.approx((expected.low, expected.high), abs=0.006)


def test_the_interval_of_pooled_scores_is_that_of_scipy():
    generator = np.random.default_rng(5)
    a, b = (generator.uniform(0.5, 0.95, 90) for _ in range(2))
    tp = (np.stack([a, b]) * 1000).round()

    def difference(first, second, axis):
        return (first.sum(axis=axis) - second.sum(axis=axis)) / (1000 * 90)

    expected = stats.bootstrap(
        tuple(tp),
        difference,
        paired=True,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = compare_pooled(counts_of(a), counts_of(b))
    assert found.interval == pytest.approx((expected.low, expected.high), abs=0.004)


def test_a_model_does_not_differ_from_itself():
    jaccard = np.linspace(0.2, 0.9, 30)
    found = compare_pooled(counts_of(jaccard), counts_of(jaccard))
    assert (found.difference, found.interval) == (0, (0, 0))
    assert compare_means(jaccard, jaccard).p_value == 1


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        values = generator.uniform(0.4, 1.0, 60)
        low, high = bootstrap_interval(image_means(values, resample(60, 500, seed)))
        covered += low <= 0.7 <= high
    assert 88 <= covered <= 100


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="not scored on the same images"):
        compare_pooled(counts_of([0.5, 0.6]), counts_of([0.5, 0.6], truth=900))
    with pytest.raises(ValueError, match="2 and 1"):
        compare_pooled(counts_of([0.5, 0.6]), counts_of([0.5]))


def test_holm_corrects_for_the_number_of_tests():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 × .01, 2 × .03, as it
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []
