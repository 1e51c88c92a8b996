"""TransFuse: its cost at both sizes, its three outputs, its position embeddings."""

from importlib.util import find_spec

import pytest
import torch

from egeunet.errors import UsageError
from egeunet.models import count_cost, create_model
from egeunet.training.losses import DeepSupervisionLoss, structure_loss

pytestmark = pytest.mark.skipif(
    not (find_spec("timm") and find_spec("torchvision")),
    reason="no timm: pip install 'egeunet[zoo]'",
)


@pytest.fixture(scope="module")
def native():
    return create_model("transfuse", tokens=(12, 16))


def test_cost_is_that_of_the_published_code_at_16x16_tokens():
    cost = count_cost(create_model("transfuse"))
    assert cost.params == 26_273_301
    assert cost.macs == pytest.approx(11.86e9, abs=5e6)


def test_cost_is_that_of_the_published_code_at_its_native_size(native):
    cost = count_cost(native, (192, 256))
    assert (cost.params, cost.macs) == (26_248_725, 8_818_767_744)


def test_three_outputs_are_supervised_at_the_native_size(native):
    native.train()
    logits, (fusion, transformer) = native(torch.rand(2, 3, 192, 256) * 255)
    for output in (logits, fusion, transformer):
        assert output.shape == (2, 1, 192, 256)
    whole = DeepSupervisionLoss((0.2, 0.3), 0.5, structure_loss)
    loss = whole((logits, (fusion, transformer)), torch.zeros(2, 1, 192, 256))
    loss.backward()
    for head in (native.head, native.fusion_head, native.transformer_head):
        assert all(parameter.grad.any() for parameter in head.parameters())
    native.zero_grad()


def test_the_transformer_output_ignores_the_convolutional_branch(native):
    native.eval()
    seen = []
    native.transformer_head.register_forward_hook(lambda _, __, output: seen.append(output))
    x = torch.rand(1, 3, 192, 256) * 255
    before = native(x)
    with torch.no_grad():
        native.cnn[1][0].conv1.weight.add_(0.01)
    assert not torch.equal(native(x), before)
    assert torch.equal(*seen)


def test_position_embeddings_follow_the_size():
    """At their own size they are added unchanged, else resized; they differ by position."""
    branch = create_model("transfuse", tokens=(2, 4)).transformer.eval()
    seen = []
    branch.blocks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        branch.embed.weight.zero_()
        branch.embed.bias.zero_()
        branch(torch.zeros(1, 3, 32, 64))
        branch(torch.zeros(1, 3, 64, 96))
    own, other = (tokens.transpose(1, 2) for tokens in seen)
    assert torch.equal(own.unflatten(2, (2, 4)), branch.position)
    assert other.shape == (1, 384, 4 * 6)
    corners = other.unflatten(2, (4, 6))[..., ::3, ::5]
    torch.testing.assert_close(corners, branch.position[..., ::1, ::3])


def test_wrong_sizes_and_tokens_are_named():
    with pytest.raises(UsageError, match="rows and columns"):
        create_model("transfuse", tokens=(12, 16, 3))
    with pytest.raises(UsageError, match="divisible by 16"):
        create_model("transfuse")(torch.zeros(1, 3, 40, 64))
