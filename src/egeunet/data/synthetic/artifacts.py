"""Artifacts of dermoscopy images: hair, bubbles, stickers, rulers, glare, the lens and camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from egeunet.data.augmentation.camera import to_bytes
from egeunet.data.synthetic.noise import Float, smooth, smoothstep

_OVERSAMPLING = 2  # of lines
_STICKERS = ((40, 90, 170), (30, 130, 90), (225, 190, 50), (215, 110, 40), (190, 45, 50))
_HAIRS = ((28, 20, 18), (52, 34, 24), (84, 56, 36), (190, 160, 115), (225, 220, 210))


def add_artifacts(
    rng: np.random.Generator, image: Float, y: Float, x: Float, lesion: NDArray[np.bool_]
) -> Float:
    """Draw hair, gel bubbles, a sticker, a ruler, glare and the lens over an image, at random.

    Args:
        rng: Source of randomness.
        image: RGB in 0…1, (H, W, 3).
        y: (H, 1), from `egeunet.data.synthetic.noise.grid`.
        x: (1, W), from `egeunet.data.synthetic.noise.grid`.
        lesion: Mask of the lesion, (H, W); stickers keep away from it.

    Returns:
        The image, (H, W, 3).
    """
    if rng.random() < 0.6:
        image = synthetic_hair(rng, image)
    if rng.random() < 0.35:
        image = _bubbles(rng, image)
    if rng.random() < 0.2:
        image = _sticker(rng, image, y, x, lesion)
    if rng.random() < 0.25:
        image = ruler(rng, image)
    if rng.random() < 0.3:
        image = _glare(rng, image, y, x)
    return _lens(rng, image, y, x)


def photograph(rng: np.random.Generator, image: Float) -> NDArray[np.uint8]:
    """Apply white balance, noise, blur and 8 bits, as a camera does."""
    image = image * rng.normal((1.1, 1.08, 1.08), (0.04, 0.03, 0.05)).astype(np.float32)
    short = min(image.shape[:2])
    grain = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(
        rng.uniform(0.004, 0.014)
    )
    pixels = to_bytes(image + grain)
    blur = ImageFilter.GaussianBlur(rng.uniform(0.35, 0.9) * short / 256)
    return np.asarray(Image.fromarray(pixels).filter(blur))


def _blend(image: Float, color: Float | float, alpha: Float) -> Float:
    return image + (color - image) * alpha[..., None]


class _Canvas:
    """A canvas (H, W) for lines, in units of the short side from the top left corner."""

    def __init__(self, size: tuple[int, ...]) -> None:
        self.height, self.width = size[:2]
        self.unit = min(self.height, self.width) * _OVERSAMPLING
        self.image = Image.new("L", (self.width * _OVERSAMPLING, self.height * _OVERSAMPLING))
        self.pen = ImageDraw.Draw(self.image)

    def line(self, points: NDArray[np.floating], width: float, strength: int = 255) -> None:
        flat = [tuple(point) for point in points * self.unit]
        self.pen.line(flat, strength, max(round(width * self.unit), 1), joint="curve")

    def alpha(self) -> Float:
        return np.asarray(self.image.reduce(_OVERSAMPLING), dtype=np.float32) / np.float32(255)


def synthetic_hair(rng: np.random.Generator, image: Float, count: int | None = None) -> Float:
    """Draw hairs over an image (H, W, 3) in 0…1, about a dozen by default."""
    canvas = _Canvas(image.shape)
    extent = np.array([canvas.width, canvas.height]) / min(canvas.width, canvas.height)
    grain = rng.uniform(0, 2 * np.pi)  # hair grows in one direction, more or less
    spread = rng.uniform(0.2, 1.2)
    thickness = rng.uniform(0.003, 0.0085)
    for _ in range(rng.geometric(0.08) if count is None else count):
        angle = grain + rng.normal(0, spread)
        length = rng.uniform(0.25, 1.3)
        bend = rng.normal(0, 0.9, 2)
        t = np.linspace(0, 1, 15)
        heading = angle + bend[0] * t + bend[1] * t**3
        steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * (length / len(t))
        points = rng.uniform(-0.1, 1.1, 2) * extent + np.cumsum(steps, axis=0) - steps.sum(0) / 2
        width = thickness * rng.uniform(0.6, 1.3)
        strength = int(rng.uniform(150, 255))
        for start in range(0, 14, 2):  # thinner towards the tip
            canvas.line(points[start : start + 3], width * (1 - 0.65 * t[start]), strength)
    dark = rng.random() < 0.8
    color = _HAIRS[rng.integers(0, 3) if dark else rng.integers(3, 5)]
    alpha = canvas.alpha()
    shadow = np.roll(alpha, (1, 1), (0, 1)) * np.float32(0.18)
    image = image * (1 - shadow[..., None])
    paint = np.array(color, np.float32) / np.float32(255)
    return _blend(image, paint, alpha * np.float32(rng.uniform(0.7, 0.95)))


def _bubbles(rng: np.random.Generator, image: Float) -> Float:
    """Draw air bubbles in the immersion gel: a rim, bright towards the light, and a highlight."""
    image = image.copy()
    height, width = image.shape[:2]
    short = min(height, width)
    light = rng.uniform(0, 2 * np.pi)
    home = rng.uniform(0, 1, 2)
    for _ in range(rng.integers(3, 26)):
        place = home + rng.normal(0, 0.22, 2) if rng.random() < 0.7 else rng.uniform(0, 1, 2)
        radius = short * rng.lognormal(-4.1, 0.55)
        cy, cx = place * (height, width)
        rows, columns = _window(cy, 1.2 * radius, height), _window(cx, 1.2 * radius, width)
        if rows.stop <= rows.start or columns.stop <= columns.start:
            continue
        dy = (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - cy) / radius
        dx = (np.arange(columns.start, columns.stop, dtype=np.float32)[None] - cx) / radius
        distance = np.hypot(dy, dx)
        rim = np.exp(-(((distance - 0.88) / 0.1) ** 2))
        facing = dx * np.cos(light) + dy * np.sin(light)
        spot = np.exp(-((dx - 0.45 * np.cos(light)) ** 2 + (dy - 0.45 * np.sin(light)) ** 2) / 0.03)
        change = rim * (0.05 + 0.22 * facing) + 0.45 * spot + 0.03 * (distance < 0.88)
        image[rows, columns] += change[..., None].astype(np.float32)
    return image


def _window(center: float, reach: float, end: int) -> slice:
    return slice(max(int(center - reach), 0), min(int(center + reach) + 1, end))


def _sticker(
    rng: np.random.Generator, image: Float, y: Float, x: Float, lesion: NDArray[np.bool_]
) -> Float:
    """Draw a round color patch in the corner farthest from the lesion."""
    corners = [(sy, sx) for sy in (-1, 1) for sx in (-1, 1)]
    rows, columns = np.nonzero(lesion)
    middle = (float(y[rows, 0].mean()), float(x[0, columns].mean()))
    sy, sx = min(corners, key=lambda c: c[0] * middle[0] + c[1] * middle[1])
    cy, cx = (
        sy * float(y.max()) * rng.uniform(0.75, 1.15),
        sx * float(x.max()) * rng.uniform(0.9, 1.15),
    )
    radius = rng.uniform(0.12, 0.4)
    distance = np.hypot((y - cy) * np.float32(rng.uniform(0.75, 1.3)), x - cx)
    pixel = 1.5 / min(image.shape[:2])
    alpha = smoothstep(radius + pixel, radius - pixel, distance)
    shadow = smoothstep(radius + 0.03, radius, distance) * np.float32(0.25)
    color = np.array(_STICKERS[rng.integers(len(_STICKERS))], np.float32) / 255
    sheen = 1 + 0.06 * smooth(rng, (image.shape[0], image.shape[1]), 3)[..., None]
    return _blend(image * (1 - shadow[..., None]), color * sheen, alpha * np.float32(0.96))


def ruler(rng: np.random.Generator, image: Float) -> Float:
    """Draw a ruler along one side of an image (H, W, 3) in 0…1, each 5th or 10th tick longer."""
    canvas = _Canvas(image.shape)
    width, height = np.array([canvas.width, canvas.height]) / min(canvas.width, canvas.height)
    side = rng.integers(4)
    along, across = (width, height) if side < 2 else (height, width)
    spacing, long = rng.uniform(0.018, 0.045), rng.choice((5, 10))
    reach, thickness = rng.uniform(0.02, 0.04), rng.uniform(0.003, 0.006)
    depth, tilt = rng.uniform(0.01, 0.1), rng.normal(0, 0.03)
    places = np.arange(int(along / spacing) + 1) * spacing
    starts = np.stack([places, depth + tilt * places], axis=1)
    lengths = np.where(np.arange(len(places)) % long, reach, 1.9 * reach)
    lines = [
        np.array([start, start + np.array([0, length])])
        for start, length in zip(starts, lengths, strict=True)
    ]
    if rng.random() < 0.5:
        lines.append(starts[[0, -1]])
    for line in lines:
        # From (along, across) to (x, y) of the chosen side.
        if side % 2:
            line[:, 1] = across - line[:, 1]
        canvas.line(line if side < 2 else line[:, ::-1], thickness)
    return _blend(image, 0.08, canvas.alpha() * np.float32(rng.uniform(0.6, 0.9)))


def _glare(rng: np.random.Generator, image: Float, y: Float, x: Float) -> Float:
    """Draw specular reflections of wet skin: white and broken up, in a few places."""
    size = (image.shape[0], image.shape[1])
    near = np.zeros(size, np.float32)
    for _ in range(rng.integers(1, 5)):
        cy, cx = rng.uniform(y.min(), y.max()), rng.uniform(x.min(), x.max())
        near += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / np.float32(rng.uniform(0.05, 0.2) ** 2))
    broken = smooth(rng, size, rng.uniform(40, 90)) + 0.3 * smooth(rng, size, 10)
    alpha = smoothstep(2.6, 4.0, broken + 1.6 * near) * np.float32(rng.uniform(0.4, 0.9))
    return _blend(image, np.array([1.0, 0.99, 0.97], np.float32), alpha)


def _lens(rng: np.random.Generator, image: Float, y: Float, x: Float) -> Float:
    """Apply uneven illumination, vignetting, and the round rim of the dermoscope."""
    slope_y, slope_x = rng.normal(0, 0.06, 2).astype(np.float32)
    light = 1 + slope_y * y * 2 + slope_x * x * 2
    radius = np.hypot(y / y.max(), x / x.max()) / np.float32(np.sqrt(2))  # 1 in the corners
    light = light - rng.uniform(0, 0.35) * smoothstep(0.35, 1.1, radius)
    image = image * light[..., None]
    if rng.random() < 0.2:
        cy, cx = rng.normal(0, 0.03, 2)
        tube = np.hypot(y - np.float32(cy), x - np.float32(cx)) / np.float32(
            np.hypot(y.max(), x.max())
        )
        rim, soft = rng.uniform(0.76, 0.96), rng.uniform(0.01, 0.06)
        image = _blend(image, 0.02, smoothstep(rim - soft, rim + soft, tube))
    return image
