"""What a step minimises, and the teacher in it."""

import pytest
import torch
from torch.nn import functional as F

from egeunet.errors import UsageError
from egeunet.files import sha256_file
from egeunet.training.checkpoint import load_checkpoint
from egeunet.training.objective import Objective, distillation, make_loss
from egeunet.training.recipe import LossSettings, load_recipe
from egeunet.training.run import SPLIT, read_parts
from egeunet.training.trainer import train


@pytest.fixture
def teacher(words, tmp_path):
    """A run of one epoch, as a setting."""
    more = ["trainer.epochs=1", "seed=5", f"out={tmp_path / 'teacher'}"]
    return f"distill.teacher={train(load_recipe(words[0], [*words[1:], *more]))}"


@pytest.mark.parametrize("classes", [1, 3])
def test_distillation_is_the_divergence_from_the_teacher_and_its_entropy(classes):
    student, teacher = torch.randn(2, 2, classes, 6, 5)

    def log_probabilities(logits):
        if classes == 1:
            logits = torch.cat((torch.zeros_like(logits), logits), dim=1)
        return logits.log_softmax(1).movedim(1, -1).flatten(0, 2)

    theirs = log_probabilities(teacher)
    ours = log_probabilities(student)
    divergence = F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
    entropy = -(theirs.exp() * theirs).sum(1).mean()
    torch.testing.assert_close(distillation(student, teacher), divergence + entropy)


def test_the_teacher_is_a_further_target_of_the_output_alone():
    images, masks = torch.randn(2, 1, 8, 8), (torch.rand(2, 1, 8, 8) > 0.5).float()
    logits, stage = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    teacher = torch.nn.Conv2d(1, 1, 3, padding=1)
    loss = make_loss(LossSettings())
    total = Objective(loss, teacher, 0.3)(images, (logits.requires_grad_(), (stage,)), masks)
    expected = loss((logits, (stage,)), masks).total + 0.3 * distillation(logits, teacher(images))
    torch.testing.assert_close(total, expected)
    total.backward()
    assert teacher.weight.grad is None


def test_a_student_records_its_teacher_and_resumes_with_it_alone(words, tmp_path, teacher):
    words = [*words, "trainer.epochs=1", teacher]
    recipe = load_recipe(words[0], words[1:])
    folder = train(recipe)
    recorded = load_recipe(folder)
    assert recorded.distill.sha256 == sha256_file(tmp_path / "teacher" / "model.safetensors")
    assert recorded.hash() not in (recipe.hash(), load_recipe(words[0], words[1:-1]).hash())
    assert load_recipe(folder, ["distill.teacher=elsewhere"]).hash() == recorded.hash()
    train(recipe, resume=True)
    alone = train(load_recipe(words[0], [*words[1:-1], f"out={tmp_path / 'alone'}"]))
    assert load_checkpoint(alone)["history"] != load_checkpoint(folder)["history"]

    (tmp_path / "alone" / "model.safetensors").replace(tmp_path / "teacher" / "model.safetensors")
    with pytest.raises(UsageError, match=r"distill\.sha256"):
        train(recipe, resume=True)
    with pytest.raises(UsageError, match=r"has the SHA-256"):
        train(recorded, resume=True)


def test_a_teacher_that_knows_the_answers_is_refused(words, tmp_path, teacher):
    known = read_parts(tmp_path / "teacher")
    test = [sample for sample, part in known.items() if part == "test"]
    more = ["trainer.epochs=1", "data.protocol=paper", f"out={tmp_path / 'selected'}"]
    train(load_recipe(words[0], [*words[1:], *more]))
    selected = f"distill.teacher={tmp_path / 'selected'}"
    with pytest.raises(UsageError, match=r"trained or selected on \d+ .* take one of the same"):
        train(load_recipe(words[0], [*words[1:], selected]))

    split = tmp_path / "teacher" / SPLIT
    split.write_text(split.read_text().replace(f"{test[0]} test", f"{test[0]} train"))
    with pytest.raises(UsageError, match=rf"on 1 of the \d+ images .* such as {test[0]}"):
        train(load_recipe(words[0], [*words[1:], teacher]))


@pytest.mark.parametrize(
    ("setting", "answer"),
    [
        ("data.size=48", r"1 classes at \(32, 32\), not 1 at \(48, 48\)"),
        ("distill.teacher=nowhere", "not a run folder with weights"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named(words, teacher, setting, answer):
    with pytest.raises(UsageError, match=answer):
        train(load_recipe(words[0], [*words[1:], teacher, setting]))
