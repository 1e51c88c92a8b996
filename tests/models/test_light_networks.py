"""Newer light networks: outputs that were equal to those of the published code, and their cost."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from egeunet.models import count_cost, create_model

GOLDEN = Path(__file__).parent / "golden" / "light_networks.npz"
COST = {  # parameters and MACs of the published code
    "aulunet": (28_636, 57_562_905),
    "cmunext_s": (417_505, 1_012_383_744),
    "lb_unet": (55_865, 93_674_496),
    "tinyu_net": (481_105, 1_560_870_912),
    "ucm_net": (47_436, 33_716_224),
    "ultralight_vm_unet": (49_457, 66_001_728),
}


def draw(name, shape):
    """Return uniform numbers in -1…1 that depend on nothing but the name and the shape."""
    count = math.prod(shape)
    integers = np.frombuffer(random.Random(name).randbytes(2 * count), dtype="<u2")
    return torch.from_numpy(integers / 32767.5 - 1).reshape(shape)


def fill(model):
    """Give every parameter and batch statistic a value that follows from its name."""
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = draw(key, tensor.shape)
            if tensor.dim() > 1 and "tensors" not in key and "rate" not in key:
                tensor.copy_(noise * math.sqrt(6 / tensor[0].numel()))
            elif key.endswith(("bias", "mean", "shift")):
                tensor.copy_(0.2 * noise)
            else:  # scales, variances and learned maps, near their first values
                tensor.add_(0.2 * noise)
    return model


@pytest.mark.parametrize("name", COST)
def test_cost_is_that_of_the_published_code(name):
    cost = count_cost(create_model(name))
    assert (cost.params, cost.macs) == COST[name]


@pytest.mark.parametrize("name", COST)
def test_the_output_is_that_of_the_published_code(name):
    model = fill(create_model(name).double()).eval()
    with torch.no_grad():
        logits = model((draw("image", (1, 3, 64, 128)) + 1) * 127.5)[0, 0, ::4, ::4]
    with np.load(GOLDEN) as file:
        expected = torch.from_numpy(file[name]).double()
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
