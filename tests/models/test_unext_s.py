"""UNeXt-S against the tensors of the published network, and how its groups shift."""

import numpy as np
import pytest
import torch

from egeunet.errors import UsageError
from egeunet.models import convert_official_state_dict, count_cost, create_model
from egeunet.models.unext_s import shift


def test_cost_is_that_of_the_published_code():
    cost = count_cost(create_model("unext_s"))
    assert cost.params == 253_561
    assert cost.macs == pytest.approx(0.0992e9, abs=5e4)


def test_the_full_unext_is_a_matter_of_widths():
    full = create_model("unext_s", widths=(16, 32, 128, 160, 256))
    assert sum(p.numel() for p in full.parameters()) == pytest.approx(1.47e6, abs=5e3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_published_output(golden, dtype, tolerance):
    with np.load(golden / "unext_s_official.npz") as file:
        published = {key: torch.from_numpy(file[key]) for key in file.files}
    state = {
        key.removeprefix("state_dict/"): tensor
        for key, tensor in published.items()
        if key.startswith("state_dict/")
    }
    model = create_model("unext_s").to(dtype).eval()
    model.load_state_dict(convert_official_state_dict("unext_s", state))
    image = published["input"].to(dtype) * published["input_scale"].item()
    with torch.no_grad():
        logits = model(image)
    assert (logits - published["output"]).abs().max() < tolerance


@pytest.mark.parametrize("dim", [2, 3])
def test_groups_shift_from_minus_two_to_two_and_zeros_move_in(dim):
    x = torch.arange(1.0, 7).reshape(1, 1, 6, 1).expand(1, 10, 6, 6)
    x = x if dim == 2 else x.mT
    shifted = shift(x, dim).movedim(dim, -1)[0, :, 0]  # (10, 6)
    expected = [
        [3, 4, 5, 6, 0, 0],
        [2, 3, 4, 5, 6, 0],
        [1, 2, 3, 4, 5, 6],
        [0, 1, 2, 3, 4, 5],
        [0, 0, 1, 2, 3, 4],
    ]
    assert shifted[::2].tolist() == expected
    assert shifted[1::2].tolist() == expected


def test_wrong_widths_are_named():
    with pytest.raises(UsageError, match="five widths"):
        create_model("unext_s", widths=(8, 16, 32))
