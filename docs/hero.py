"""Draw the picture of README and the docs site: `python docs/hero.py`.

The images are synthetic; the masks are those of the shipped weights.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from egeunet import Segmenter
from egeunet.data.synthetic import draw
from egeunet.files import atomic_write

PICTURE = Path(__file__).parent / "images" / "hero.webp"
SEEDS = (32, 14, 24, 36)  # light and dark skin, several colors, hair, rulers
SIDE, GAP, RADIUS = 400, 24, 28


def main() -> None:
    """Draw each image beside itself with its mask, cut along the diagonal."""
    segmenter = Segmenter("isic2018")
    width = len(SEEDS) * (SIDE + GAP) - GAP
    picture = Image.new("RGBA", (width, SIDE))
    for index, seed in enumerate(SEEDS):
        result = segmenter(draw(seed, (SIDE, SIDE))[0])
        picture.paste(tile(result.image, result.overlay(0.22)), (index * (SIDE + GAP), 0))
    with atomic_write(PICTURE) as path:
        picture.save(path, "WEBP", quality=88)


def tile(image, overlay) -> Image.Image:
    """Return the image above its diagonal and the overlay below, with round corners."""
    scale = 4  # for smooth edges
    side = SIDE * scale
    below = Image.new("L", (side, side))
    ImageDraw.Draw(below).polygon([(side, 0), (side, side), (0, side)], fill=255)
    both = Image.fromarray(image)
    both.paste(overlay, mask=below.resize((SIDE, SIDE), Image.Resampling.BOX))
    line = Image.new("L", (side, side))
    ImageDraw.Draw(line).line([(side, 0), (0, side)], fill=255, width=3 * scale)
    both.paste("white", mask=line.resize((SIDE, SIDE), Image.Resampling.BOX))
    corners = Image.new("L", (side, side))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, side - 1, side - 1), RADIUS * scale, fill=255)
    both.putalpha(corners.resize((SIDE, SIDE), Image.Resampling.BOX))
    return both


if __name__ == "__main__":
    main()
