"""SOAP, against another implementation."""

import copy

import pytest
import torch
from pytorch_optimizer import SOAP

from egeunet.models.registry import create_model
from egeunet.training.losses import DeepSupervisionLoss
from egeunet.training.soap import LARGEST_SIDE, Soap

# First gradients of full rank: within what a gradient says nothing of, any directions will do.
SHAPES = ((6, 6), (6, 6), (5, 5), (4, 1, 2, 2), (1, 4, 2, 2), (7,), (1,))


def _train(make, shapes, steps=35):
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]
    optimizer = make(weights)
    for _ in range(steps):
        optimizer.zero_grad()
        noise = [torch.randn(shape, generator=random) for shape in shapes]
        loss = sum(
            ((weight * 3).sin() * one).sum() + (weight**2).sum()
            for weight, one in zip(weights, noise, strict=True)
        )
        loss.backward()
        optimizer.step()
    return weights


def test_the_steps_are_those_of_another_implementation():
    """Through three looks for the directions; a convolution's weight is a matrix."""
    settings = {"lr": 0.01, "weight_decay": 0.1}
    ours = _train(lambda weights: Soap(weights, **settings), SHAPES)

    def oracle(weights):
        # What it has no name for: weights of more than two axes as matrices.
        for weight in weights:
            if weight.ndim == 4:
                weight.data = weight.data.reshape(4, 4)
        return SOAP(weights, **settings)

    shapes = [(4, 4) if len(shape) == 4 else shape for shape in SHAPES]
    theirs = _train(oracle, shapes)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.reshape(their.shape), their, rtol=1e-3, atol=1e-4)


def test_a_side_that_is_too_long_has_no_directions():
    shapes = ((4, LARGEST_SIDE + 1), (LARGEST_SIDE + 1, 4))
    settings = {"lr": 0.01, "weight_decay": 0.1}
    ours = _train(lambda weights: Soap(weights, **settings), shapes, steps=15)
    theirs = _train(
        lambda weights: SOAP(weights, max_precondition_dim=LARGEST_SIDE, **settings),
        shapes,
        steps=15,
    )
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-3, atol=1e-4)


def test_it_goes_on_from_its_state():
    weight = torch.randn(5, 3, requires_grad=True)
    optimizer = Soap([weight])

    def step(weight, optimizer, number):
        weight.grad = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
        optimizer.step()

    for number in range(12):
        step(weight, optimizer, number)
    other = weight.detach().clone().requires_grad_()
    resumed = Soap([other])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in range(12, 24):
        step(weight, optimizer, number)
        step(other, resumed, number)
    assert torch.equal(weight, other)


def rank_1(sides, seed):
    """A gradient of rank 1 up to rounding, as of a layer whose inputs are all but equal."""
    random = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(side, generator=random) for side in sides)
    gradient = torch.outer(a, b)
    return gradient * (1 + 1e-7 * torch.randn(sides, generator=random))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
@pytest.mark.parametrize("sides", [(64, 48), (100, 9), (2, 2)])
def test_first_gradients_of_rank_1_give_orthogonal_directions(sides, scale):
    weight = torch.zeros(sides, requires_grad=True)
    optimizer = Soap([weight], lr=0.01)
    for step in range(12):
        weight.grad = scale * rank_1(sides, step)
        optimizer.step()
        for side in ("left", "right"):
            directions = optimizer.state[weight][f"{side}_directions"][0]
            identity = torch.eye(len(directions))
            torch.testing.assert_close(directions @ directions.T, identity, rtol=0, atol=1e-4)
    assert torch.isfinite(weight).all()
    assert weight.norm() < 12 * 0.01 * weight.numel() ** 0.5  # a step is no longer than Adam's


@pytest.mark.parametrize("seed", [2, 3])
def test_an_untrained_network_and_random_images_train(seed):
    """Their first gradients are all but of rank 1; float32 `eigh` fails on some processors."""
    torch.manual_seed(seed)
    model, loss = create_model("egeunet"), DeepSupervisionLoss()
    optimizer = Soap(model.parameters(), lr=3e-4)
    for _ in range(3):
        images, masks = 255 * torch.rand(2, 3, 64, 64), (torch.rand(2, 1, 64, 64) > 0.5).float()
        optimizer.zero_grad()
        total = loss(model(images), masks)
        total.backward()
        assert torch.isfinite(total)
        optimizer.step()
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_where_linear_algebra_fails_the_next_best_directions_are_taken(monkeypatch, fails):
    eigh, calls = torch.linalg.eigh, []

    def failing(matrix):
        calls.append(matrix)
        if len(calls) <= fails:
            raise torch.linalg.LinAlgError("did not converge")
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    weight = torch.zeros(3, 4, requires_grad=True)
    optimizer = Soap([weight])
    for _ in range(2):
        weight.grad = torch.randn(3, 4)
        optimizer.step()
    assert torch.isfinite(weight).all()
    assert weight.abs().min() > 0


@pytest.mark.parametrize("late", [0, 1])
def test_one_of_several_weights_of_a_shape_may_lack_a_gradient_now_and_then(late):
    weights = [torch.zeros(3, 3, requires_grad=True) for _ in range(2)]
    optimizer = Soap(weights, lr=0.01)
    moved = []
    for step in range(8):
        for index, weight in enumerate(weights):
            weight.grad = None if index == late and step in (0, 1, 5) else torch.rand(3, 3)
        before = weights[late].detach().clone()
        optimizer.step()
        moved.append(not torch.equal(weights[late], before))
    assert moved == [step not in (0, 1, 5) for step in range(8)]
    assert all(torch.isfinite(weight).all() for weight in weights)


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    weights = [torch.full((3, 2), 2.0, requires_grad=True) for _ in range(2)]
    by_closure, plain = (Soap([weight], lr=0.1) for weight in weights)

    def closure():
        by_closure.zero_grad()
        loss = weights[0].square().sum()
        loss.backward()
        return loss

    for step in range(5):
        loss = by_closure.step(closure)
        plain.zero_grad()
        expected = weights[1].square().sum()
        expected.backward()
        plain.step()
        assert torch.equal(loss, expected), step
    assert torch.equal(*weights)


@pytest.mark.parametrize("frozen", [0, 1])
def test_weights_without_a_gradient_stay(frozen):
    weights = [torch.ones(3, 3, requires_grad=True) for _ in range(2)]
    optimizer = Soap(weights)
    for _ in range(3):
        weights[1 - frozen].grad = torch.rand(3, 3)
        optimizer.step()
    assert torch.equal(weights[frozen], torch.ones(3, 3))
    assert not torch.equal(weights[1 - frozen], torch.ones(3, 3))


def test_a_gradient_that_is_not_finite_ends_in_weights_that_are_not():
    """The training says so by its loss; the first step must not fail in the linear algebra."""
    weight = torch.ones(3, 3, requires_grad=True)
    optimizer = Soap([weight])
    for _ in range(2):
        weight.grad = torch.full((3, 3), torch.nan)
        optimizer.step()
    assert weight.isnan().all()
