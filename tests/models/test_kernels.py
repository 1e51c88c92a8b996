"""The C kernels against the plain formulas, value by value and gradient by gradient."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune

from egeunet.models import create_model, kernels
from egeunet.models.egeunet import GAB
from egeunet.models.layers import GELU
from egeunet.training.losses import DeepSupervisionLoss, cross_entropy_dice

if kernels.load_kernels() is None:
    pytest.skip("the kernels are not built: the plain formulas run alone", allow_module_level=True)

WIDTHS = [4, 8, 12, 24, 64]  # with and without a specialised loop


def compare(fast, plain, *inputs, tolerance=2e-5):
    """Outputs and gradients of `fast` in float32 are those of `plain` in float64."""
    results = []
    for function, dtype in ((fast, torch.float32), (plain, torch.float64)):
        leaves = [x.detach().to(dtype).requires_grad_(x.is_floating_point()) for x in inputs]
        output = function(*leaves)
        weight = torch.linspace(-1, 1, output.numel(), dtype=dtype).view(output.shape)
        (output * weight).sum().backward()
        results.append([output.detach(), *(leaf.grad for leaf in leaves if leaf.requires_grad)])
    for given, expected in zip(*results, strict=True):
        scale = expected.abs().max().clamp(min=1)
        torch.testing.assert_close(given.double() / scale, expected / scale, rtol=0, atol=tolerance)


class Norm:
    """A group norm whose weights are leaves of the test."""

    def __init__(self, weight, bias):
        self.weight, self.bias, self.eps = weight, bias, 1e-5


def group_norm(x, weight, bias):
    return F.group_norm(x, 4, weight, bias)


@pytest.mark.parametrize("spread", [0.1, 3, 60])
def test_gelu(spread):
    x = torch.randn(3, 5, 16, 24) * spread
    compare(kernels.gelu, F.gelu, x, tolerance=4e-7 * max(1, spread))


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("size", [(2, 2), (6, 10), (32, 64)])
def test_norm_and_pooling(channels, size):
    x, weight, bias = (
        torch.randn(3, channels, *size) * 5 + 20,
        torch.randn(channels),
        torch.randn(channels),
    )
    compare(
        lambda x, w, b: kernels.norm_pool(x, Norm(w, b)),
        lambda x, w, b: F.max_pool2d(group_norm(x, w, b), 2),
        *(x, weight, bias),
        tolerance=1e-4,
    )


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize(
    "sizes", [((2, 2), (4, 4)), ((4, 3), (8, 6)), ((5, 7), (5, 7)), ((8, 8), (11, 30))]
)
def test_norm_and_resizing(channels, sizes):
    small, large = sizes
    x, weight, bias = torch.randn(3, channels, *small), torch.randn(channels), torch.randn(channels)
    compare(
        lambda x, w, b: kernels.norm_resize(x, Norm(w, b), large),
        lambda x, w, b: F.interpolate(
            group_norm(x, w, b), size=large, mode="bilinear", align_corners=True
        ),
        *(x, weight, bias),
        tolerance=1e-4,
    )


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize(
    "sizes", [((1, 1), (4, 4)), ((1, 5), (3, 9)), ((8, 6), (8, 6)), ((9, 5), (31, 64))]
)
def test_resizing(channels, sizes):
    small, large = sizes
    compare(
        lambda x: kernels.resize(x, large),
        lambda x: F.interpolate(x, size=large, mode="bilinear", align_corners=True),
        torch.randn(2, channels, *small),
    )


@pytest.mark.parametrize("channels", [3, 8, 24, 130])
def test_channel_norm(channels):
    def plain(x, weight, bias):
        mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
        normal = (x - mean) / torch.sqrt(variance + 1e-6)
        return normal * weight[:, None, None] + bias[:, None, None]

    x, weight, bias = torch.randn(2, channels, 5, 7), torch.randn(channels), torch.randn(channels)
    compare(lambda *leaves: kernels.channel_norm(*leaves, 1e-6), plain, x, weight, bias)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("dilations", [(1, 2, 5, 7), (1, 1, 1, 1), (8, 3, 1, 2)])
@pytest.mark.parametrize(
    ("channels", "high", "size"), [(8, (8, 6), (16, 12)), (16, (2, 2), (2, 2))]
)
def test_bridge(mask, dilations, channels, high, size):
    block = GAB(12, channels, mask=mask, dilations=dilations)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    wide = GAB(12, channels, mask=mask, dilations=dilations).double()
    wide.load_state_dict(block.state_dict())
    inputs = [torch.randn(3, 12, *high), torch.randn(3, channels, *size)]
    inputs += [torch.randn(3, 1, *size)] if mask else []

    def run(module):
        return lambda high, low, mask=None: module(high, low, mask)

    compare(run(block), run(wide), *inputs, tolerance=1e-4)
    for (name, fast), plain in zip(block.named_parameters(), wide.parameters(), strict=True):
        scale = plain.grad.abs().max().clamp(min=1)
        error = (fast.grad.double() - plain.grad).abs().max() / scale
        assert error < 1e-4, name


@pytest.mark.parametrize("scale", [0.1, 3, 100, 1e4])
def test_loss(scale):
    logits, target = torch.randn(3, 1, 17, 33) * scale, (torch.rand(3, 1, 17, 33) > 0.6).float()
    compare(
        lambda x: cross_entropy_dice(x, target).view(1),
        lambda x: cross_entropy_dice(x, target.double()).view(1),
        logits,
    )


def test_a_soft_target_is_possible():
    logits, target = torch.randn(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    compare(
        lambda x: cross_entropy_dice(x, target).view(1),
        lambda x: cross_entropy_dice(x, target.double()).view(1),
        logits,
    )


def test_a_target_of_another_size_is_refused():
    with pytest.raises(ValueError, match="differ"):
        cross_entropy_dice(torch.zeros(2, 1, 64, 64), torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_is_not_hidden(value):
    logits = torch.zeros(1, 1, 64, 64)
    logits[0, 0, 3, 5] = value
    assert not torch.isfinite(cross_entropy_dice(logits, torch.zeros(1, 1, 64, 64)))


def test_training_takes_the_same_way(monkeypatch):
    """The losses with kernels are those of the plain formulas in double precision.

    These weights amplify rounding: even the formulas leave each other by up to 9 % in float32 and
    float64 within 25 steps, so only the first steps are held tightly.
    """
    images = torch.rand(4, 3, 64, 64) * 255
    target = (images.mean(1, keepdim=True) > 127).float()

    def trace(dtype):
        torch.manual_seed(1)
        model = create_model("egeunet").to(dtype)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = DeepSupervisionLoss()(model(images.to(dtype)), target.to(dtype))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    fast = trace(torch.float32)
    monkeypatch.setattr(kernels, "usable", lambda *_: False)
    plain = trace(torch.float64)
    assert fast[:3] == pytest.approx(plain[:3], rel=1e-3)
    assert fast == pytest.approx(plain, rel=0.1)
    assert fast[-1] < 0.9 * fast[0]


def test_the_result_does_not_depend_on_the_number_of_threads():
    before = torch.get_num_threads()
    gradients = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            x = torch.randn(3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
            x.requires_grad_()
            norm = nn.GroupNorm(4, 8)
            kernels.norm_pool(x, norm).square().sum().backward()
            gradients.append((x.grad, norm.weight.grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def set_forward(layer):
    forward = layer.forward
    layer.forward = lambda *inputs: 2 * forward(*inputs)


def set_hook(layer):
    layer.register_forward_hook(lambda _, __, output: 2 * output)


def set_parametrization(layer):
    parametrize.register_parametrization(layer, "weight", nn.Tanh())


def set_strides(layer):
    twice = torch.stack((layer.weight.detach(), layer.weight.detach() + 1), dim=-1)
    layer.weight = nn.Parameter(twice[..., 0])


# What users do to a layer, and the layers of a network it is done to; without the check for it the
# kernels compute what the layer was before.
CHANGES = {
    "groups of a stage": lambda net: setattr(net.encoder[0], "norm", nn.GroupNorm(2, 8)),
    "another norm": lambda net: setattr(net.decoder[4], "norm", nn.BatchNorm2d(8)),
    "no affine": lambda net: setattr(net.decoder[4], "norm", nn.GroupNorm(4, 8, affine=False)),
    "eps of a stage": lambda net: setattr(net.decoder[4].norm, "eps", 1),
    "eps of a bridge": lambda net: setattr(net.bridges[4].norm, "eps", 1.0),
    "eps of a tail": lambda net: setattr(net.bridges[4].tail[0], "eps", 1.0),
    "groups of a bridge": lambda net: setattr(net.bridges[4].norm, "groups", 2),
    "groups of a tail": lambda net: setattr(net.bridges[4].tail[0], "groups", 2),
    "padding mode": lambda net: setattr(net.bridges[4].convs[0], "padding_mode", "reflect"),
    "dilation": lambda net: setattr(
        net.bridges[4], "convs", nn.ModuleList(net.bridges[4].convs[i] for i in (3, 1, 2, 0))
    ),
    "kernel": lambda net: (
        net.bridges[4].convs.insert(0, nn.Conv2d(5, 5, 1)) or net.bridges[4].convs.pop(1)
    ),
    "no bias": lambda net: setattr(net.bridges[4].tail[1], "bias", None),
    "another tail": lambda net: net.bridges[4].tail.append(nn.Tanh()),
    "own forward": lambda net: set_forward(net.bridges[4].convs[2]),
    "hook of a conv": lambda net: set_hook(net.bridges[4].convs[2]),
    "hook of a tail": lambda net: set_hook(net.bridges[4].tail),
    "hook of a stage": lambda net: set_hook(net.encoder[0].norm),
    "parametrization": lambda net: set_parametrization(net.bridges[4].convs[2]),
    "strides": lambda net: set_strides(net.bridges[4].norm),
    "strides of a stage": lambda net: set_strides(net.encoder[0].norm),
    "double": lambda net: net.bridges[4].norm.double(),
}


@pytest.fixture
def formulas(monkeypatch):
    """Computes a function with the kernels off."""

    def compute(function, *inputs):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "load_kernels", lambda: None)
            return function(*inputs)

    return compute


def image():
    return torch.rand(2, 3, 64, 32) * 255


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_does_what_it_says(change, formulas):
    model, x = create_model("egeunet"), image()
    CHANGES[change](model)
    if change == "double":
        with pytest.raises(RuntimeError):  # as of the formulas; C would read half numbers
            model(x)
        return
    expected, stages = formulas(model, x)
    logits, given = model(x)
    for one, other in zip((logits, *given), (expected, *stages), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_every_hook_fires_that_fires_without_kernels(formulas):
    def names_fired():
        fired = set()
        model = create_model("egeunet")
        for name, module in model.named_modules():
            module.register_forward_hook(lambda *_, name=name: fired.add(name))
        model(image())
        return fired

    assert names_fired() == formulas(names_fired)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.random_unstructured(layer, "weight", amount=0.5),
        lambda layer: nn.utils.weight_norm(layer, "weight"),
    ],
    ids=["prune", "weight_norm"],
)
def test_layers_of_old_reparametrisations_train(change):
    model = create_model("egeunet")
    layers = [model.bridges[4].convs[1], model.bridges[2].tail[1], model.encoder[1].norm]
    for layer in layers if change is prune else layers[:2]:
        change(layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = model.bridges[4].convs[1].weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        model(image())[0].square().mean().backward()
        optimizer.step()
    model(image())
    assert not torch.equal(model.bridges[4].convs[1].weight, before)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_function_transforms_see_the_formulas(formulas):
    model, x, y = create_model("egeunet", deep_supervision=False), image(), image()
    state = dict(model.named_parameters())

    def loss(state):
        return torch.func.functional_call(model, state, (x,)).sigmoid().mean()

    def compute():
        gradient = torch.func.grad(loss)(state)
        logits, change = torch.func.jvp(model, (x,), (y,))
        with forward_ad.dual_level():
            dual = forward_ad.unpack_dual(model(forward_ad.make_dual(x, y)))
        batched = torch.func.vmap(model)(torch.stack((x, y)))
        return [*gradient.values(), logits, change, dual.tangent, batched]

    torch.testing.assert_close(compute(), formulas(compute))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_traced_network_computes_the_same():
    model, x = create_model("egeunet").eval(), image()
    torch.testing.assert_close(torch.jit.trace(model, x)(x), model(x), rtol=1e-3, atol=1e-3)


def test_the_default_type_of_torch_does_not_matter():
    model, x = create_model("egeunet"), image()
    expected = model(x)[0]
    torch.set_default_dtype(torch.float64)
    try:
        loss = DeepSupervisionLoss()(model(x), torch.ones(2, 1, 64, 32, dtype=torch.float32))
        loss.backward()
        assert torch.equal(model(x)[0], expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 4), (0, 8, 4, 4)])
def test_other_shapes_than_maps_take_the_formula(shape):
    x = torch.randn(shape)
    torch.testing.assert_close(GELU()(x), F.gelu(x))


def test_an_odd_map_is_pooled_as_the_framework_does():
    stage, x = create_model("egeunet").encoder[1], torch.randn(1, 8, 7, 5)
    expected = F.gelu(F.max_pool2d(stage.norm(stage.block(x)), 2))
    torch.testing.assert_close(stage(x), expected)


@pytest.mark.parametrize(("setting", "path"), [("1", "compiled"), ("0", "formulas")])
def test_the_environment_tells_which_path_runs(setting, path):
    code = (
        "import torch; from egeunet.environment import environment; found = environment();"
        "assert found['kernels'] is None;"
        "from egeunet.models import create_model; model = create_model('egeunet');"
        "found = environment();"
        f"assert found['kernels'] == {path!r}, found;"
        "assert found['cpu_capability'] == torch.backends.cpu.get_cpu_capability();"
        "model(torch.rand(2, 3, 32, 32))[0].sum().backward()"
    )
    environment = {**os.environ, "EGEUNET_KERNELS": setting}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
