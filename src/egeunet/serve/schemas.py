"""Formats and JSON schemas of the responses."""

from __future__ import annotations

from enum import Enum

from fastapi import HTTPException
from pydantic import BaseModel


class Format(str, Enum):
    """The format of a response."""

    JSON = "json"
    MASK = "mask"
    OVERLAY = "overlay"

    @property
    def media_type(self) -> str:
        """The content type."""
        return "application/json" if self is Format.JSON else "image/png"


class RunLengths(BaseModel):
    """A mask as uncompressed run lengths, as COCO stores them.

    Args:
        size: Height and width.
        counts: Lengths of the runs outside, inside, outside and so on, column by column.
    """

    size: list[int]
    counts: list[int]


class Segmentation(BaseModel):
    """The segmentation of one image.

    Args:
        notice: Intended use.
        source: File name that the client sent, if any.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        area: Fraction of the image that the mask covers, 0…1.
        area_pixels: Number of pixels in the mask.
        box: Bounding box x0, y0, x1, y1, where x1 and y1 are exclusive; null if the mask is empty.
        quality: Estimated Dice score of the mask, 0…1; null if the weights have no estimator.
        review: Whether a person should check the mask; null if there is no estimate.
        threshold: Probability from which a pixel is foreground (one class).
        areas: Fraction of the image by class (several classes).
        contours: Polygons of [x, y] along pixel edges, holes included.
        mask: The mask as run lengths; with several classes, all but the background.
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
    """Why a request failed, in one sentence."""

    detail: str


class FailedFile(BaseModel):
    """A file of a batch that could not be segmented, and why."""

    source: str | None
    error: str


def choose_format(wanted: Format | None, accept: str) -> Format:
    """Return the format of a response: the parameter, else what the Accept header prefers.

    Raises:
        HTTPException: 406, the header accepts neither JSON nor PNG.
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
    raise HTTPException(406, "The response is application/json or image/png: accept one of them.")


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
    try:
        return name, float(weight)
    except ValueError:
        return name, 0
