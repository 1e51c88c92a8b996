"""Read, interpret, resize and write mask files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.errors import EgeunetError
from egeunet.inference.image_io import open_image

# Colors of class 0, 1, 2, …; all but the background read as foreground when converted to gray.
PALETTE = ((0, 0, 0), (255, 255, 255), (255, 160, 0), (80, 200, 255), (120, 255, 90))


def read_values(path: Path, num_classes: int = 1) -> NDArray[np.integer]:
    """Decode a mask without interpreting its values.

    Returns:
        (H, W), upright: gray values of 8, 16 or 32 bits, with colors converted to gray. A palette
        image gives its indices, unless it is binary and has indices above 1.

    Raises:
        EgeunetError: If the file cannot be read as an image, or is beyond the limits of
            `egeunet.inference.image_io.read_image`.
    """
    with open_image(path) as (image, turn):
        if image.mode == "P" and num_classes == 1 and np.asarray(image).max(initial=0) > 1:
            image = image.convert("RGB")
        if image.mode not in ("L", "P", "I", "I;16", "I;16B"):
            image = (image if image.mode == "RGB" else image.convert("RGB")).convert("L")
        values = np.asarray(image)
    if turn in (3, 4, 6, 7):
        values = values[::-1]
    if turn in (2, 3, 7, 8):
        values = values[:, ::-1]
    return values.T if turn > 4 else values


def to_classes(
    values: NDArray[np.integer], num_classes: int = 1, name: str = "The mask"
) -> NDArray[np.uint8]:
    """Convert the values of a mask to classes.

    Args:
        values: (H, W), from `read_values`.
        num_classes: 1: values above half of the range (127 of 255) are foreground; in a mask that
            holds only 0 and 1, 1 is foreground. More: the values are class indices.
        name: Name of the mask in error messages.

    Returns:
        uint8 (H, W): 0 and 1, or class indices below `num_classes`.

    Raises:
        EgeunetError: If a class index is not below `num_classes`.
    """
    highest = int(values.max(initial=0))
    if num_classes == 1:
        half = 0 if highest <= 1 else 127 if highest <= 255 else 32767
        return (values > half).astype(np.uint8)
    if highest >= num_classes or values.min(initial=0) < 0:
        raise EgeunetError(
            f"{name} holds the class {highest}: expected 0 to {num_classes - 1}, as palette "
            "indices or gray values."
        )
    return values.astype(np.uint8)


def read_mask(path: str | Path, num_classes: int = 1) -> NDArray[np.uint8]:
    """Read a mask file at its own size.

    Args:
        path: PNG, JPEG, BMP, TIFF or WebP; gray, black and white, color or palette.
        num_classes: 1: binary, see `to_classes`; more: palette or gray values are class indices.

    Returns:
        uint8 (H, W): 0 and 1, or class indices.

    Raises:
        EgeunetError: If the file cannot be read or holds a class that is not below `num_classes`.
    """
    return to_classes(read_values(Path(path), num_classes), num_classes, str(path))


def resize_mask(
    mask: NDArray[np.uint8], size: tuple[int, int], num_classes: int = 1
) -> NDArray[np.uint8]:
    """Resize a mask: binary by area with a threshold of one half, classes by nearest neighbor.

    Args:
        mask: uint8 (H, W), from `read_mask`.
        size: New height and width in pixels.
        num_classes: As for `read_mask`.

    Returns:
        uint8 (h, w) of the same classes; `mask` itself if it has that size.
    """
    height, width = size
    if mask.shape == (height, width):
        return mask
    if num_classes > 1:
        return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    image = Image.fromarray(mask * np.uint8(255)).resize((width, height), Image.Resampling.BILINEAR)
    return (np.asarray(image) > 127).astype(np.uint8)


def write_mask(path: Path, mask: NDArray[np.uint8], num_classes: int = 1) -> None:
    """Write a mask as PNG: 0 and 255 if binary, else class indices with a palette."""
    if num_classes == 1:
        image = Image.fromarray(mask * np.uint8(255))
    else:
        image = Image.fromarray(mask)
        image.putpalette([channel for color in PALETTE[:num_classes] for channel in color])
    image.save(path)
