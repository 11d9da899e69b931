"""Made pictures that can be learned from: coloured gratings, whose angle, stripes and colour tell the class, on a noisy ground."""

import colorsys
import io
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SIDES = (40, 48)  # height and width of photographs, about: real ones differ in size
# How the classes differ, all our choice: ten angles, then more stripes; each class's hue is a golden angle from the last one's.
_ANGLES = 10
_STRIPES = 4.0  # to the shorter side, and one and a half more for each further ten classes
_GOLDEN = (math.sqrt(5) - 1) / 2


class Picture(NamedTuple):
    """A made image.

    Attributes:
      data: encoded, as JPEG or PNG.
      shape: height, width, channels.
      shown: its classes; the first is never difficult.
      difficult: those of them that are small and faint.
    """

    data: bytes
    shape: tuple[int, int, int]
    shown: tuple[int, ...]
    difficult: tuple[int, ...]


def random_of(key: str) -> np.random.RandomState:
    """Random numbers that are the same for the same text, with every version of NumPy."""
    return np.random.RandomState(zlib.crc32(key.encode()))


def draw(shown: Sequence[int], key: str, shape: Sequence[int | None] = (None, None, 3), *, banner: int = 0) -> Picture:
    """Draws an image, the same for the same key; place, phase, size, ground and brightness tell nothing of the class.

    Args:
      shown: its classes, numbers from 0.
      key: tells this image from every other.
      shape: height, width and channels (1, 3 or 4); with a side that is None, a photograph's, and the image is a JPEG.
      banner: white rows that are added below.
    """
    random = random_of(key)
    photograph = None in shape[:2]
    height, width = (
        side if side and not photograph else about + int(random.randint(-4, 5))
        for side, about in zip(shape[:2], _SIDES, strict=True)
    )
    grid = np.mgrid[0:height, 0:width] / min(height, width)
    pixels, difficult = _ground(grid, random), list[int]()
    for place, kind in enumerate(shown):
        hard = place > 0 and random.rand() < 0.3
        difficult += [kind] if hard else []
        pixels = _with_grating(pixels, grid, kind, random, 0.4 if hard else 1.0)
    values = np.rint(255 * np.clip(pixels * random.uniform(0.6, 1.3), 0, 1)).astype(np.uint8)
    channels = shape[2] or 3
    if channels == 1:
        values = np.rint(values.mean(axis=2, keepdims=True)).astype(np.uint8)
    if channels == 4:  # opaque
        values = np.concatenate([values, np.full_like(values[..., :1], 255)], axis=2)
    if banner:
        values = np.concatenate([values, np.full((banner, *values.shape[1:]), 255, np.uint8)])
    data = encoded(values, "JPEG" if photograph and channels != 4 else "PNG")
    return Picture(data, (len(values), width, channels), tuple(shown), tuple(difficult))


def encoded(pixels: np.ndarray, form: str) -> bytes:
    """uint8 [h, w, c] as a PNG or JPEG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, form, quality=92)
    return file.getvalue()


def _ground(grid: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """A ground of any colour with slow waves and grain, [h, w, 3] about .45."""
    waves = random.uniform(-1.5, 1.5, (2, 3))  # cycles to the shorter side, down and across, of each channel
    phase = random.uniform(0, 2 * np.pi, 3)
    slow = np.cos(2 * np.pi * np.einsum("ahw,ac->hwc", grid, waves) + phase)
    grain = random.standard_normal(slow.shape)
    return 0.45 + random.uniform(-0.25, 0.25, 3) + 0.12 * slow + 0.06 * grain


def _with_grating(
    pixels: np.ndarray, grid: np.ndarray, kind: int, random: np.random.RandomState, strength: float
) -> np.ndarray:
    """The picture with a class's grating in a round window somewhere."""
    angle = np.pi * (kind % _ANGLES) / _ANGLES + random.uniform(-0.1, 0.1)
    stripes = _STRIPES + 1.5 * (kind // _ANGLES)
    centre = grid[:, -1, -1] * random.uniform(0.2, 0.8, 2)
    y, x = grid - centre[:, None, None]
    wave = np.cos(2 * np.pi * stripes * (y * np.sin(angle) + x * np.cos(angle)) + random.uniform(0, 2 * np.pi))
    hue = kind * _GOLDEN + random.uniform(-0.15, 0.15)
    colour = np.array(colorsys.hsv_to_rgb(hue % 1, random.uniform(0.2, 0.6), 0.9))
    width = random.uniform(0.15, 0.25) * math.sqrt(strength)
    window = strength * np.exp(-(y**2 + x**2) / (2 * width**2))[..., None]
    return pixels * (1 - window) + window * colour * (0.55 + 0.45 * wave[..., None])
