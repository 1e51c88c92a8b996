"""Losses of overlap against MONAI's, and the Lovász extension against its definition."""

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss, TverskyLoss
from torch.nn import functional as F

from egeunet.training.objective import TERMS


def binary(batch=3, size=12):
    logits = 2 * torch.randn(batch, 1, size, size + 3)
    target = (torch.rand(batch, 1, size, size + 3) > 0.6).float()
    target[0] = 0
    return logits, target


def classes(count=4):
    return torch.randn(2, count, 9, 8), torch.randint(0, count, (2, 9, 8))


@pytest.mark.parametrize("batch", [False, True])
def test_binary_jaccard_is_monais(batch):
    logits, target = binary()
    oracle = DiceLoss(sigmoid=True, jaccard=True, batch=batch, smooth_nr=2, smooth_dr=2)
    expected = F.binary_cross_entropy_with_logits(logits, target) + oracle(logits, target)
    loss = TERMS["bce_jaccard_batch" if batch else "bce_jaccard"]
    torch.testing.assert_close(loss(logits, target), expected)


@pytest.mark.parametrize("batch", [False, True])
def test_multi_class_jaccard_is_monais(batch):
    logits, target = classes()
    how = {"include_background": False, "to_onehot_y": True, "softmax": True}
    oracle = DiceLoss(**how, jaccard=True, batch=batch, smooth_nr=2, smooth_dr=2)
    expected = F.cross_entropy(logits, target) + oracle(logits, target.unsqueeze(1))
    loss = TERMS["bce_jaccard_batch" if batch else "bce_jaccard"]
    torch.testing.assert_close(loss(logits, target), expected)


def test_tversky_is_monais():
    logits, target = binary()
    oracle = TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7, smooth_nr=1, smooth_dr=1)
    torch.testing.assert_close(TERMS["tversky"](logits, target), oracle(logits, target))
    each = [oracle(one[None], truth[None]) for one, truth in zip(logits, target, strict=True)]
    expected = torch.stack(each).pow(0.75).mean()
    torch.testing.assert_close(TERMS["focal_tversky"](logits, target), expected)


def lovasz_extension(errors, truth):
    """∫ Δ({pixels with an error of at least t}) dt, Δ(M) = |M| / |truth ∪ M|, level by level."""
    total, below = 0.0, 0.0
    for level in np.unique(errors[errors > 0]):
        wrong = errors >= level
        total += (level - below) * wrong.sum() / (wrong | (truth == 1)).sum()
        below = level
    return total


def test_the_lovasz_hinge_is_the_extension_of_the_jaccard_loss():
    logits, target = (part.double() for part in binary())
    errors = np.maximum(0, 1 - (logits * (2 * target - 1)).numpy())
    pairs = zip(errors, target.numpy(), strict=True)
    expected = np.mean([lovasz_extension(one, truth) for one, truth in pairs])
    assert TERMS["lovasz"](logits, target).item() == pytest.approx(expected, rel=1e-12)
    entropy = F.binary_cross_entropy_with_logits(logits, target).item()
    both = TERMS["bce_lovasz"](logits, target).item()
    assert both == pytest.approx(expected + entropy, rel=1e-12)


def test_lovasz_softmax_is_the_extension_class_by_class():
    logits, target = classes()
    probability = logits.double().softmax(1).numpy()
    expected = [
        lovasz_extension(np.abs((truth == k) - one[k]), truth == k)
        for one, truth in zip(probability, target.numpy(), strict=True)
        for k in (1, 2, 3)
    ]
    loss = TERMS["lovasz"](logits.double(), target).item()
    assert loss == pytest.approx(np.mean(expected), rel=1e-12)


def test_lovasz_of_a_hard_mask_is_1_minus_jaccard():
    truth, said = torch.zeros(1, 10, 10).long(), torch.zeros(1, 10, 10)
    truth[:, :6], said[:, 4:9] = 1, 1
    logits = 1e4 * torch.stack((1 - said, said), dim=1)
    assert TERMS["lovasz"](logits, truth).item() == pytest.approx(1 - 20 / 90)


@pytest.mark.parametrize("name", TERMS)
def test_compiled_sums_and_formulas_agree(name):
    logits, target = binary(4, 40)
    wide = logits.double().requires_grad_()
    logits.requires_grad_()
    TERMS[name](wide, target.double()).backward()
    TERMS[name](logits, target).backward()
    torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("value", [-1e4, 1e4])
@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_extreme_logits_and_empty_masks_stay_finite(name, value, truth):
    logits = torch.full((2, 1, 4, 4), value, requires_grad=True)
    loss = TERMS[name](logits, torch.full((2, 1, 4, 4), truth))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", TERMS)
def test_bfloat16_is_computed_in_float32(name):
    logits, target = binary(2, 40)
    coarse = logits.bfloat16()
    torch.testing.assert_close(TERMS[name](coarse, target), TERMS[name](coarse.float(), target))
