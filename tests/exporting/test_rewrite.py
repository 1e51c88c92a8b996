"""Rewritten networks compute the same, in float32 and in float16."""

import numpy as np
import openvino
import pytest
import torch

from egeunet.data.datasets import open_dataset
from egeunet.data.synthetic import draw
from egeunet.exporting.onnx import core_graph
from egeunet.exporting.rewrite import fit_float16
from egeunet.inference.image_io import read_image
from egeunet.inference.preprocess import to_input
from egeunet.training.run import load_run

PHOTOS = 24


def test_the_scale_of_the_first_stage_is_exact() -> None:
    model = load_run("isic2018").model
    image = torch.from_numpy(to_input(draw(1, (240, 320))[0])[None])
    with torch.no_grad():
        first = model.encoder[0].block(image)
        scaled = fit_float16(model).encoder[0].block(image)
        assert torch.equal(scaled * 32, first)
        assert first.square().max() > torch.finfo(torch.float16).max > scaled.square().max()
        torch.testing.assert_close(fit_float16(model)(image), model(image), atol=1e-5, rtol=1e-5)


def test_the_masks_of_float16_are_those_of_float32(real_data) -> None:
    core = openvino.Core()
    if "FP16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor does not compute in float16")
    run = load_run("isic2018")
    settings = {"INFERENCE_PRECISION_HINT": "f16", "INFERENCE_NUM_THREADS": 1}
    half = core.compile_model(core.read_model(core_graph(run).SerializeToString()), "CPU", settings)
    samples = open_dataset("isic2018", real_data / "isic2018").samples
    ious = []
    for sample in samples[:: len(samples) // PHOTOS]:
        image = to_input(read_image(sample.image))[None]
        with torch.no_grad():
            expected = run.model(torch.from_numpy(image)).numpy() >= 0
        mask = half(image)[0] >= 0
        ious.append((mask & expected).sum() / max(1, (mask | expected).sum()))
    assert np.mean(ious) >= 0.999


def test_other_models_are_left_as_they_are(make_run) -> None:
    model = make_run("malunet").model
    assert fit_float16(model) is model
