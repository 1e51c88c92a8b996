"""The loss against its formula on probabilities, and where formulas break."""

import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional as F

from egeunet.errors import UsageError
from egeunet.training.losses import (
    STAGE_WEIGHTS,
    DeepSupervisionLoss,
    cross_entropy_dice,
    dice_loss,
)


def test_binary_terms_are_those_on_probabilities():
    logits, target = torch.randn(3, 1, 8, 8), (torch.rand(3, 1, 8, 8) > 0.5).float()
    p = torch.sigmoid(logits)
    overlap, total = (p * target).sum((1, 2, 3)), (p + target).sum((1, 2, 3))
    expected = F.binary_cross_entropy(p, target) + 1 - ((2 * overlap + 1) / (total + 1)).mean()
    torch.testing.assert_close(cross_entropy_dice(logits, target), expected)


def test_multi_class_dice_is_monais():
    logits, target = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    oracle = DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1, smooth_dr=1
    )
    torch.testing.assert_close(dice_loss(logits, target), oracle(logits, target.unsqueeze(1)))


@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_extreme_logits_stay_finite(value):
    logits = torch.full((1, 1, 4, 4), value, requires_grad=True)
    loss = cross_entropy_dice(logits, torch.zeros(1, 1, 4, 4))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_bfloat16_logits_lose_little():
    logits, target = torch.randn(2, 1, 64, 64), (torch.rand(2, 1, 64, 64) > 0.5).float()
    coarse = cross_entropy_dice(logits.bfloat16(), target)
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, cross_entropy_dice(logits, target), rtol=1e-2, atol=1e-3)


def test_stages_are_weighted_from_the_deepest():
    target = (torch.rand(2, 1, 8, 8) > 0.5).float()
    logits, stages = torch.randn(2, 1, 8, 8), [torch.randn(2, 1, 8, 8) for _ in range(5)]
    parts = DeepSupervisionLoss()((logits, stages), target)
    weighted = sum(
        w * cross_entropy_dice(s, target) for w, s in zip(STAGE_WEIGHTS, stages, strict=True)
    )
    torch.testing.assert_close(parts.output, cross_entropy_dice(logits, target))
    torch.testing.assert_close(parts.total, parts.output + weighted)


def test_a_plain_output_is_scored_alone():
    target = (torch.rand(2, 1, 8, 8) > 0.5).float()
    parts = DeepSupervisionLoss()(torch.randn(2, 1, 8, 8), target)
    assert parts.total == parts.output


def test_fewer_stages_take_the_weights_of_the_shallow_ones():
    target = (torch.rand(2, 1, 8, 8) > 0.5).float()
    logits, stages = torch.randn(2, 1, 8, 8), [torch.randn(2, 1, 8, 8) for _ in range(2)]
    parts = DeepSupervisionLoss()((logits, stages), target)
    weighted = 0.4 * cross_entropy_dice(stages[0], target)
    weighted = weighted + 0.5 * cross_entropy_dice(stages[1], target)
    torch.testing.assert_close(parts.total, parts.output + weighted)


def test_more_stages_than_weights_is_an_error():
    target = torch.zeros(1, 1, 8, 8)
    with pytest.raises(UsageError, match=r"loss\.stage_weights"):
        DeepSupervisionLoss((1.0,))((target, [target] * 4), target)
