"""What a step minimises."""

import torch
from torch.nn import functional as F

from egeunet.training.config import LossSettings
from egeunet.training.objective import Objective, distillation, make_loss


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
    loss = make_loss(LossSettings())
    total = Objective(loss, 0.3)((logits, (stage,)), masks, soft)
    expected = loss((logits, (stage,)), masks).total + 0.3 * distillation(logits, soft)
    torch.testing.assert_close(total, expected)
