"""SOAP, against another implementation."""

import copy

import pytest
import torch
from pytorch_optimizer import SOAP

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
