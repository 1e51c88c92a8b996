import numpy as np
import pytest

from egeunet.evaluation.skin_tone import skin_tone, to_lab, typology_angle


@pytest.mark.parametrize(
    ("colour", "expected"),
    [  # of the CIE formulas, as tables print them
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_colours_are_converted_as_tables_print_them(colour, expected):
    assert to_lab(np.array(colour, float)) == pytest.approx(expected, abs=0.05)


def to_srgb(lightness, a, b):
    """CIE L*a*b* (D65) of a color that is not dark to sRGB in 0…1."""
    f = (lightness + 16) / 116 + np.array([a / 500, 0, -b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9505, 1.0, 1.089)
    matrix = [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.057]]
    return 1.055 * np.clip(matrix @ xyz, 0.0031308, 1) ** (1 / 2.4) - 0.055


def test_the_angle_is_that_of_the_skin_around_the_lesion():
    """Skin is drawn with a known angle, the inverse formula, and the lesion does not count."""
    for angle in (60, 45, 30, 0, -40):
        b = 14.0
        colour = to_srgb(50 + b * np.tan(np.radians(angle)), 8.0, b)
        image = np.empty((32, 32, 3), np.uint8)
        image[:] = np.round(colour * 255)
        mask = np.zeros((32, 32), np.uint8)
        image[8:24, 8:24], mask[8:24, 8:24] = (40, 20, 20), 1
        assert typology_angle(image, mask) == pytest.approx(angle, abs=2)


def test_groups_have_their_published_limits():
    angles = (70, 55.1, 55, 41, 28, 10, -30, -60, float("nan"))
    assert [skin_tone(angle) for angle in angles] == [
        *("very light", "very light", "light", "intermediate", "tan", "brown", "dark", "dark"),
        "unknown",
    ]
    assert np.isnan(typology_angle(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.uint8)))
