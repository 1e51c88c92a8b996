"""UTNetV2: its cost, and what its attention must and must not depend on."""

import pytest
import torch

from egeunet.errors import UsageError
from egeunet.models import count_cost, create_model
from egeunet.models.utnetv2 import BidirectionalAttention, MapGeneration


def test_cost_is_that_of_the_published_code():
    cost = count_cost(create_model("utnetv2"))
    assert cost.params == 12_808_449
    assert cost.macs == pytest.approx(15.53e9, abs=1e7)


def test_pixels_and_tokens_attend_by_the_definition():
    """Each pixel receives a mean of the tokens, each token one of the pixels, head by head."""
    block = BidirectionalAttention(8, heads=2).eval()
    x, semantic = torch.randn(1, 8, 3, 5), torch.randn(1, 8, 4, 4)
    seen = {}
    block.out.register_forward_pre_hook(lambda _, inputs: seen.update(pixels=inputs[0]))
    block.map_out.register_forward_pre_hook(lambda _, inputs: seen.update(tokens=inputs[0]))
    block(x, semantic)

    query, value = block.project(block.norm(x))[0].flatten(1).chunk(2)  # each (8, 15)
    map_query, map_value = block.map_project(block.map_norm(semantic))[0].flatten(1).chunk(2)
    for head in (slice(0, 4), slice(4, 8)):
        products = query[head].T @ map_query[head] / 2  # √(8 / 2)
        pixels = map_value[head] @ products.softmax(1).T
        tokens = value[head] @ products.softmax(0)
        torch.testing.assert_close(seen["pixels"][0, head].flatten(1), pixels)
        torch.testing.assert_close(seen["tokens"][0, head].flatten(1), tokens)


def test_a_token_is_a_mean_of_the_pixels():
    generate = MapGeneration(6)
    with torch.no_grad():
        generate.values.weight.zero_()
        generate.values.weight[:, :, 1, 1] = torch.eye(6)
    x = torch.randn(2, 6, 8, 12)
    tokens = generate(x).flatten(2)
    assert tokens.shape == (2, 6, 16)
    low, high = x.flatten(2).amin(2, keepdim=True), x.flatten(2).amax(2, keepdim=True)
    assert ((tokens > low) & (tokens < high)).all()


def test_sizes_divisible_by_16_are_taken():
    model = create_model("utnetv2").eval()
    assert model(torch.rand(1, 3, 48, 80)).shape == (1, 1, 48, 80)
    with pytest.raises(UsageError, match="48×80"):
        model(torch.rand(1, 3, 40, 80))
