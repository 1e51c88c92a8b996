"""Random affine maps, and the pass that normalizes and transforms a batch of images and masks.

The paper's three operations (horizontal flip, vertical flip, rotation, each with probability 0.5),
zoom, shear and translation are one affine map per sample, applied in a single nearest-neighbor
lookup, as the published code rotates.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field, field_validator
from torch import Tensor

from egeunet.data.augmentation.color import ColorChange
from egeunet.engine.library import call, load_kernels

_HALF = 1 << 15


Factor = Annotated[float, Field(ge=0.1, le=10)]


class Augmentation(BaseModel, extra="forbid", frozen=True):
    """Random changes to training samples."""

    horizontal_flip: float = Field(0.5, ge=0, le=1, description="Probability of a left-right flip")
    vertical_flip: float = Field(0.5, ge=0, le=1, description="Probability of an up-down flip")
    rotation: float = Field(0.5, ge=0, le=1, description="Probability of a rotation")
    angle: Literal["per_sample", "once"] = Field(
        "per_sample",
        description="Draw the angle per sample, or once per run as the published code does",
    )
    scale: tuple[Factor, Factor] = Field((1.0, 1.0), description="Smallest and largest zoom factor")
    shear: float = Field(0.0, ge=0, le=45, description="Largest shear angle, in degrees")
    translation: float = Field(
        0.0, ge=0, le=1, description="Largest shift, as a fraction of the image side"
    )
    hair: float = Field(0.0, ge=0, le=1, description="Probability of synthetic hair")
    gain: float = Field(
        0.0, ge=0, lt=1, description="Each channel is multiplied by a factor from 1 ± this"
    )
    gamma: float = Field(
        0.0, ge=0, lt=1, description="Brightness is raised to a power from 1 ± this"
    )
    saturation: float = Field(
        0.0, ge=0, le=1, description="Saturation is multiplied by a factor from 1 ± this"
    )
    light: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Uneven illumination: largest light loss at one side",
    )
    camera: float = Field(
        0.0, ge=0, le=1, description="Probability of blur, noise or JPEG compression"
    )

    @field_validator("scale")
    @classmethod
    def _ascending(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("the smallest zoom factor is greater than the largest")
        return scale

    def sample_maps(
        self,
        aspects: NDArray[np.float32],
        generator: np.random.Generator,
        angle: float | None = None,
    ) -> NDArray[np.float32]:
        """Draw one affine map per sample, from coordinates of the new image to the old one's.

        The new image is the old one shifted, mirrored, zoomed and sheared, and then rotated.

        Args:
            aspects: Width / height of each image before it was resized to the square, (B,): zoom,
                shear and rotation act on the original geometry.
            generator: Source of randomness.
            angle: Degrees of all rotations; None draws an angle per sample.

        Returns:
            (B, 2, 3), acting on (x, y, 1) with x and y from -1 to 1 and 0 in the image's center.
        """
        count = len(aspects)
        chance = generator.random((4, count))
        angles = chance[3] * 360 if angle is None else np.full(count, angle)
        angles = np.deg2rad(np.where(chance[2] < self.rotation, angles, 0))
        flip_x = np.where(chance[0] < self.horizontal_flip, -1, 1)
        flip_y = np.where(chance[1] < self.vertical_flip, -1, 1)
        cos, sin = np.cos(angles), np.sin(angles)
        scale = np.exp(generator.uniform(np.log(self.scale[0]), np.log(self.scale[1]), count))
        shear = np.tan(np.deg2rad(generator.uniform(-self.shear, self.shear, count)))
        shift = generator.uniform(-2 * self.translation, 2 * self.translation, (2, count))
        rows = [
            [flip_x * (cos + shear * sin) / scale, flip_x * (shear * cos - sin) / aspects / scale],
            [flip_y * sin * aspects / scale, flip_y * cos / scale],
        ]
        linear = np.array(rows).transpose(2, 0, 1)
        return np.concatenate((linear, shift.T[:, :, None]), axis=2).astype(np.float32)

    def sample_colors(self, count: int, generator: np.random.Generator) -> ColorChange | None:
        """Draw color changes for `count` samples; None if colors stay."""
        if not (self.gain or self.gamma or self.saturation):
            return None

        def around_1(spread: float, *shape: int) -> NDArray[np.float64]:
            return generator.uniform(1 - spread, 1 + spread, shape)

        gain, gamma = around_1(self.gain, count, 3), around_1(self.gamma, count)
        return ColorChange.from_factors(gain, gamma, around_1(self.saturation, count))


def transform(
    images: Tensor, masks: Tensor, maps: NDArray[np.float32] | None = None
) -> tuple[Tensor, Tensor]:
    """Scale each image min–max to 0…255 and move each sample by its affine map.

    Places are whole numbers in 1/65536 of a pixel, so that the C code and the formulas below, on
    any device, give the same bits.

    Args:
        images: uint8 (B, H, W, 3).
        masks: uint8 (B, H, W).
        maps: float32 (B, 2, 3), of `sample_maps`; nearest pixel, exact for flips. None
            moves nothing.

    Returns:
        Images float32 (B, 3, H, W), channels last in memory, scaled by the extremes of the unmoved
        image as `egeunet.inference.preprocess.min_max_normalize` does; masks uint8 (B, H, W). What
        comes from outside is 0 in both.
    """
    count, height, width = masks.shape
    if maps is None:
        maps = np.broadcast_to(np.eye(2, 3, dtype=np.float32), (count, 2, 3))
    per_pixel = np.array([[1, width / height, width], [height / width, 1, height]])
    fixed = torch.from_numpy(np.rint(maps * per_pixel * _HALF).astype(np.int32, order="C"))
    library = load_kernels() if masks.device.type == "cpu" else None
    if library is None:
        return _transform(images, masks, fixed.to(masks.device))
    images, masks = images.contiguous(), masks.contiguous()
    moved = torch.empty(count, height, width, 3)
    moved_masks = torch.empty_like(masks)
    call(library, "batch", images, masks, fixed, moved, moved_masks, count, height, width)
    return moved.permute(0, 3, 1, 2), moved_masks


def _transform(images: Tensor, masks: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
    """The formulas of `augmentation.c`."""
    count, height, width = masks.shape
    y = torch.arange(height, device=masks.device, dtype=torch.int32)[:, None] * 2 + 1 - height
    x = torch.arange(width, device=masks.device, dtype=torch.int32) * 2 + 1 - width
    m = fixed[:, :, :, None, None]
    column = (m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2] + width * _HALF) >> 16  # (B, H, W)
    row = (m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2] + height * _HALF) >> 16
    outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    source = (row * width + column).masked_fill_(outside, 0).long().flatten(1)

    # The four bytes of a pixel (red, green, blue, class) move as one 32-bit number.
    pixels = torch.cat((images, masks.unsqueeze(-1)), dim=-1).view(torch.int32).flatten(1)
    moved = pixels.gather(1, source).view(torch.uint8).view(count, height, width, 4)
    low, factor = extremes(images)
    scaled = ((moved[..., :3].float() - low) * factor).masked_fill_(outside.unsqueeze(-1), 0)
    return scaled.permute(0, 3, 1, 2), moved[..., 3].masked_fill(outside, 0)


def extremes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the offset and the factor that normalize uint8 (B, H, W, 3) min–max to 0…255."""
    pixels = images.flatten(1)
    low, high = pixels.amin(1).float(), pixels.amax(1).float()
    # A quotient of tensors: `255 / tensor` is a product with the rounded reciprocal.
    factor = torch.full_like(low, 255) / (high - low).clamp(min=1)
    return low[:, None, None, None], factor[:, None, None, None]
