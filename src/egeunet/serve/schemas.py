"""What a photo is answered with: JSON, the mask or the overlay."""

from __future__ import annotations

import io
import json
from enum import Enum
from typing import Any

from fastapi import HTTPException
from PIL import Image
from pydantic import BaseModel

from egeunet.errors import EgeunetError
from egeunet.inference.image_io import inspect_image
from egeunet.inference.result import Result
from egeunet.inference.rle import encode
from egeunet.inference.segmenter import Segmenter
from egeunet.notice import NOTICE
from egeunet.serve.limits import Limits
from egeunet.serve.uploads import Upload


class Format(str, Enum):
    """The forms of an answer."""

    JSON = "json"
    MASK = "mask"
    OVERLAY = "overlay"

    @property
    def media_type(self) -> str:
        """The content type."""
        return "application/json" if self is Format.JSON else "image/png"


class RunLengths(BaseModel):
    """A mask as `egeunet.inference.rle` writes it.

    Args:
        size: Height and width.
        counts: Pixels outside, inside, outside and so on, column by column.
    """

    size: list[int]
    counts: list[int]


class Segmentation(BaseModel):
    """The segmentation of one photo.

    Args:
        notice: What it must not be used for.
        source: What the client calls the file.
        width: Of the photo, in pixels.
        height: Of the photo, in pixels.
        area: Share of the photo that the mask covers, 0…1.
        area_pixels: Number of pixels in the mask.
        box: x0, y0, x1, y1, of which x1 and y1 lie outside; null if the mask is empty.
        quality: The Dice score to be expected of the mask, 0…1; null if the weights tell none.
        review: Whether a person should look; null if the weights tell no quality.
        threshold: Probability from which a pixel is lesion (one class).
        areas: Share of the photo by class (several classes).
        contours: Polygons of [x, y] along pixel edges, holes included.
        mask: The mask as COCO's uncompressed run lengths; of several classes, all but the
            background.
    """

    notice: str
    source: str | None
    width: int
    height: int
    area: float
    area_pixels: int
    box: list[int] | None
    quality: float | None
    review: bool | None
    threshold: float | None = None
    areas: dict[str, float] | None = None
    contours: list[list[list[int]]]
    mask: RunLengths


class Failure(BaseModel):
    """Why there is no answer, in one sentence."""

    detail: str


class FailedFile(BaseModel):
    """A file of a batch that could not be segmented, and why."""

    source: str | None
    error: str


def choose_format(wanted: Format | None, accept: str) -> Format:
    """Return the form of an answer: what the parameter says, else what the Accept header prefers.

    Raises:
        HTTPException: 406, the header takes neither JSON nor PNG.
    """
    if wanted:
        return wanted
    known = {
        **dict.fromkeys(("", "*/*", "application/*", "application/json"), Format.JSON),
        **dict.fromkeys(("image/*", "image/png"), Format.MASK),
    }
    ranges = [_media_range(one) for one in accept.split(",")]
    for name, weight in sorted(ranges, key=lambda one: -one[1]):
        if name in known and weight > 0:
            return known[name]
    raise HTTPException(406, "The answer is application/json or image/png: accept one of them.")


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
    try:
        return name, float(weight)
    except ValueError:
        return name, 0


def segment(segmenter: Segmenter, limits: Limits, upload: Upload, form: Format) -> bytes:
    """Segment a file and return the body of the answer.

    Raises:
        EgeunetError: It is no photo that can be read.
        HTTPException: 413, it has too many pixels.
    """
    result = _result(segmenter, limits, upload)
    if form is Format.JSON:
        return json.dumps(_to_dict(result, upload), allow_nan=False).encode()
    file = io.BytesIO()
    image: Image.Image = result.mask_image() if form is Format.MASK else result.overlay()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def segment_or_fail(segmenter: Segmenter, limits: Limits, upload: Upload) -> bytes:
    """Segment a file of a batch and return JSON: a `Segmentation`, or a `FailedFile`."""
    try:
        return segment(segmenter, limits, upload, Format.JSON)
    except (EgeunetError, HTTPException) as error:
        reason = error.detail if isinstance(error, HTTPException) else str(error)
        return json.dumps({"source": upload.name, "error": reason}).encode()


def _result(segmenter: Segmenter, limits: Limits, upload: Upload) -> Result:
    width, height, _ = inspect_image(upload.data)
    if width * height > limits.pixels:
        raise HTTPException(
            413,
            f"The photo is too large ({width}×{height} pixels, the limit is "
            f"{limits.pixels / 1e6:g} megapixels): scale it down first.",
        )
    return segmenter(upload.data)


def _to_dict(result: Result, upload: Upload) -> dict[str, Any]:
    mask = encode(result.mask.astype(bool, copy=False))
    return {"notice": NOTICE, **result.to_dict(), "source": upload.name, "mask": mask}
