"""What the segmentation of one photo gives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.errors import EgeunetError, UsageError
from egeunet.files import atomic_write
from egeunet.inference.image_io import EncodedImage
from egeunet.inference.preprocess import restore, restore_classes, restore_mask
from egeunet.inference.quality import REVIEW
from egeunet.inference.visualize import bounding_box, class_colour, draw_overlay, trace_contours


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The segmentation of one photo; everything is at the photo's own size, computed when asked.

    Args:
        image: The photo, upright RGB, uint8 (H, W, 3), or a large one as its file.
        scores: Probability at the network's size: float32 (h, w) of the lesion, or (K, h, w) of
            each class, 0 being the background.
        threshold: Probability from which a pixel belongs to the lesion (one class only).
        classes: What the classes are called: one name, or K with the background first.
        source: What the photo is called; None if it has no name.
        quality: The Dice score, 0…1, that an expert's outline would probably give the mask: fitted
            to the validation photos of the weights, without other thresholds or tidying. None if
            the weights do not say how it is told: those of several classes, of the protocol paper,
            or exported without their data. It is no guarantee and no diagnosis.
    """

    image: NDArray[np.uint8] | EncodedImage
    scores: NDArray[np.float32]
    threshold: float = 0.5
    classes: tuple[str, ...] = ("lesion",)
    source: str | None = None
    quality: float | None = None

    @cached_property
    def photo(self) -> NDArray[np.uint8]:
        """The photo, upright RGB, uint8 (H, W, 3)."""
        return self.image.decode() if isinstance(self.image, EncodedImage) else self.image

    @property
    def width(self) -> int:
        """Width of the photo in pixels."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """Height of the photo in pixels."""
        return int(self.image.shape[0])

    @cached_property
    def probability(self) -> NDArray[np.float32]:
        """Probability of the lesion, float32 (H, W) in 0…1; of each class, (K, H, W), if many."""
        size = (self.height, self.width)
        if self.scores.ndim == 2:
            return restore(self.scores, size)
        return np.stack([restore(plane, size) for plane in self.scores])

    @cached_property
    def mask(self) -> NDArray[Any]:
        """The lesion, bool (H, W); the most probable class of each pixel, uint8 (H, W), if many."""
        if self.scores.ndim == 2:
            return restore_mask(self.scores, (self.height, self.width), self.threshold)
        return restore_classes(self.scores, (self.height, self.width))

    @cached_property
    def _foreground(self) -> NDArray[np.bool_]:
        return self.mask.astype(bool, copy=False)

    @cached_property
    def area_pixels(self) -> int:
        """Number of pixels in the mask (of any class but the background)."""
        return int(np.count_nonzero(self._foreground))

    @property
    def area(self) -> float:
        """Share of the photo that the mask covers, 0…1."""
        return self.area_pixels / (self.width * self.height)

    @cached_property
    def box(self) -> tuple[int, int, int, int] | None:
        """The mask's bounding box (x0, y0, x1, y1), x1 and y1 exclusive; None if it is empty."""
        return bounding_box(self._foreground)

    @cached_property
    def contours(self) -> list[NDArray[np.int32]]:
        """The mask's borders: int32 (N, 2) polygons of (x, y) along pixel edges, holes included.

        Outer borders run clockwise on the screen and holes counter-clockwise; filling all by the
        even-odd rule gives the mask back. Of several classes it is the border to the background.
        """
        return trace_contours(self._foreground)

    @cached_property
    def confidence(self) -> float:
        """How sure the network is of the mask, 0…1: the Dice that its own probabilities predict.

        With p the probability of the foreground and M the mask, both at the network's size,
        2·Σ_M p / (Σ p + |M|): 1 when the probability is 1 inside and 0 outside. For an empty mask
        it is the mean of 1 - p. It is not calibrated: a network can be sure and wrong. See
        `quality` for what is.
        """
        if self.scores.ndim == 2:
            p, inside = self.scores, self.scores >= np.float32(self.threshold)
        else:
            p, inside = 1 - self.scores[0], self.scores.argmax(axis=0) > 0
        total, count = float(p.sum(dtype=np.float64)), int(np.count_nonzero(inside))
        if not count:
            return 1 - total / p.size
        return 2 * float(p.sum(dtype=np.float64, where=inside)) / (total + count)

    @property
    def review(self) -> bool | None:
        """Whether a person should look: the expected Jaccard index is below 0.65.

        That is a `quality` below 0.788; None where there is no quality.
        """
        return None if self.quality is None else self.quality < REVIEW

    def overlay(self, opacity: float = 0.35) -> Image.Image:
        """Draw the mask over the photo: tinted, with its outline.

        Args:
            opacity: Of the tint, 0 (the outline alone) to 1.

        Returns:
            An RGB image of the photo's size.

        Raises:
            UsageError: `opacity` is outside 0…1.
        """
        if not 0 <= opacity <= 1:
            raise UsageError(f"The opacity is {opacity}: expected a number in 0…1.")
        return draw_overlay(self.photo, self.mask.astype(np.uint8, copy=False), opacity)

    def mask_image(self) -> Image.Image:
        """Return the mask as an image: grey 0 and 255, or class numbers with a palette if many."""
        if self.scores.ndim == 2:
            return Image.fromarray(self.mask.astype(np.uint8) * np.uint8(255))
        image = Image.fromarray(self.mask)
        image.putpalette([value for k in range(len(self.classes)) for value in class_colour(k)])
        return image

    def save(self, path: str | Path) -> Path:
        """Write the mask as a PNG file, whole or not at all.

        Args:
            path: Where to; it ends in .png. Missing folders are made.

        Returns:
            The path.

        Raises:
            UsageError: The path does not end in .png.
            EgeunetError: The file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UsageError(
                f"A mask is saved as PNG, which loses nothing: {path} must end in .png."
            )
        return save_image(self.mask_image(), path)

    def to_dict(self, contours: bool = True) -> dict[str, Any]:
        """Return everything but the pixels, ready for JSON.

        Args:
            contours: Include the contours, as lists of [x, y].

        Returns:
            `source`, `width`, `height`, `area`, `area_pixels`, `box`, `confidence`, `quality`,
            `review`, `threshold` (one class) or `areas` (share of the photo by class name, if
            many), and `contours`.
        """
        values: dict[str, Any] = {
            "source": self.source,
            "width": self.width,
            "height": self.height,
            "area": self.area,
            "area_pixels": self.area_pixels,
            "box": list(self.box) if self.box else None,
            "confidence": self.confidence,
            "quality": self.quality,
            "review": self.review,
        }
        if self.scores.ndim == 2:
            values["threshold"] = self.threshold
        else:
            counts = np.bincount(self.mask.ravel(), minlength=len(self.classes))
            shares = (counts / self.mask.size).tolist()
            values["areas"] = dict(zip(self.classes, shares, strict=True))
        if contours:
            values["contours"] = [polygon.tolist() for polygon in self.contours]
        return values

    def to_json(self) -> str:
        """Return `to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def __repr__(self) -> str:
        name = f"{self.source!r}, " if self.source else ""
        quality = "" if self.quality is None else f", quality={self.quality:.3f}"
        return (
            f"Result({name}{self.width}×{self.height}, area={self.area:.3f}, box={self.box}, "
            f"confidence={self.confidence:.3f}{quality})"
        )


def save_image(image: Image.Image, path: Path) -> Path:
    """Write an image whole or not at all, in the format that the path's suffix names.

    Raises:
        EgeunetError: The file cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            image.save(temporary, compress_level=1)  # of PNG: fast, a little larger
    except OSError as error:
        raise EgeunetError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path
