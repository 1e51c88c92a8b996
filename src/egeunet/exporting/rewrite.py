"""Networks rewritten for deployment runtimes, with the same numbers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from egeunet.models.egeunet import EGEUNet

_SCALE = 1 / 32


def fit_float16(model: nn.Module) -> nn.Module:
    """Return an EGE-UNet whose values fit float16; return other models as they are.

    The first convolution gives values up to 800 away from their mean, whose squares float16 cannot
    hold. Its GroupNorm undoes any scale, and a power of two is exact: the results are the same.
    """
    if not isinstance(model, EGEUNet):
        return model
    model = copy.deepcopy(model)
    first: Any = model.encoder[0]
    with torch.no_grad():
        for parameter in first.block.parameters():
            parameter.mul_(_SCALE)
    first.norm.eps *= _SCALE**2
    return model
