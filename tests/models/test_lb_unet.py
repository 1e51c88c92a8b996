"""LB-UNet: masks and boundary maps."""

import torch

from egeunet.models import create_model


def test_the_five_masks_are_supervised_and_guide_the_skips_either_way():
    model = create_model("lb_unet")
    plain = create_model("lb_unet", deep_supervision=False)
    plain.load_state_dict(model.state_dict())
    image = torch.rand(2, 3, 64, 96) * 255
    logits, stages = model(image)
    assert [stage.shape for stage in stages] == [logits.shape] * 5
    assert torch.equal(plain(image), logits)


def test_a_sure_boundary_adds_its_feature_once_more():
    """Both gates open: the feature counts three times, the skip 1 + 0.5 + 0.3 times."""
    model = create_model("lb_unet").eval()
    image = torch.rand(1, 3, 32, 32) * 255
    seen = {}
    model.decoder[-1].register_forward_hook(lambda _, __, out: seen.update(decoded=out))
    model.encoder[0].register_forward_hook(lambda _, __, out: seen.update(skip=out))
    model.head.register_forward_pre_hook(lambda _, args: seen.update(merged=args[0]))
    for head in (model.mask_heads[-1], model.boundary_heads[-1]):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, 100.0)
    model(image)
    feature = torch.nn.functional.gelu(
        torch.nn.functional.interpolate(
            seen["decoded"], scale_factor=2, mode="bilinear", align_corners=True
        )
    )
    expected = 3 * feature + 1.8 * torch.nn.functional.gelu(seen["skip"])
    torch.testing.assert_close(seen["merged"], expected, rtol=1e-3, atol=1e-3)
