"""Skin tone groups by individual typology angle (ITA)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TONES = {"very light": 55.0, "light": 41.0, "intermediate": 28.0, "tan": 10.0, "brown": -30.0}
"""Lowest angle of each group (Del Bino & Bernerd 2013); below all of them is "dark"."""
_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32
)
_WHITE = np.array([0.9505, 1.0, 1.089], np.float32)  # D65


def typology_angle(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> float:
    """Return the individual typology angle of the pixels outside a mask, in degrees.

    ITA = atan2(L* - 50, b*) · 180 / π of the median colour (Chardon et al. 1991), as Kinyanjui et
    al. (2020) take it from dermoscopy images. It describes an image and not a person: it follows
    light, camera and white balance, and counts pixels that are not skin.

    Args:
        image: sRGB, uint8 (H, W, 3).
        mask: Not 0 on the lesion, (H, W).

    Returns:
        -90…90 for skin, higher when lighter; nan where the mask covers everything.
    """
    skin = image[mask == 0]
    if not len(skin):
        return float("nan")
    lightness, _, b = to_lab(np.median(skin, axis=0))
    return float(np.degrees(np.arctan2(lightness - 50, b)))


def to_lab(colour: NDArray[np.float64]) -> tuple[float, float, float]:
    """Convert an sRGB colour, 0…255, to CIE L*a*b* (D65)."""
    share = colour / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    relative = _TO_XYZ @ linear / _WHITE
    small = relative <= (6 / 29) ** 3
    x, y, z = np.where(small, relative * (29 / 6) ** 2 / 3 + 4 / 29, np.cbrt(relative))
    return float(116 * y - 16), float(500 * (x - y)), float(200 * (y - z))


def skin_tone(angle: float) -> str:
    """Return the skin tone group of a typology angle."""
    if np.isnan(angle):
        return "unknown"
    return next((name for name, least in TONES.items() if angle > least), "dark")
