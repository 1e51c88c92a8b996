"""New colours for training samples: white balance, gamma, saturation.

The network sees each image scaled min–max, so what is common to all channels and linear, such as
brightness and contrast, would not reach it; what is drawn here does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egeunet.native import call, load

_SOURCE = Path(__file__).with_suffix(".c")
_RED, _GREEN, _BLUE = 19595, 38470, 7471  # ITU-R BT.601 in 1/65536, as Pillow has them
_ONE = 1 << 8


@dataclass(frozen=True)
class Colours:
    """New colours of a batch.

    Attributes:
        curves: What each value of each channel becomes, uint8 (B, 3, 256).
        saturation: Factor on the distances from grey, in 1/256, int32 (B,).
    """

    curves: Tensor
    saturation: Tensor

    def __getitem__(self, rows: slice) -> Colours:
        """Return those of some samples."""
        return Colours(self.curves[rows], self.saturation[rows])


def make_colours(
    gain: NDArray[np.float64], gamma: NDArray[np.float64], saturation: NDArray[np.float64]
) -> Colours:
    """Return the colours for given factors.

    Args:
        gain: Of each channel, (B, 3), above 0; the greatest of a sample counts as 1, and nothing is
            clipped.
        gamma: Powers of the brightness in 0…1, (B,).
        saturation: Factors on the distances from grey, (B,); 0 makes grey.
    """
    gain = gain / gain.max(axis=1, keepdims=True)
    brightness = np.linspace(0, 1, 256) ** gamma[:, None]
    curves = np.rint(255 * gain[:, :, None] * brightness[:, None]).astype(np.uint8)
    factors = np.rint(saturation * _ONE).astype(np.int32)
    return Colours(torch.from_numpy(curves), torch.from_numpy(factors))


def recolour(images: Tensor, colours: Colours) -> Tensor:
    """Return images uint8 (B, H, W, 3) in new colours; the same bits on any device."""
    library = load(_SOURCE) if images.device.type == "cpu" else None
    if library is None:
        return _recolour(images, colours)
    out, images = torch.empty_like(images), images.contiguous()
    count, height, width, _ = images.shape
    call(
        library, "recolour", images, colours.curves, colours.saturation, out, count, height * width
    )
    return out


def _recolour(images: Tensor, colours: Colours) -> Tensor:
    """The formulas of `color.c`."""
    curves, saturation = (
        part.to(images.device, torch.int32) for part in (colours.curves, colours.saturation)
    )
    values = images.flatten(1, 2).permute(0, 2, 1).long()  # (B, 3, H·W)
    values = curves.gather(2, values)
    grey = (_RED * values[:, 0] + _GREEN * values[:, 1] + _BLUE * values[:, 2] + (1 << 15)) >> 16
    grey = grey[:, None]
    values = grey + ((saturation[:, None, None] * (values - grey) + _ONE // 2) >> 8)
    return values.clamp(0, 255).to(torch.uint8).permute(0, 2, 1).reshape(images.shape)
