"""Losses against their formulas, MONAI's and the definition of the Lovász extension."""

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss, TverskyLoss
from scipy.ndimage import uniform_filter
from torch.nn import functional as F

from egeunet.errors import UsageError
from egeunet.training.losses import (
    TERMS,
    DeepSupervisionLoss,
    boundary_weights,
    cross_entropy_dice,
    dice_loss,
    distillation,
    structure_loss,
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


def test_stages_are_weighted_from_the_deepest():
    target = (torch.rand(2, 1, 8, 8) > 0.5).float()
    logits, stages = torch.randn(2, 1, 8, 8), [torch.randn(2, 1, 8, 8) for _ in range(5)]
    total = DeepSupervisionLoss()((logits, stages), target)
    weighted = sum(
        w * cross_entropy_dice(s, target)
        for w, s in zip((0.1, 0.2, 0.3, 0.4, 0.5), stages, strict=True)
    )
    torch.testing.assert_close(total, cross_entropy_dice(logits, target) + weighted)


def test_a_plain_output_is_scored_alone():
    target = (torch.rand(2, 1, 8, 8) > 0.5).float()
    logits = torch.randn(2, 1, 8, 8)
    assert DeepSupervisionLoss()(logits, target) == cross_entropy_dice(logits, target)


def test_fewer_stages_take_the_weights_of_the_shallow_ones():
    target = (torch.rand(2, 1, 8, 8) > 0.5).float()
    logits, stages = torch.randn(2, 1, 8, 8), [torch.randn(2, 1, 8, 8) for _ in range(2)]
    total = DeepSupervisionLoss()((logits, stages), target)
    weighted = 0.4 * cross_entropy_dice(stages[0], target)
    weighted = weighted + 0.5 * cross_entropy_dice(stages[1], target)
    torch.testing.assert_close(total, cross_entropy_dice(logits, target) + weighted)


def test_more_stages_than_weights_is_an_error():
    target = torch.zeros(1, 1, 8, 8)
    with pytest.raises(UsageError, match=r"loss\.stage_weights"):
        DeepSupervisionLoss((1.0,))((target, [target] * 4), target)


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


def disc(batch=2, size=48):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((y - 20) ** 2 + (x - 10) ** 2 < 15**2).float()  # cut by the left border
    return inside.expand(batch, 1, size, size).clone()


def test_weights_are_those_of_a_box_filter():
    truth = disc(1)
    mean = uniform_filter(truth[0, 0].double().numpy(), size=31, mode="constant")
    expected = 1 + 5 * np.abs(mean - truth[0, 0].numpy())
    np.testing.assert_allclose(boundary_weights(truth)[0, 0], expected, atol=1e-5)


def test_binary_is_the_formula_image_by_image():
    logits, target = torch.randn(3, 1, 40, 48).double(), (torch.rand(3, 1, 40, 48) > 0.7).double()
    expected = []
    for p, y in zip(torch.sigmoid(logits)[:, 0].numpy(), target[:, 0].numpy(), strict=True):
        w = 1 + 5 * np.abs(uniform_filter(y, size=31, mode="constant") - y)
        entropy = -(w * np.log(np.where(y == 1, p, 1 - p))).sum() / w.sum()
        iou = ((w * p * y).sum() + 1) / ((w * (p + y - p * y)).sum() + 1)
        expected.append(entropy + 1 - iou)
    assert structure_loss(logits, target).item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_two_classes_are_the_binary_loss():
    logits, target = torch.randn(2, 1, 48, 48), disc()
    pair = torch.cat((torch.zeros_like(logits), logits), dim=1)
    torch.testing.assert_close(
        structure_loss(pair, target[:, 0].long()), structure_loss(logits, target)
    )


def test_a_mistake_at_the_boundary_costs_more_than_one_far_from_it():
    target = torch.zeros(1, 1, 64, 64)
    target[..., :32] = 1
    right = 10 * (2 * target - 1)
    near, far = right.clone(), right.clone()
    near[..., 32] *= -1  # a column of false foreground beside the edge, and one 31 pixels away
    far[..., 63] *= -1
    assert structure_loss(near, target) > 1.5 * structure_loss(far, target)
    assert structure_loss(right, target) < 1e-3


@pytest.mark.parametrize("classes", [1, 3])
def test_three_outputs_are_weighed_as_in_transfuse(classes):
    outputs = [torch.randn(2, classes, 32, 32) for _ in range(3)]
    target = torch.randint(0, max(2, classes), (2, 32, 32))
    target = target.unsqueeze(1).float() if classes == 1 else target
    single = [structure_loss(output, target) for output in outputs]
    loss = DeepSupervisionLoss((0.2, 0.3), output_weight=0.5, term=structure_loss)
    total = loss((outputs[0], (outputs[1], outputs[2])), target)
    torch.testing.assert_close(total, 0.5 * single[0] + 0.2 * single[1] + 0.3 * single[2])


def test_distillation_is_the_divergence_from_the_teacher_and_its_entropy():
    student, soft = torch.randn(2, 1, 6, 5), torch.rand(2, 1, 6, 5)
    theirs = torch.cat((1 - soft, soft), dim=1)
    ours = torch.cat((torch.zeros_like(student), student), dim=1).log_softmax(1)
    divergence = F.kl_div(ours, theirs, reduction="none").sum(1).mean()
    entropy = -(theirs * theirs.log()).sum(1).mean()
    torch.testing.assert_close(distillation(student, soft), divergence + entropy)


def test_the_teacher_is_a_further_target_of_the_output_alone():
    masks, soft = (torch.rand(2, 1, 8, 8) > 0.5).float(), torch.rand(2, 1, 8, 8)
    logits, stage = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    loss = DeepSupervisionLoss(distill_weight=0.3)
    total = loss((logits, (stage,)), masks, soft)
    expected = loss((logits, (stage,)), masks) + 0.3 * distillation(logits, soft)
    torch.testing.assert_close(total, expected)
