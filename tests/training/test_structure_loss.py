"""The structure loss against its formula, pixel by pixel, and where formulas break."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from egeunet.training.losses import DeepSupervisionLoss
from egeunet.training.structure_loss import boundary_weights, structure_loss


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


@pytest.mark.parametrize("value", [-1e4, 1e4])
@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_extreme_logits_and_empty_masks_stay_finite(value, truth):
    logits = torch.full((1, 1, 4, 4), value, requires_grad=True)
    loss = structure_loss(logits, torch.full((1, 1, 4, 4), truth))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_bfloat16_is_computed_in_float32():
    logits, target = torch.randn(2, 1, 48, 48).bfloat16(), disc()
    torch.testing.assert_close(
        structure_loss(logits, target), structure_loss(logits.float(), target)
    )


@pytest.mark.parametrize("classes", [1, 3])
def test_three_outputs_are_weighed_as_in_transfuse(classes):
    outputs = [torch.randn(2, classes, 32, 32) for _ in range(3)]
    target = torch.randint(0, max(2, classes), (2, 32, 32))
    target = target.unsqueeze(1).float() if classes == 1 else target
    single = [structure_loss(output, target) for output in outputs]
    loss = DeepSupervisionLoss((0.2, 0.3), output_weight=0.5, term=structure_loss)
    parts = loss((outputs[0], (outputs[1], outputs[2])), target)
    torch.testing.assert_close(parts.total, 0.5 * single[0] + 0.2 * single[1] + 0.3 * single[2])
    torch.testing.assert_close(parts.output, single[0])
