"""EGE-UNet against the tensors of the published network, and Table 2's costs."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from egeunet.errors import UsageError
from egeunet.models import convert_official_state_dict, count_cost, create_model
from egeunet.models.layers import ChannelLayerNorm
from egeunet.training.losses import DeepSupervisionLoss

# name: parameters, MACs (exact for the network itself, else to the printed digits of MODELS.md)
COSTS = {
    "egeunet": (53_374, 72_096_256, 0),
    "egeunet_baseline": (107_041, 0.0724e9, 5e4),
    "egeunet_baseline_ghpa": (34_273, 0.0584e9, 5e4),
    "egeunet_baseline_gab": (126_142, 0.0861e9, 5e4),
    "egeunet_no_multi_axis": (73_526, 0.0738e9, 5e4),
    "egeunet_no_dw": (49_948, 0.0719e9, 5e4),
    "egeunet_no_mask": (52_449, 0.0701e9, 5e4),
    "egeunet_no_dilation": (53_374, 0.0721e9, 5e4),
}


@pytest.mark.parametrize("name", COSTS)
def test_cost_is_that_of_the_paper(name):
    params, macs, tolerance = COSTS[name]
    cost = count_cost(create_model(name))
    assert cost.params == params
    assert abs(cost.macs - macs) <= tolerance


@pytest.fixture(scope="module", params=["vendored", "shared"])
def published(request):
    """Tensors of the published network: those of this repository, and all of them where present."""
    vendored = request.param == "vendored"
    folder = Path(__file__).with_name("golden") if vendored else request.getfixturevalue("golden")
    with np.load(folder / "egeunet_official.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture
def model(published):
    state = {
        key.removeprefix("state_dict/"): tensor
        for key, tensor in published.items()
        if key.startswith("state_dict/")
    }
    model = create_model("egeunet")
    model.load_state_dict(convert_official_state_dict("egeunet", state))
    return model


# These weights amplify rounding: a relative change of the input by 1e-7 moves the published code's
# own float32 output by 0.8e-4 … 2e-4. In float64, the tensors' own precision, 1e-6 must hold.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-6)])
def test_every_published_output(model, published, dtype, tolerance):
    logits, stages = model.to(dtype)(published["input"].to(dtype))
    outputs = dict(
        zip(("_stage5", "_stage4", "_stage3", "_stage2", "_stage1"), stages, strict=True)
    )
    for name, output in {"": logits, **outputs}.items():
        expected = published["probability" + name]
        step = output.shape[-1] // expected.shape[-1]
        difference = (torch.sigmoid(output)[..., ::step, ::step] - expected).abs().max()
        assert difference < tolerance, name


def test_eval_mode_gives_the_same_logits_alone(model, published):
    image = published["input"].float()
    logits, _ = model(image)
    torch.testing.assert_close(model.eval()(image), logits)


def test_published_loss(model, published):
    model.double()
    output = model(published["input"].double())
    loss = DeepSupervisionLoss()(output, published["target"].double())
    assert loss.item() == pytest.approx(published["loss"].item(), rel=1e-5)


def test_published_gradients(model, published):
    """The golden norms come from a loss on probabilities, whose gradient vanishes where a pixel is
    wrong by a logit beyond ±28; so they are compared through that form, written here plainly."""
    logits, stages = model.double()(published["input"].double())
    target = published["target"].double()
    loss = torch.zeros((), dtype=torch.float64)
    for weight, output in zip((1, 0.1, 0.2, 0.3, 0.4, 0.5), (logits, *stages), strict=True):
        p, y = torch.sigmoid(output).flatten(1), target.flatten(1)
        dice = (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)
        loss = loss + weight * (F.binary_cross_entropy(p, y) + 1 - dice.mean())
    loss.backward()
    gradients = {
        "encoder1.0.weight": model.encoder[0].block.weight.grad,
        "GAB3.g2.1.weight": model.bridges[2].convs[2].weight.grad,
        "encoder5.0.params_zx": model.encoder[4].block.channel_height.tensor.grad,
    }
    for name, gradient in gradients.items():
        expected = published[f"grad_norm/{name}"].item()
        assert gradient.norm().item() == pytest.approx(expected, rel=1e-6), name


def test_initial_weights_are_those_of_the_published_code():
    """Convolutions: normal, std √(2 / fan_out), fan_out within a group in 2-D and of all in 1-D."""
    model = create_model("egeunet")
    seen: dict[type, list] = {nn.Conv1d: [], nn.Conv2d: []}
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            fan_out //= module.groups if isinstance(module, nn.Conv2d) else 1
            seen[type(module)].append(module.weight.flatten() / math.sqrt(2 / fan_out))
            assert isinstance(module, nn.Conv1d) or not module.bias.any()
        elif isinstance(module, (nn.GroupNorm, ChannelLayerNorm)):
            assert (module.weight == 1).all()
            assert not module.bias.any()
    for kind, weights in seen.items():
        drawn = torch.cat(weights).detach()
        error = 5 / math.sqrt(len(drawn))
        assert abs(drawn.mean()) < error, kind
        assert drawn.std() == pytest.approx(1, abs=error), kind
        assert drawn.pow(4).mean() == pytest.approx(3, abs=10 * error), kind
    learned = [value for name, value in model.named_parameters() if name.endswith(".tensor")]
    assert len(learned) == 6 * 3
    assert all((value == 1).all() for value in learned)


def test_leftovers_of_published_files_do_not_disturb(published):
    state = {
        "module." + key.removeprefix("state_dict/"): tensor
        for key, tensor in published.items()
        if key.startswith("state_dict/")
    }
    state["module.encoder1.total_ops"] = torch.zeros(1)
    create_model("egeunet").load_state_dict(convert_official_state_dict("egeunet", state))


def test_attention_follows_its_own_axis():
    """A map of the channel-height plane must not change along the width, nor the other way."""
    block = create_model("egeunet").bottleneck
    with torch.no_grad():
        block.channel_height.tensor.normal_()
        block.channel_width.tensor.normal_()
    x = torch.randn(1, 48, 4, 6)
    seen = {}
    block.mix.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    block(x)
    _, tall, wide, _ = (seen["x"] / block.norm(x)).chunk(4, dim=1)
    torch.testing.assert_close(tall, tall[..., :1].expand_as(tall), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(wide, wide[..., :1, :].expand_as(wide), rtol=1e-3, atol=1e-3)
    assert tall.std(dim=2).max() > 0.01
    assert wide.std(dim=3).max() > 0.01


@pytest.mark.parametrize(("height", "width", "valid"), [(100, 64, "128×64"), (64, 8, "64×32")])
def test_wrong_size_names_the_next_valid_one(height, width, valid):
    with pytest.raises(UsageError, match=valid):
        create_model("egeunet")(torch.zeros(1, 3, height, width))


def test_wrong_channels_are_named():
    with pytest.raises(UsageError, match=r"\(B, 4, H, W\)"):
        create_model("egeunet", in_channels=4)(torch.zeros(1, 3, 32, 32))


def test_wrong_widths_are_named():
    with pytest.raises(UsageError, match="six widths"):
        create_model("egeunet", widths=(8, 16, 24))


def test_deep_supervision_off_works():
    """Users of the published code report a crash here."""
    model = create_model("egeunet", deep_supervision=False)
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 1, 32, 32)


def test_classes_steer_the_bridges_by_their_foreground():
    """With K = 2 the foreground logit is the difference of the two class logits."""
    two, one = create_model("egeunet", num_classes=2), create_model("egeunet", num_classes=1)
    state = two.state_dict()
    for key in [key for key in state if key.startswith(("mask_heads", "head"))]:
        state[key] = state[key][1:] - state[key][:1]
    one.load_state_dict(state)
    image = torch.rand(2, 3, 64, 32) * 255
    logits = two.eval()(image)
    torch.testing.assert_close(
        F.softmax(logits, dim=1)[:, 1:], torch.sigmoid(one.eval()(image)), rtol=1e-4, atol=1e-5
    )


def test_memory_of_a_copy_is_its_own():
    model = create_model("egeunet")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.head.weight.zero_()
    assert model.head.weight.abs().sum() > 0
