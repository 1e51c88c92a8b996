"""The result of segmenting one image."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.errors import EgeunetError, UsageError, needs_extra
from egeunet.files import atomic_write
from egeunet.inference.image_io import EncodedImage
from egeunet.inference.preprocess import upsample, upsample_classes, upsample_mask
from egeunet.inference.quality import REVIEW
from egeunet.inference.visualize import bounding_box, class_color, draw_overlay, trace_contours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_THUMBNAIL = 640  # pixels a side of what notebooks show


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The segmentation of one image; everything is at the image's size and computed on demand.

    Args:
        encoded: The image, upright RGB, uint8 (H, W, 3), or a large one as its file.
        scores: Probability at the network's size: float32 (h, w) of the foreground, or (K, h, w) of
            each class, 0 being the background.
        threshold: Pixels with this probability or more are in the mask (one class only).
        classes: Name of the class, or K names with the background first.
        source: Name of the image; None if it has none.
        quality: Estimated Dice score of the mask, 0…1, calibrated on the validation split of the
            weights at their own threshold. None if the weights hold no estimator: those of several
            classes, of the protocol `paper`, or exported without their data. It is no guarantee
            and no diagnosis.
    """

    encoded: NDArray[np.uint8] | EncodedImage
    scores: NDArray[np.float32]
    threshold: float = 0.5
    classes: tuple[str, ...] = ("lesion",)
    source: str | None = None
    quality: float | None = None

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The image, upright RGB, uint8 (H, W, 3)."""
        return self.encoded.decode() if isinstance(self.encoded, EncodedImage) else self.encoded

    @property
    def width(self) -> int:
        """Width of the image in pixels."""
        return int(self.encoded.shape[1])

    @property
    def height(self) -> int:
        """Height of the image in pixels."""
        return int(self.encoded.shape[0])

    @cached_property
    def probability(self) -> NDArray[np.float32]:
        """Foreground probability, float32 (H, W) in 0…1; of several classes (K, H, W)."""
        size = (self.height, self.width)
        if self.scores.ndim == 2:
            return upsample(self.scores, size)
        return np.stack([upsample(plane, size) for plane in self.scores])

    @cached_property
    def mask(self) -> NDArray[Any]:
        """The mask, bool (H, W); of several classes the most probable one, uint8 (H, W)."""
        if self.scores.ndim == 2:
            return upsample_mask(self.scores, (self.height, self.width), self.threshold)
        return upsample_classes(self.scores, (self.height, self.width))

    @cached_property
    def _foreground(self) -> NDArray[np.bool_]:
        return self.mask.astype(bool, copy=False)

    @cached_property
    def area_pixels(self) -> int:
        """Number of pixels in the mask (of any class but the background)."""
        return int(np.count_nonzero(self._foreground))

    @property
    def area(self) -> float:
        """Fraction of the image that the mask covers, 0…1."""
        return self.area_pixels / (self.width * self.height)

    @cached_property
    def box(self) -> tuple[int, int, int, int] | None:
        """The mask's bounding box (x0, y0, x1, y1), x1 and y1 exclusive; None if it is empty."""
        return bounding_box(self._foreground)

    @cached_property
    def contours(self) -> list[NDArray[np.int32]]:
        """The mask's contours: int32 (N, 2) polygons of (x, y) along pixel edges, with holes.

        Outer contours run clockwise on the screen and holes counter-clockwise; filling all by the
        even-odd rule gives the mask. Of several classes, the contours of the foreground.
        """
        return trace_contours(self._foreground)

    @property
    def review(self) -> bool | None:
        """True if a person should check the mask: the estimated Jaccard index is below 0.65.

        That is a `quality` below 0.788. An unflagged mask can still be wrong. None without quality.
        """
        return None if self.quality is None else self.quality < REVIEW

    def overlay(self, opacity: float = 0.35) -> Image.Image:
        """Draw the mask over the image, tinted and outlined.

        Args:
            opacity: Opacity of the tint, 0 (outline only) to 1.

        Returns:
            An RGB image of the image's size.

        Raises:
            UsageError: `opacity` is outside 0…1.
        """
        if not 0 <= opacity <= 1:
            raise UsageError(f"The opacity is {opacity}: expected a number in 0…1.")
        return draw_overlay(self.image, self.mask.astype(np.uint8, copy=False), opacity)

    def mask_image(self) -> Image.Image:
        """Return the mask as an image: 0 and 255, or class numbers with a palette if several."""
        if self.scores.ndim == 2:
            return Image.fromarray(self.mask.astype(np.uint8) * np.uint8(255))
        image = Image.fromarray(self.mask)
        image.putpalette([value for k in range(len(self.classes)) for value in class_color(k)])
        return image

    def save(self, path: str | Path) -> Path:
        """Write the mask to a PNG file, atomically.

        Args:
            path: File to write, ending in .png. Missing folders are created.

        Returns:
            The path.

        Raises:
            UsageError: The path does not end in .png.
            EgeunetError: The file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UsageError(f"Masks are saved as PNG, which is lossless: {path} must end in .png.")
        return save_image(self.mask_image(), path)

    def show(self) -> None:
        """Show the overlay: inline in a notebook, else in the system's image viewer."""
        try:
            from IPython import get_ipython
        except ModuleNotFoundError:
            shell = None
        else:
            shell = get_ipython()
        if shell is None:
            self.overlay().show()
        else:
            from IPython.display import display

            display(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the overlay with matplotlib.

        Args:
            ax: Axes to draw into; new ones by default.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        if ax is None:
            with needs_extra("train"):
                import matplotlib.pyplot as plt
            ax = plt.subplots()[1]
        ax.imshow(np.asarray(self.overlay()))
        quality = "" if self.quality is None else f", quality {self.quality:.2f}"
        ax.set_title(f"{self.classes[-1]}: {self.area:.1%} of the image{quality}")
        ax.set_axis_off()
        return ax

    def _repr_png_(self) -> bytes:
        image = self.overlay()
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    def to_dict(self, contours: bool = True) -> dict[str, Any]:
        """Return everything but the pixels, ready for JSON.

        Args:
            contours: Include the contours, as lists of [x, y].

        Returns:
            `source`, `width`, `height`, `area`, `area_pixels`, `box`, `quality`, `review`,
            `threshold` (one class) or `areas` (fraction of the image by class name, if several),
            and `contours`.
        """
        values: dict[str, Any] = {
            "source": self.source,
            "width": self.width,
            "height": self.height,
            "area": self.area,
            "area_pixels": self.area_pixels,
            "box": list(self.box) if self.box else None,
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
        """Return `to_dict()` as JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def __repr__(self) -> str:
        name = f"{self.source!r}, " if self.source else ""
        quality = "" if self.quality is None else f", quality={self.quality:.3f}"
        size = f"{self.width}×{self.height}"
        return f"Result({name}{size}, area={self.area:.3f}, box={self.box}{quality})"


def to_dataframe(results: Iterable[Result]) -> DataFrame:
    """Return one row per result with the values of `Result.to_dict`, without contours.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    with needs_extra("train"):
        import pandas as pd
    return pd.DataFrame([result.to_dict(contours=False) for result in results])


def save_image(image: Image.Image, path: Path) -> Path:
    """Write an image atomically, in the format that the path's suffix names.

    Raises:
        EgeunetError: The file cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            image.save(temporary, compress_level=1)  # of PNG: fast, a little larger
    except OSError as error:
        raise EgeunetError(f"Cannot write {path}: {error.strerror or error}.") from error
    return path
