"""Random white balance, gamma and saturation for batches.

The network sees each image min–max normalized, which undoes linear changes common to all channels,
such as brightness and contrast. These changes reach it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from egeunet.engine.library import call, load_kernels

_RED, _GREEN, _BLUE = 19595, 38470, 7471  # ITU-R BT.601 in 1/65536, as in Pillow
_ONE = 1 << 8


@dataclass(frozen=True)
class ColorChange:
    """Color changes of a batch.

    Attributes:
        curves: New value of each value of each channel, uint8 (B, 3, 256).
        saturation: Factor of the distances from gray, in 1/256, int32 (B,).
    """

    curves: Tensor
    saturation: Tensor

    @classmethod
    def from_factors(
        cls,
        gain: NDArray[np.float64],
        gamma: NDArray[np.float64],
        saturation: NDArray[np.float64],
    ) -> ColorChange:
        """Return the change for given factors.

        Args:
            gain: Factor of each channel, (B, 3), above 0, divided by the largest of its sample so
                that nothing is clipped.
            gamma: Exponents of the values in 0…1, (B,).
            saturation: Factors of the distances from gray, (B,); 0 gives gray images.
        """
        gain = gain / gain.max(axis=1, keepdims=True)
        values = np.linspace(0, 1, 256) ** gamma[:, None]
        curves = np.rint(255 * gain[:, :, None] * values[:, None]).astype(np.uint8)
        factors = np.rint(saturation * _ONE).astype(np.int32)
        return cls(torch.from_numpy(curves), torch.from_numpy(factors))

    def __getitem__(self, rows: slice) -> ColorChange:
        return ColorChange(self.curves[rows], self.saturation[rows])


def recolor(images: Tensor, change: ColorChange) -> Tensor:
    """Change the colors of images, uint8 (B, H, W, 3); gives the same bits on any device."""
    library = load_kernels() if images.device.type == "cpu" else None
    if library is None:
        return _recolor(images, change)
    out, images = torch.empty_like(images), images.contiguous()
    count, height, width, _ = images.shape
    call(library, "recolor", images, change.curves, change.saturation, out, count, height * width)
    return out


def _recolor(images: Tensor, change: ColorChange) -> Tensor:
    """The formulas of `augmentation.c`."""
    curves, saturation = (
        tensor.to(images.device, torch.int32) for tensor in (change.curves, change.saturation)
    )
    values = curves.gather(2, images.flatten(1, 2).permute(0, 2, 1).long())  # (B, 3, H·W)
    gray = (_RED * values[:, 0] + _GREEN * values[:, 1] + _BLUE * values[:, 2] + (1 << 15)) >> 16
    gray = gray[:, None]
    values = gray + ((saturation[:, None, None] * (values - gray) + _ONE // 2) >> 8)
    return values.clamp(0, 255).to(torch.uint8).permute(0, 2, 1).reshape(images.shape)
