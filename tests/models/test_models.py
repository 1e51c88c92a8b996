"""What every registered model must do; a new one is tested by being registered."""

import copy
import importlib.util
import logging

import onnxruntime
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from egeunet.errors import UsageError
from egeunet.models import create_model, list_models
from egeunet.training.losses import DeepSupervisionLoss, cross_entropy_dice

MODELS = list_models()
ON_TIMM = {"mobilenetv3", "mobilevitv2", "sanet", "transfuse"}
OF_TORCH_ITSELF = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(params=MODELS)
def name(request):
    if request.param in ON_TIMM and not importlib.util.find_spec("timm"):
        pytest.skip("no timm: pip install 'egeunet[zoo]'")
    return request.param


def image(batch=2, channels=3, height=64, width=64):
    return torch.rand(batch, channels, height, width) * 255


def logits_of(output):
    return output[0] if isinstance(output, tuple) else output


def loss_of(output, target):
    stages = output[1] if isinstance(output, tuple) else ()
    return DeepSupervisionLoss([0.3] * len(stages))(output, target)


def settle(model, images):
    """Fix batch norms at the statistics of a batch, without dropout: in their training mode a bias
    before one has gradient 0, but for rounding."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(images)
    for norm in norms:
        norm.eval()


def run_onnx(program, x, *, optimize):
    """Run the ONNX model of an exported program."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    graph = torch.onnx.export(program, input_names=["image"], optimize=optimize, verbose=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        graph.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (given,) = session.run(None, {"image": x.numpy()})
    return torch.from_numpy(given)


def assert_near(given, expected):
    """Untrained norms in eval mode yield logits of any scale, so their spread is the unit."""
    spread = max(1.0, expected.std().item())
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-3 * spread)


@pytest.mark.parametrize(
    ("channels", "classes", "height", "width"), [(3, 1, 64, 64), (1, 4, 32, 96), (5, 2, 96, 32)]
)
def test_shapes(name, channels, classes, height, width):
    model = create_model(name, in_channels=channels, num_classes=classes)
    output = model(image(2, channels, height, width))
    assert logits_of(output).shape == (2, classes, height, width)
    if isinstance(output, tuple):
        assert all(stage.shape == (2, classes, height, width) for stage in output[1])
    evaluated = model.eval()(image(1, channels, height, width))
    assert evaluated.shape == (1, classes, height, width)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_gradient_reaches_every_parameter(name, classes):
    model = create_model(name, num_classes=classes)
    side = 128 if name == "ucm_net" else 64  # it normalizes over pixels, and 64 / 64 is one pixel
    settle(model, image(height=side, width=side))
    truth = torch.randint(0, max(2, classes), (2, side, side))
    target = truth.unsqueeze(1).float() if classes == 1 else truth
    loss_of(model(image(height=side, width=side)), target).backward()
    unreached = {key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # Published counts of some models include parameters that no output depends on.
    assert unreached == getattr(model, "UNREACHED", set())


def test_eval_mode_is_deterministic_and_independent_of_the_batch(name):
    model = create_model(name).eval()
    images = image(3)
    together = model(images)
    assert torch.equal(together, model(images))
    assert_near(model(images[1:2]), together[1:2])


def test_weights_round_trip(name):
    model, other = create_model(name).eval(), create_model(name).eval()
    other.load_state_dict(load(save(model.state_dict())))
    x = image()
    assert torch.equal(model(x), other(x))


def test_a_deep_copy_computes_the_same_and_trains_alone(name):
    model = create_model(name).eval()
    twin, x = copy.deepcopy(model), image()
    assert torch.equal(model(x), twin(x))
    before = model(x)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(model(x), before)


def test_channels_last_computes_the_same(name):
    model, x = create_model(name).eval(), image()
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    assert_near(model(x.contiguous(memory_format=torch.channels_last)), expected)


def test_bf16_autocast_stays_near(name):
    model, x = create_model(name).eval(), image()
    expected = torch.sigmoid(model(x))
    with torch.autocast("cpu", torch.bfloat16):
        given = torch.sigmoid(model(x).float())
    assert (given - expected).abs().mean() < 0.05


@OF_TORCH_ITSELF
def test_torch_export_and_onnx_runtime_compute_the_same(name):
    model, x = create_model(name), image()
    settle(model, x)
    expected = model.eval()(x)
    program = torch.export.export(model, (x,))
    assert_near(program.module()(x), expected)
    if name in {"egeunet", "malunet", "unext_s"}:  # the slow test below has all of them
        assert_near(run_onnx(program, x, optimize=False), expected)


@pytest.mark.slow
@OF_TORCH_ITSELF
def test_an_optimised_onnx_graph_takes_any_number_of_images(name):
    model, x = create_model(name), image(3)
    settle(model, x)
    expected = model.eval()(x)
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (x[:2],), dynamic_shapes=dynamic)
    assert_near(run_onnx(program, x, optimize=True), expected)


def test_four_images_are_learned_by_heart(name):
    model = create_model(name).train()
    images = image(4, height=32, width=32)
    images[:, :, 8:24, 8:24] *= 0.3
    target = torch.zeros(4, 1, 32, 32)
    target[:, :, 8:24, 8:24] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        output = model(images)
        loss_of(output, target).backward()
        optimizer.step()
        losses.append(cross_entropy_dice(logits_of(output), target).item())
        found = logits_of(output) >= 0
        iou = ((found & (target > 0)).sum() / (found | (target > 0)).sum()).item()
        if losses[-1] < 0.35 * losses[0] and iou > 0.9:
            return
    pytest.fail(f"loss {losses[0]:.3f} → {losses[-1]:.3f}, IoU {iou:.3f}")


@pytest.mark.parametrize("supervised", ["mk_unet_t", "ucm_net"])
def test_deep_supervision_off_computes_the_same_without_its_heads(supervised):
    full = create_model(supervised).eval()
    bare = create_model(supervised, deep_supervision=False)
    images = image(height=128)
    assert isinstance(bare(images), torch.Tensor)
    bare.load_state_dict({k: v for k, v in full.state_dict().items() if k in bare.state_dict()})
    assert torch.equal(bare.eval()(images), full(images))


def test_a_misspelt_name_or_option_is_answered():
    with pytest.raises(UsageError, match="did you mean 'egeunet_no_dw'"):
        create_model("egeunet_nodw")
    with pytest.raises(UsageError, match="did you mean 'widths'"):
        create_model("egeunet", width=(8,) * 6)
    with pytest.raises(UsageError, match="no option 'block'"):
        create_model("egeunet_baseline", block=None)
    with pytest.raises(UsageError, match="at least 1"):
        create_model("egeunet", num_classes=0)


@pytest.mark.slow
@OF_TORCH_ITSELF
def test_torch_compile_computes_the_same():
    model, x = create_model("egeunet").eval(), image()
    torch.testing.assert_close(torch.compile(model)(x), model(x), rtol=1e-3, atol=1e-3)
