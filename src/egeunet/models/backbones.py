"""ImageNet backbones from timm (extra `zoo`); nothing else imports it."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor, nn

from egeunet.compat import import_torchvision
from egeunet.errors import EgeunetError, needs_extra


def timm_model(name: str, *, pretrained: bool, in_channels: int, **options: Any) -> Any:
    """Create a timm model.

    Args:
        name: A name of `timm.list_models()`.
        pretrained: Load ImageNet weights, downloaded once and cached.
        in_channels: Channels of the image. Where it is not 3, timm sums or repeats the pretrained
            weights of the first convolution.
        **options: Further arguments of timm. With `features_only=True` the module returns the list
            of its feature maps, largest first, described by its `feature_info`.

    Raises:
        MissingExtraError: timm or torchvision is not installed.
        EgeunetError: The weights are neither cached nor can be downloaded.
    """
    with needs_extra("zoo"):
        import_torchvision()
        import timm
    try:
        return timm.create_model(name, pretrained=pretrained, in_chans=in_channels, **options)
    except OSError as error:  # also errors of the hub and the network
        raise EgeunetError(
            f"Cannot download the ImageNet weights of {name} from huggingface.co: connect to the "
            "network once, or create the model with pretrained=False."
        ) from error


class Normalize(nn.Module):
    """Convert an image in 0…255 to the mean and standard deviation a backbone was trained with.

    Args:
        backbone: A module returned by `timm_model`.
        in_channels: Channels of the image; where it is not 3, each takes the average of red, green
            and blue.
    """

    def __init__(self, backbone: Any, in_channels: int) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = backbone.pretrained_cfg[name]
            if in_channels != len(values):
                values = [statistics.fmean(values)] * in_channels
            tensor = torch.tensor(values)[:, None, None] * 255
            self.register_buffer(name, tensor, persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return (image - self.mean) / self.std
