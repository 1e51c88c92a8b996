"""Contours, bounding boxes and overlays of masks."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Color = tuple[int, int, int]
_BAND = 1_000_000  # pixels that are looked at at a time, so that large masks take little memory

# Okabe and Ito's palette, distinct for color-blind readers; the first is rare on skin.
_COLORS: tuple[Color, ...] = (
    (0, 158, 115),
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
)


def class_color(index: int) -> Color:
    """Return the RGB color of a class: black for the background 0, then distinct colors."""
    if index == 0:
        return 0, 0, 0
    if index <= len(_COLORS):
        return _COLORS[index - 1]
    # Steps of the golden ratio around the color wheel never repeat.
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.65, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Return the bounding box of a mask.

    Args:
        mask: bool (H, W).

    Returns:
        (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None if the mask is empty.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


def trace_contours(mask: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Trace the border between true and false pixels exactly.

    The polygons run along the edges of pixels, so that one pixel at (0, 0) gives the square
    (0, 0), (1, 0), (1, 1), (0, 1), and filling all of them by the even-odd rule gives the mask
    back. True pixels that touch at a corner belong together. The mask lies to the right of the
    direction of travel as seen on the screen: outer borders run clockwise, holes the other way.

    Args:
        mask: bool (H, W).

    Returns:
        One int32 (N, 2) array of corners (x, y) per closed polygon, the last corner not repeated,
        from top to bottom and left to right by each polygon's first corner.
    """
    box = bounding_box(mask)
    if box is None:
        return []
    x0, y0, x1, y1 = box
    inside = np.pad(mask[y0:y1, x0:x1].astype(bool, copy=False), 1)
    rows = max(1, _BAND // inside.shape[1])
    bands = [
        _find_corners(inside[top : top + rows + 1], top) for top in range(0, y1 - y0 + 1, rows)
    ]
    ys, xs, falling, twice = (np.concatenate(parts) for parts in zip(*bands, strict=True))
    ys, xs, falling = (np.repeat(axis, 1 + twice) for axis in (ys, xs, falling))

    # Row by row, corners 0-1, 2-3, … are the ends of one horizontal edge each; likewise column by
    # column for vertical edges. Of a double corner the first ends the edge from the left; whether
    # it also ends the one from above or starts the one below decides what touches what.
    second = np.zeros(len(xs), dtype=bool)
    second[1:] = (ys[1:] == ys[:-1]) & (xs[1:] == xs[:-1])
    below = np.where(falling, ~second, second)
    by_column = np.lexsort((below, ys, xs))
    vertical = np.empty(len(xs), dtype=np.int64)
    vertical[by_column[0::2]] = by_column[1::2]
    vertical[by_column[1::2]] = by_column[0::2]

    points = np.stack((xs + x0, ys + y0), axis=1).astype(np.int32)
    polygons = []
    for cycle in _cycles(vertical.tolist()):
        polygon = points[cycle]
        # The first edge is the leftmost of the topmost ones and runs right: below it lies the
        # mask if this is an outer border, and a hole if it is not.
        x, y = polygon[0]
        if not mask[y, x]:
            polygon = np.roll(polygon[::-1], 1, axis=0)
        polygons.append(polygon)
    return polygons


def _find_corners(inside: NDArray[np.bool_], top: int) -> tuple[NDArray[Any], ...]:
    """Find where the border turns between the pixels of some rows.

    Returns:
        Rows (from `top` on) and columns of the corners, whether the mask falls from left to right
        there, touching itself diagonally, and whether two borders meet.
    """
    left_up, right_up = inside[:-1, :-1], inside[:-1, 1:]
    left_down, right_down = inside[1:, :-1], inside[1:, 1:]
    # A border turns where an odd number of the four pixels round a point is true, and twice where
    # only two that face each other diagonally are.
    falling = left_up & right_down & ~right_up & ~left_down
    rising = right_up & left_down & ~left_up & ~right_down
    ys, xs = np.nonzero(left_up ^ right_up ^ left_down ^ right_down | falling | rising)
    return ys + top, xs, falling[ys, xs], falling[ys, xs] | rising[ys, xs]


def _cycles(vertical: Sequence[int]) -> list[list[int]]:
    """Follow horizontal edges (corner i to i^1) and vertical ones in turn until each closes."""
    seen = bytearray(len(vertical))
    cycles: list[list[int]] = []
    for start in range(0, len(vertical), 2):
        if seen[start]:
            continue
        cycle: list[int] = []
        corner = start
        while True:
            across = corner ^ 1
            seen[corner] = seen[across] = 1
            cycle += (corner, across)
            corner = vertical[across]
            if corner == start:
                break
        cycles.append(cycle)
    return cycles


def draw_overlay(
    image: NDArray[np.uint8], classes: NDArray[np.uint8], opacity: float
) -> Image.Image:
    """Tint the pixels of each class above 0 in its color and outline them.

    Args:
        image: RGB, uint8 (H, W, 3).
        classes: Class of each pixel, uint8 (H, W); 0 is the background.
        opacity: Opacity of the tint, 0 (outline only) to 1.

    Returns:
        An RGB image of the same size; the outline is 1/256 of its shorter side wide.
    """
    drawn = Image.fromarray(image)
    from PIL import ImageDraw  # here, because `import egeunet` shall not wait for it

    draw = ImageDraw.Draw(drawn)
    width = max(1, round(min(drawn.size) / 256))
    for index in np.flatnonzero(np.bincount(classes.ravel(), minlength=1)):
        if index == 0:
            continue
        color = class_color(int(index))
        inside = classes == index
        rows = max(1, _BAND // drawn.width)
        for top in range(0, drawn.height, rows):
            strength = inside[top : top + rows] * np.uint8(round(opacity * 255))
            drawn.paste(
                color, (0, top, drawn.width, top + len(strength)), Image.fromarray(strength)
            )
        for polygon in trace_contours(inside):
            closed = np.concatenate((polygon, polygon[:2]))
            draw.line(list(map(tuple, closed.tolist())), fill=color, width=width)
    return drawn
