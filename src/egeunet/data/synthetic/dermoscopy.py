"""Synthetic dermoscopy images with exact masks.

Light is multiplied: skin of a given tone, absorption by melanin and hemoglobin in each color
channel, and artifacts on top. Skin tones follow the individual typology angle (ITA =
atan((L* - 50) / b*), Chardon et al. 1991) from very light to very dark. No real image is used, and
scores on these images say nothing about real ones.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from egeunet.data.masks import write_mask
from egeunet.data.synthetic.artifacts import add_artifacts, photograph
from egeunet.data.synthetic.noise import Float, cells, fractal, grid, smooth, smoothstep
from egeunet.errors import UsageError
from egeunet.progress import track

CLASSES = ("background", "lesion", "dark structure")
MELANIN = np.array([0.45, 0.95, 1.5], np.float32)  # absorption of red, green, blue per density
BLOOD = np.array([0.10, 1.0, 0.85], np.float32)
VEIL = np.array([0.52, 0.57, 0.66], np.float32)  # deep pigment scatters blue


@dataclass(frozen=True)
class _Kind:
    """A kind of lesion: the range (lowest, highest) of each property.

    `veil` and `pale` are the probabilities of a blue-gray veil and of depigmented areas.
    """

    chance: float
    melanin: tuple[float, float]
    blood: tuple[float, float] = (0.0, 0.12)
    unevenness: tuple[float, float] = (0.1, 0.25)
    irregularity: tuple[float, float] = (0.02, 0.08)
    edge: tuple[float, float] = (0.06, 0.25)
    network: float = 0.5
    globules: float = 0.4
    dark: tuple[float, float] = (0.25, 0.6)
    veil: float = 0.0
    pale: float = 0.05


_KINDS = (
    _Kind(0.40, melanin=(0.35, 1.2)),  # common mole
    _Kind(
        0.28,  # several colors, irregular outline
        melanin=(0.6, 1.2),
        blood=(0.0, 0.25),
        unevenness=(0.25, 0.45),
        irregularity=(0.08, 0.2),
        edge=(0.04, 0.15),
        network=0.7,
        globules=0.6,
        dark=(0.5, 1.2),
        veil=0.55,
        pale=0.4,
    ),
    _Kind(0.12, melanin=(0.35, 0.9), edge=(0.02, 0.06), network=0.0, globules=0.9),  # seborrheic
    _Kind(0.10, melanin=(0.05, 0.2), blood=(0.35, 0.9), network=0.0, globules=0.2),  # red
    _Kind(0.05, melanin=(0.7, 1.0), dark=(0.2, 0.4), network=0.0, globules=0.0, veil=1.0),  # blue
    _Kind(0.05, melanin=(0.22, 0.4), edge=(0.1, 0.3), network=0.8),  # faint
)


def draw(
    seed: int | Sequence[int], size: tuple[int, int] = (256, 256), num_classes: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one image and its mask.

    Args:
        seed: The same seed and size give the same image.
        size: Height and width in pixels, at least 16.
        num_classes: 1: the lesion; 3: background, lesion, dark structure within it.

    Returns:
        The image, RGB uint8 (H, W, 3), and its mask, uint8 (H, W): 0 and 1, or class indices. The
        mask is the shape of the lesion, also below artifacts; it is never empty and never full.

    Raises:
        UsageError: If the size is too small or the number of classes is not 1 or 3.
    """
    if num_classes not in (1, len(CLASSES)):
        raise UsageError(f"Synthetic images have 1 or {len(CLASSES)} classes, not {num_classes}.")
    if min(size) < 16:
        raise UsageError(
            f"{size[1]}×{size[0]} is too small for a synthetic image: expected 16×16 or more."
        )
    rng = np.random.default_rng(seed)
    kind = rng.choice(np.array(_KINDS, dtype=object), p=[kind.chance for kind in _KINDS])
    y, x = grid(size)

    field, radius = _outline(rng, kind, y, x)
    inside = field < 0
    darkness = field + np.float32(0.3 * radius) * smooth(rng, size, 3 / radius)
    border = np.quantile(darkness[inside], rng.uniform(0.12, 0.4))
    dark = inside & (darkness < border)

    tone = _skin_tone(rng)
    image = _skin(rng, tone, y, x)
    image = _lesion(rng, kind, image, field / radius, (darkness - border) / radius, y, x)
    image = add_artifacts(rng, image, y, x, inside)
    return photograph(rng, image), inside.astype(np.uint8) + (dark & (num_classes > 1))


def write_dataset(
    folder: str | Path,
    count: int,
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
    num_classes: int = 1,
) -> Path:
    """Write a dataset of `images/*.jpg` and `masks/*.png`, all of it or nothing.

    Args:
        folder: A new or empty folder.
        count: Number of image–mask pairs.
        size: Height and width in pixels.
        seed: Seed; image i is the same for any count.
        num_classes: 1 or 3, see `draw`; masks of 3 classes have a palette.

    Returns:
        The folder.

    Raises:
        UsageError: If the folder is not empty, or an argument is out of range.
    """
    folder = Path(folder)
    if count < 1:
        raise UsageError(f"Expected at least 1 image, not {count}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty. Name a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        whole = building / "whole"  # with the usual permissions, unlike a temporary folder
        for name in ("images", "masks"):
            (whole / name).mkdir(parents=True)
        for index in track(range(count), "drawing images"):
            image, mask = draw((seed, index), size, num_classes)
            name = f"synthetic_{index:05d}"
            Image.fromarray(image).save(whole / "images" / f"{name}.jpg", quality=92)
            write_mask(whole / "masks" / f"{name}.png", mask, num_classes)
        if folder.is_dir():
            folder.rmdir()
        whole.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _skin_tone(rng: np.random.Generator) -> Float:
    """Draw a skin color (3,) in sRGB 0…1 from the whole range of typology angles."""
    angle = np.deg2rad(rng.uniform(-62, 70))
    b = rng.uniform(11, 19) if angle > 0 else rng.uniform(9, 16)
    lightness = 50 + b * np.tan(angle)
    return _srgb(np.clip(lightness, 24, 86), rng.uniform(6, 13), b)


def _srgb(lightness: float, a: float, b: float) -> Float:
    """Convert CIE L*a*b* (D65) to sRGB."""
    fy = (lightness + 16) / 116
    f = np.array([fy + a / 500, fy, fy - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9505, 1.0, 1.089)
    rgb = np.array(
        [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.057]]
    )
    linear = np.clip(rgb @ xyz, 0, 1)
    return np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    ).astype(np.float32)


def _outline(rng: np.random.Generator, kind: _Kind, y: Float, x: Float) -> tuple[Float, float]:
    """Return a field (H, W), negative inside the lesion, about a distance, and the mean radius."""
    size = (y.shape[0], x.shape[1])
    area = 0.03 + 0.55 * rng.beta(1.4, 3.0)  # of the image
    radius = float(np.sqrt(area * (size[0] * size[1] / min(size) ** 2) / np.pi))
    center_y, center_x = rng.normal(0, 0.07, 2)
    wobble = rng.uniform(*kind.irregularity) * radius
    y = y + np.float32(1.2 * wobble) * smooth(rng, size, 0.7 / radius)
    x = x + np.float32(1.2 * wobble) * smooth(rng, size, 0.7 / radius)
    total = np.zeros(size, np.float32)
    sharpness = 5 / radius
    for lobe in range(rng.integers(1, 5)):
        reach = radius * rng.uniform(0.3, 0.8) if lobe else 0
        direction, turn = rng.uniform(0, 2 * np.pi, 2)
        dy = y - np.float32(center_y + reach * np.sin(direction))
        dx = x - np.float32(center_x + reach * np.cos(direction))
        stretch = np.float32(np.exp(rng.normal(0, 0.16)))
        u = (dx * np.cos(turn) + dy * np.sin(turn)).astype(np.float32) * stretch
        v = (dy * np.cos(turn) - dx * np.sin(turn)).astype(np.float32) / stretch
        distance = np.hypot(u, v) - radius * (rng.uniform(0.4, 0.8) if lobe else 1)
        total += np.exp(np.clip(-sharpness * distance, -60, 60)).astype(np.float32)
    field = -np.log(total) / np.float32(sharpness)
    field += np.float32(0.6 * wobble) * fractal(rng, size, 1.6 / radius, 4)
    field += np.float32(0.012 * radius) * smooth(rng, size, 12 / radius)
    # Lobes and noise change the area; this restores it.
    return (field - np.quantile(field, area)).astype(np.float32), radius


def _skin(rng: np.random.Generator, tone: Float, y: Float, x: Float) -> Float:
    """Return skin (H, W, 3): blotches of melanin and blood, grain, and fine furrows."""
    size = (y.shape[0], x.shape[1])
    warp = np.float32(0.02)
    furrow_y = y + warp * smooth(rng, size, 14)
    furrow_x = x * np.float32(rng.uniform(0.6, 1.4)) + warp * smooth(rng, size, 14)
    _, border = cells(rng, furrow_y, furrow_x, rng.uniform(25, 50))
    furrows = smoothstep(0.5, 0.0, border) * smoothstep(-1, 1, smooth(rng, size, 4))
    melanin = 0.02 * fractal(rng, size, 3, 3) + rng.uniform(0.01, 0.03) * fractal(rng, size, 30, 3)
    melanin = melanin + rng.uniform(0, 0.05) * furrows
    blood = rng.uniform(0.01, 0.035) * fractal(rng, size, 3, 4)
    return tone * _absorb(melanin, blood)


def _lesion(
    rng: np.random.Generator,
    kind: _Kind,
    skin: Float,
    field: Float,
    darkness: Float,
    y: Float,
    x: Float,
) -> Float:
    """Color the lesion; `field` and `darkness` are in units of its radius, negative inside."""
    size = (y.shape[0], x.shape[1])
    edge = np.float32(rng.uniform(*kind.edge)) * np.exp(0.6 * smooth(rng, size, 3))
    pigment = _sigmoid(-field / edge * 2)
    deep = _sigmoid(-darkness / 0.09)
    patches = smoothstep(-0.8, 1.0, smooth(rng, size, 5))
    grain = fractal(rng, size, 18, 3)

    melanin = 1 + rng.uniform(*kind.unevenness) * fractal(rng, size, 5, 4) + 0.12 * grain
    melanin = (
        rng.uniform(*kind.melanin) * melanin * (1 + rng.normal(0, 0.25) * smoothstep(0, -1, field))
    )
    melanin = melanin + rng.uniform(*kind.dark) * deep * (1 + 0.25 * grain)
    network, globules = rng.random() < kind.network, rng.random() < kind.globules
    if network or globules:
        spots, lines = _structures(rng, y, x)
        if network:
            rim = smoothstep(-0.8, -0.1, field) if rng.random() < 0.6 else np.float32(1)
            melanin = melanin * (0.85 + rng.uniform(0.3, 0.6) * lines * patches * rim)
        if globules:
            melanin = melanin + rng.uniform(0.2, 0.45) * spots * (1 - patches)
    blood = rng.uniform(*kind.blood) * (1 + 0.4 * fractal(rng, size, 4, 3))
    if rng.random() < kind.pale:
        pale = smoothstep(0.4, 1.6, smooth(rng, size, 3.5) + 0.3 * grain) * (1 - deep)
        melanin = melanin * (1 - rng.uniform(0.6, 0.95) * pale)
    image = skin * _absorb(np.clip(melanin, 0, 2.6) * pigment, np.clip(blood, 0, None) * pigment)
    # Reddened skin around some lesions.
    halo = max(rng.normal(0.02, 0.06), 0) * _sigmoid(-(field - 0.25) / 0.1)
    image = image * _absorb(np.zeros_like(halo), halo)
    if rng.random() < kind.veil:
        extent = 0.2 if kind.veil == 1 else 0.7
        veil = smoothstep(extent - 1.4, extent + 0.8, smooth(rng, size, 3) + 0.2 * grain) * pigment
        veil = (veil * rng.uniform(0.5, 0.8))[..., None]
        image = image * (1 - veil) + VEIL * veil * (skin.mean() * (0.95 + 0.05 * grain[..., None]))
    return image


def _structures(rng: np.random.Generator, y: Float, x: Float) -> tuple[Float, Float]:
    """Return globules and the lines of a pigment network, each (H, W) in 0…1."""
    size = (y.shape[0], x.shape[1])
    y, x = (axis + np.float32(0.008) * fractal(rng, size, 16, 2) for axis in (y, x))
    center, border = cells(rng, y, x, rng.uniform(28, 55))
    spots = smoothstep(0.55, 0.15, center + 0.12 * smooth(rng, size, 20))
    return spots, smoothstep(0.55, 0.0, border)


def _absorb(melanin: Float, blood: Float) -> Float:
    """Return the light (H, W, 3) that absorption leaves (Beer–Lambert)."""
    density = melanin[..., None] * MELANIN + blood[..., None] * BLOOD
    return np.exp(-density.astype(np.float32))


def _sigmoid(value: Float) -> Float:
    return (1 / (1 + np.exp(-np.clip(value, -30, 30)))).astype(np.float32)
