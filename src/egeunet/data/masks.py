"""Masks on disk: what their values mean, in one place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from egeunet.errors import EgeunetError
from egeunet.inference.image_io import FORMATS

# Index 0, 1, 2, … of the masks written here; all but the background read as foreground in grey.
PALETTE = ((0, 0, 0), (255, 255, 255), (255, 160, 0), (80, 200, 255), (120, 255, 90))


def read_values(path: Path, num_classes: int = 1) -> NDArray[np.integer]:
    """Decode a mask without interpreting its values.

    Returns:
        (H, W): grey values of 8, 16 or 32 bits, colours turned to grey; of a palette image the
        indices, unless it is binary and has indices above 1.

    Raises:
        EgeunetError: If the file cannot be read as an image.
    """
    try:
        with Image.open(path, formats=tuple(FORMATS)) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode == "P" and num_classes == 1 and np.asarray(image).max(initial=0) > 1:
                image = image.convert("RGB")
            if image.mode not in ("L", "P", "I", "I;16", "I;16B"):
                image = image.convert("RGB").convert("L")
            values = np.asarray(image)
    except UnidentifiedImageError as error:
        raise EgeunetError(
            f"{path} is not an image; give a mask as PNG, JPEG, BMP or TIFF."
        ) from error
    except Image.DecompressionBombError as error:
        raise EgeunetError(f"{path} is too large to be a mask: {error}") from error
    except (OSError, SyntaxError, ValueError, IndexError, EOFError) as error:
        raise EgeunetError(f"{path} cannot be read ({error}); replace the file.") from error
    return values


def to_classes(
    values: NDArray[np.integer], num_classes: int = 1, name: str = "The mask"
) -> NDArray[np.uint8]:
    """Interpret the values of a mask.

    Args:
        values: As `read_values` gives them, (H, W).
        num_classes: 1: a value above half of its range (127 of 255) is foreground, and in a mask
            of nothing but 0 and 1 the 1 is. More: the values are class indices.
        name: What an error calls it.

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
            "indices or grey values."
        )
    return values.astype(np.uint8)


def read_mask(path: str | Path, num_classes: int = 1) -> NDArray[np.uint8]:
    """Read a mask at its own size.

    Args:
        path: PNG, JPEG, BMP or TIFF; grey, black and white, colour or palette.
        num_classes: 1: binary, see `to_classes`; more: palette or grey values are class indices.

    Returns:
        uint8 (H, W): 0 and 1, or class indices.

    Raises:
        EgeunetError: If the file cannot be read or holds a class that is not below `num_classes`.
    """
    return to_classes(read_values(Path(path), num_classes), num_classes, str(path))


def resize_mask(
    mask: NDArray[np.uint8], size: tuple[int, int], num_classes: int = 1
) -> NDArray[np.uint8]:
    """Resize a mask: by area and a threshold at one half if binary, else to the nearest pixel.

    Args:
        mask: uint8 (H, W), as `read_mask` gives it.
        size: Height and width wanted.
        num_classes: As for `read_mask`.

    Returns:
        uint8 (h, w) of the same classes; the same values if the size is the same.
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
        image.putpalette([channel for colour in PALETTE[:num_classes] for channel in colour])
    image.save(path)
