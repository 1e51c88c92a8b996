import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    recall_score,
)

from egeunet.metrics.counts import (
    SCORES,
    Counts,
    PixelCounts,
    count_pixels,
    mean_foreground,
    predict_classes,
    scores,
)

EMPTY, FULL, DOT = torch.zeros(8, 9), torch.ones(8, 9), torch.zeros(8, 9)
DOT[3, 4] = 1
RANDOM = (torch.rand(8, 9, generator=torch.Generator().manual_seed(1)) > 0.6).float()
MASKS = {"empty": EMPTY, "full": FULL, "dot": DOT, "random": RANDOM}

pairs = st.integers(1, 3).flatmap(
    lambda classes: st.tuples(
        st.just(1 if classes == 1 else classes),
        *[arrays(np.uint8, (3, 5, 7), elements=st.integers(0, max(1, classes - 1)))] * 2,
    )
)


def logits_of(classes: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Logits that are decoded to these classes."""
    if num_classes == 1:
        return classes.unsqueeze(1).float() * 4 - 2
    return torch.nn.functional.one_hot(classes.long(), num_classes).permute(0, 3, 1, 2) * 5.0


@pytest.mark.parametrize("prediction", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("target", MASKS.values(), ids=MASKS.keys())
def test_binary_counts_are_those_of_scikit_learn(prediction, target):
    tp, fp, fn, tn = (int(count) for count in count_pixels(prediction[None], target[None]))
    expected = confusion_matrix(target.ravel(), prediction.ravel(), labels=[0, 1])
    assert [[tn, fp], [fn, tp]] == expected.tolist()


def test_multiclass_counts_are_the_margins_of_the_confusion_matrix():
    generator = torch.Generator().manual_seed(2)
    prediction, target = torch.randint(0, 4, (2, 1, 16, 16), generator=generator)
    counts = count_pixels(prediction, target, num_classes=4)
    matrix = confusion_matrix(target.ravel(), prediction.ravel(), labels=range(4))
    assert counts.tp[0].tolist() == np.diag(matrix).tolist()
    assert (counts.tp + counts.fn)[0].tolist() == matrix.sum(axis=1).tolist()
    assert (counts.tp + counts.fp)[0].tolist() == matrix.sum(axis=0).tolist()


@pytest.mark.parametrize("target", [RANDOM, FULL, DOT], ids=["random", "full", "dot"])
@pytest.mark.parametrize("prediction", MASKS.values(), ids=MASKS.keys())
def test_binary_scores_are_those_of_scikit_learn(prediction, target):
    found = scores(count_pixels(prediction[None], target[None]))
    true, said = target.ravel(), prediction.ravel()
    expected = {
        "iou": jaccard_score(true, said),
        "dice": f1_score(true, said),
        "accuracy": accuracy_score(true, said),
        "sensitivity": recall_score(true, said),
    }
    if bool(true.all()):  # no background: undefined
        assert found["specificity"].isnan().all()
    else:
        expected["specificity"] = recall_score(true, said, pos_label=0)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value), name


def test_multiclass_scores_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(3)
    prediction, target = torch.randint(0, 3, (2, 4, 16, 16), generator=generator)
    metric = PixelCounts(3)
    metric.update(logits_of(prediction, 3), target)
    found = scores(metric.counts)
    iou, dice = (
        score(target.ravel(), prediction.ravel(), average=None)
        for score in (jaccard_score, f1_score)
    )
    np.testing.assert_allclose(found["iou"], iou)
    np.testing.assert_allclose(found["dice"], dice)
    assert metric.pooled()["iou"] == pytest.approx(iou[1:].mean())


def test_an_empty_prediction_on_an_empty_truth_is_right():
    metric = PixelCounts()
    metric.update(torch.full((1, 1, 4, 4), -1.0), torch.zeros(1, 1, 4, 4))
    assert metric.pooled() == dict.fromkeys(SCORES, 1.0)


def test_an_absent_class_does_not_lift_the_mean():
    target = torch.tensor([[[0, 1], [1, 1]]])
    prediction = torch.tensor([[[0, 1], [0, 0]]])
    metric = PixelCounts(3)  # nothing has class 2
    metric.update(logits_of(prediction, 3), target)
    assert metric.pooled()["iou"] == pytest.approx(1 / 3)


def test_foreground_starts_at_a_probability_of_one_half():
    assert predict_classes(torch.tensor([-1e-6, 0.0, 1e-6]).view(1, 1, 1, 3)).tolist() == [
        [[0, 1, 1]]
    ]


def test_masks_of_other_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) and target \(1, 4, 5\)"):
        count_pixels(torch.zeros(1, 4, 4), torch.zeros(1, 1, 4, 5))


@settings(deadline=None, max_examples=60)
@given(pairs)
def test_what_holds_for_all_masks(case):
    num_classes, prediction, target = case[0], torch.from_numpy(case[1]), torch.from_numpy(case[2])
    counts = count_pixels(prediction, target, num_classes)
    found = scores(counts)

    assert all(count.min() >= 0 for count in counts)
    assert (sum(counts) == 5 * 7).all()
    for score in found.values():
        known = score[~score.isnan()]
        assert ((known >= 0) & (known <= 1)).all()
    torch.testing.assert_close(found["dice"], 2 * found["iou"] / (1 + found["iou"]), equal_nan=True)
    assert not any(mean_foreground(score).isnan().any() for score in found.values())

    swapped = scores(count_pixels(target, prediction, num_classes))
    for name in ("iou", "dice", "accuracy"):
        torch.testing.assert_close(found[name], swapped[name], equal_nan=True)


@settings(deadline=None, max_examples=40)
@given(pairs, st.permutations(range(3)))
def test_pooling_is_summing_in_any_order_and_batching(case, order):
    num_classes, prediction, target = case[0], torch.from_numpy(case[1]), torch.from_numpy(case[2])
    at_once, one_by_one = PixelCounts(num_classes), PixelCounts(num_classes)
    at_once.update(logits_of(prediction, num_classes), target)
    for index in order:
        one_by_one.update(logits_of(prediction[[index]], num_classes), target[[index]])
    per_image = count_pixels(prediction, target, num_classes)
    for a, b, c in zip(at_once.counts, one_by_one.counts, per_image, strict=True):
        assert a.tolist() == b.tolist() == c.sum(dim=0).tolist()
    assert at_once.pooled() == one_by_one.pooled()


def test_counts_do_not_lose_pixels_of_large_sets():
    many = Counts(*(torch.tensor([[2**40 + 1]]),) * 4)
    assert float(scores(many)["iou"]) == pytest.approx(1 / 3)
    metric = PixelCounts()
    metric.counts.tp.add_(2**24)  # beyond this, float32 no longer counts by ones
    metric.update(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1))
    assert int(metric.counts.tp) == 2**24 + 1
