"""Geometric augmentation of whole batches, on the device that holds them.

The paper's three operations (horizontal flip, vertical flip, rotation, each with probability 0.5)
are one linear map of the image plane per sample, applied in a single look-up of the nearest pixel,
which is also how the published code rotates. Image and mask move together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """With which probability what is done to a training sample.

    Attributes:
        horizontal_flip: Probability of mirroring left and right.
        vertical_flip: Probability of mirroring top and bottom.
        rotation: Probability of a rotation by an angle from 0 to 360 degrees.
        angle: None draws the angle per sample; degrees rotate all samples by the same one, as the
            published code does, which draws it once when the program starts.
    """

    horizontal_flip: float = 0.5
    vertical_flip: float = 0.5
    rotation: float = 0.5
    angle: float | None = None

    def draw(
        self, aspects: NDArray[np.float32], generator: np.random.Generator
    ) -> NDArray[np.float32]:
        """Draw one map per sample from places in the new image to places in the old one.

        Args:
            aspects: Width / height of each photo before it was resized to the square, (B,): the
                rotation happens in the photo's own geometry.
            generator: Where the numbers come from.

        Returns:
            (B, 2, 2), acting on (x, y) from -1 to 1 with 0 in the image's centre.
        """
        count = len(aspects)
        chance = generator.random((4, count))
        angles = chance[3] * 360 if self.angle is None else np.full(count, self.angle)
        angles = np.deg2rad(np.where(chance[2] < self.rotation, angles, 0))
        flip_x = np.where(chance[0] < self.horizontal_flip, -1, 1)
        flip_y = np.where(chance[1] < self.vertical_flip, -1, 1)
        cos, sin = np.cos(angles), np.sin(angles)
        rows = [
            [flip_x * cos, -flip_x * sin / aspects],
            [flip_y * sin * aspects, flip_y * cos],
        ]
        return np.array(rows, dtype=np.float32).transpose(2, 0, 1)


def warp(images: Tensor, masks: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Move every sample by its linear map; nearest pixel, exact for flips.

    Args:
        images: uint8 (B, H, W, 3).
        masks: uint8 (B, H, W).
        maps: float32 (B, 2, 2); see `Augmentation.draw`.

    Returns:
        Image and mask of the same shapes. What comes from outside is 0 in the mask and, in the
        image, the smallest value the image has, which is 0 once it is scaled.
    """
    count, height, width = masks.shape
    y = (torch.arange(height, device=masks.device) * 2 + 1) / height - 1
    x = (torch.arange(width, device=masks.device) * 2 + 1) / width - 1
    m = maps[:, :, :, None, None]
    old_x = m[:, 0, 0] * x + m[:, 0, 1] * y[:, None]  # (B, H, W)
    old_y = m[:, 1, 0] * x + m[:, 1, 1] * y[:, None]
    column = ((old_x + 1) * (width / 2)).floor_().int()
    row = ((old_y + 1) * (height / 2)).floor_().int()
    outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    place = (row * width + column).masked_fill_(outside, 0).long().flatten(1)

    # The four bytes of a pixel (red, green, blue, class) move as one 32-bit number.
    pixels = torch.cat((images, masks.unsqueeze(-1)), dim=-1).view(torch.int32).flatten(1)
    moved = pixels.gather(1, place).view(torch.uint8).view(count, height, width, 4)
    darkest = images.flatten(1).amin(1)[:, None, None, None]
    moved_images = torch.where(outside.unsqueeze(-1), darkest, moved[..., :3])
    return moved_images, moved[..., 3].masked_fill(outside, 0)
