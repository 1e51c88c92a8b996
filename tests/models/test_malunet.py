"""MALUNet against the tensors of the published network, and the tie of its external attention."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from egeunet.errors import EgeunetError, UsageError
from egeunet.models import convert_official_state_dict, count_cost, create_model
from egeunet.models.malunet import ExternalAttention


def test_cost_is_that_of_the_paper():
    cost = count_cost(create_model("malunet"))
    assert cost.params == 177_943
    assert cost.macs == pytest.approx(0.0827e9, abs=5e4)


@pytest.fixture(scope="module")
def published(golden):
    with np.load(golden / "malunet_official.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture
def state(published):
    return {
        key.removeprefix("state_dict/"): tensor
        for key, tensor in published.items()
        if key.startswith("state_dict/")
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_published_output(published, state, dtype, tolerance):
    model = create_model("malunet").to(dtype).eval()
    model.load_state_dict(convert_official_state_dict("malunet", state))
    image = published["input"].to(dtype) * published["input_scale"].item()
    with torch.no_grad():
        probability = torch.sigmoid(model(image))
    assert (probability - published["output"]).abs().max() < tolerance


def test_a_checkpoint_whose_tie_was_cut_is_refused(state):
    state["decoder2.1.linear_1.weight"] = state["decoder2.1.linear_1.weight"] + 0.1
    with pytest.raises(EgeunetError, match="not the transpose of linear_0"):
        convert_official_state_dict("malunet", state)


def attentions(model):
    return [module for module in model.modules() if isinstance(module, ExternalAttention)]


def assert_tied(model):
    for block in attentions(model):
        torch.testing.assert_close(block.key, block.value.T)
        torch.testing.assert_close(block.memory(), block.key)


def train(model, optimizer, steps):
    images = torch.rand(2, 3, 64, 64) * 255
    for _ in range(steps):
        optimizer.zero_grad()
        (model(images) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, weight_decay=1e-2),
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3),
    ],
    ids=["SGD", "AdamW", "RMSprop"],
)
def test_the_tie_survives_copies_precision_files_and_optimisers(optimizer):
    """In the published code a deep copy or a change of precision or device already cuts it."""
    model = copy.deepcopy(create_model("malunet")).double().float()
    restored = create_model("malunet")
    restored.load_state_dict(load(save(model.state_dict())))
    assert len(attentions(restored)) == 6
    assert_tied(restored)
    before = [block.memory().detach() for block in attentions(restored)]
    train(restored, optimizer(restored.parameters()), steps=8)
    assert_tied(restored)
    for block, old in zip(attentions(restored), before, strict=True):
        assert not torch.allclose(block.memory(), old, rtol=1e-5, atol=1e-6)


def test_adamw_moves_the_pair_as_it_would_move_one_tensor():
    block, x, wish = ExternalAttention(8), *torch.randn(2, 2, 8, 5, 5)
    single = block.memory().detach().clone().requires_grad_()
    pair = torch.optim.AdamW([block.key, block.value], lr=1e-2)
    alone = torch.optim.AdamW([single], lr=1e-2)
    for _ in range(10):
        tied = {"key": single, "value": single.T}
        outputs = block(x), torch.func.functional_call(block, tied, x)
        for optimizer, output in zip((pair, alone), outputs, strict=True):
            optimizer.zero_grad()
            (output - wish).square().sum().backward()
        pair.step()
        alone.step()
    torch.testing.assert_close(block.memory(), single, rtol=1e-4, atol=1e-4)


def test_whatever_the_two_tensors_hold_one_matrix_computes():
    """Even an optimizer that treats them differently cannot untie keys and values."""
    block = ExternalAttention(8).eval()
    x = torch.randn(1, 8, 4, 4)
    torch.nn.init.normal_(block.key)
    mean = {"key": block.memory(), "value": block.memory().T}
    torch.testing.assert_close(torch.func.functional_call(block, mean, x), block(x))


def test_wrong_widths_are_named():
    with pytest.raises(UsageError, match="six widths"):
        create_model("malunet", widths=(8, 16, 24, 32, 48, 66))
