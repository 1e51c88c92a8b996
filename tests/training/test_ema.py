"""The moving average of weights, against its closed form."""

import torch
from torch import nn

from egeunet.training.ema import ModelEma


def test_the_average_is_the_weighted_sum_of_all_that_was():
    model, decay = nn.Linear(3, 2).double(), 0.7
    average = ModelEma(model, decay)
    expected = [(1.0, model.weight.detach().clone())]
    for step in range(1, 41):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update(step)
        d = min(decay, (1 + step) / (10 + step))
        expected = [(d * share, value) for share, value in expected]
        expected.append((1 - d, model.weight.detach().clone()))
    torch.testing.assert_close(average.model.weight, sum(s * value for s, value in expected))


def test_running_statistics_are_averaged_and_counters_copied():
    model = nn.BatchNorm1d(2)
    average = ModelEma(model, 0.5)
    model(torch.randn(8, 2) + 10)
    average.update(100)
    torch.testing.assert_close(average.model.running_mean, model.running_mean / 2)
    assert average.model.num_batches_tracked == 1


def test_the_model_goes_on_untouched_and_the_average_has_no_gradient():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    before = model[0].weight.detach().clone()
    average = ModelEma(model, 0.5)
    average.update(1)
    assert torch.equal(model[0].weight, before)
    assert model.training
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
