import copy
import functools

import numpy as np
import onnxruntime
import pytest
import torch

from egeunet.exporting.fold import can_fold, fold
from egeunet.models.egeunet import GAB, GHPA, EGEUNet
from egeunet.models.registry import create_model


def shaken(seed: int = 0, **options: object) -> EGEUNet:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EGEUNet(**options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def run(model: EGEUNet, images: np.ndarray) -> np.ndarray:
    graph = fold(model, images.shape[2:])
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    return session.run(["logits"], {"image": images})[0]


def expect_equal(model: EGEUNet, images: np.ndarray) -> None:
    """Expect what torch computes in double precision; in single it errs by as much as the graph."""
    given = run(model, images)
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(torch.from_numpy(images).double()).numpy()
    np.testing.assert_allclose(given, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"widths": (8, 8, 8, 8, 8, 8)},
        {"widths": (16, 16, 32, 32, 32, 32)},
        {"block": functools.partial(GHPA, refine=False)},
        {"bridge": functools.partial(GAB, dilations=(1, 1, 1, 1))},
    ],
)
def test_the_graph_computes_what_torch_computes(options, images: np.ndarray) -> None:
    expect_equal(shaken(**options), images)


def test_group_norms_with_falling_channels_do_not_commute_with_the_maximum(images) -> None:
    model = shaken()
    with torch.no_grad():
        for stage in model.encoder:
            stage.norm.weight[::3] *= -1
    expect_equal(model, images)


def test_the_batch_is_free_and_images_do_not_touch_each_other(images: np.ndarray) -> None:
    model = shaken()
    together = run(model, images)
    for index in range(len(images)):
        alone = run(model, images[index : index + 1])
        np.testing.assert_allclose(together[index : index + 1], alone, atol=1e-4)


def test_the_attention_maps_are_gone_from_what_runs(tmp_path) -> None:
    """ONNX Runtime makes constants of all that depends on weights alone, once, when it loads."""
    import onnx

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(fold(shaken(), (64, 64)).SerializeToString(), options)
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert operators.count("Resize") == 9  # two in each of four levels, and the logits
    assert not {"Expand", "Pad", "ReduceMean", "ConstantOfShape"} & set(operators)


@pytest.mark.parametrize(
    ("name", "options", "known"),
    [
        ("egeunet", {}, True),
        ("egeunet_no_dw", {}, True),
        ("egeunet_no_dilation", {}, True),
        ("egeunet", {"num_classes": 3}, False),
        ("egeunet_no_mask", {}, False),
        ("egeunet_no_multi_axis", {}, False),
        ("egeunet_baseline", {}, False),
        ("malunet", {}, False),
    ],
)
def test_what_can_be_folded(name, options, known) -> None:
    assert can_fold(create_model(name, **options)) is known
