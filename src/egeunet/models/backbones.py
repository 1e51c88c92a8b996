"""ImageNet backbones from timm: the only place that imports it (extra `zoo`)."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor, nn

from egeunet.compat import mend_torchvision
from egeunet.errors import EgeunetError, needs_extra


def timm_features(name: str, *, pretrained: bool, in_channels: int, **options: Any) -> nn.Module:
    """Build a timm network that returns its feature maps.

    Args:
        name: A name of `timm.list_models()`.
        pretrained: Load ImageNet weights; they are fetched from the network once and then cached.
        in_channels: Channels of the image. Pretrained weights of the first convolution are summed
            or repeated where it is not 3.
        **options: What timm takes besides, such as `out_indices`.

    Returns:
        A module from (B, in_channels, H, W) to the list of its feature maps, largest first. Its
        `feature_info` knows their channels and strides.

    Raises:
        MissingExtraError: If timm, or torchvision which it needs, is not installed.
        EgeunetError: If the weights are neither cached nor within reach.
    """
    return timm_model(
        name, pretrained=pretrained, in_channels=in_channels, features_only=True, **options
    )


def timm_model(name: str, *, pretrained: bool, in_channels: int, **options: Any) -> nn.Module:
    """Build a whole timm network; arguments and errors as for `timm_features`."""
    with needs_extra("zoo"):
        mend_torchvision()
        import timm
    try:
        return timm.create_model(name, pretrained=pretrained, in_chans=in_channels, **options)
    except OSError as error:  # every error of the hub and of the network is one
        raise EgeunetError(
            f"The ImageNet weights of {name} cannot be fetched from huggingface.co: connect to the "
            "network once, or build the system with pretrained=False."
        ) from error


class Normalize(nn.Module):
    """Bring an image from 0…255 to the values that the ImageNet weights of a backbone expect.

    Args:
        backbone: What `timm_features` or `timm_model` gave; it knows its mean and deviation.
        in_channels: Channels of the image; where it is not 3, each is normalised by the average
            over red, green and blue.
    """

    def __init__(self, backbone: nn.Module, in_channels: int) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = backbone.pretrained_cfg[name]  # type: ignore[index]
            if in_channels != len(values):
                values = [statistics.fmean(values)] * in_channels
            tensor = torch.tensor(values)[:, None, None] * 255
            self.register_buffer(name, tensor, persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return (image - self.mean) / self.std
