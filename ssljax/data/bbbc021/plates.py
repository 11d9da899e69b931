"""What is common to a plate: how its fields are lit, and the intensities that its crops are rescaled by."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ssljax import files
from ssljax.data.bbbc021.metadata import CHANNELS, CONTROL, Field
from ssljax.data.bbbc021.tiff import Broken, read_field

SAMPLE = 24  # fields looked at: a tenth of a plate's 240, and some thousand cells (our choice)
LEAST = 8  # of fewer fields the mean shows cells, not light: it is then taken as even (our choice)
PERCENTILES = (0.1, 99.9)  # our choice: 1,300 pixels of a field lie beyond each, dust and hot pixels among them
_COARSE = 8  # light is smooth: it is kept for blocks of 8x8 pixels
_LEVELS = 65536
# Bins of the histograms: eight to the octave from the darkest that the camera gives, and as many even ones.
EDGES = {"before": np.geomspace(128, _LEVELS, 73), "after": np.linspace(0, _LEVELS, 73)}


class Plate(NamedTuple):
    """What a sample of a plate's fields says of it; see `survey`."""

    surveyed: int
    dark: NDArray[np.float64]  # [3]: the camera's level where nothing shines, the lower percentile of the pixels
    light: NDArray[np.float32]  # [3, h, w]
    percentiles: NDArray[np.float64]  # [3, 2] of evenly lit pixels
    before: NDArray[np.int64]  # [3, 72] counts of pixels in the files, over `EDGES`
    after: NDArray[np.int64]  # [3, 72] of those normalised

    def even(self, images: NDArray[np.uint16], channel: int) -> NDArray[np.float32]:
        """The pixels [h, w] of one channel of a field [3, h, w] as if it were evenly lit."""
        return _even(images[channel], self.dark[channel], self.light[channel])

    def normalized(self, images: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Evenly lit pixels [3, h, w], the plate's percentiles at 0 and 65535, clipped."""
        return np.stack([_rescaled(self.even(images, c), pair) for c, pair in enumerate(self.percentiles)])

    def summary(self) -> dict[str, Any]:
        """For the manifest."""
        pairs = {channel: [round(float(v), 1) for v in pair] for channel, pair in zip(CHANNELS, self.percentiles)}
        return {"surveyed": self.surveyed, "percentiles": pairs}


def illumination(mean: NDArray[Any], dark: float) -> NDArray[np.float32]:
    """How brightly each place of a field is lit, from the mean of many fields of a plate.

    What the mean has above the dark level is smoothed until no cell shows, by a Gaussian of an eighth of the shorter side (our
    choice), and divided by its own mean. A pixel is then dark + light * (what shines there).

    Args:
      mean: [h, w], one channel's mean over fields.
      dark: the camera's level where nothing shines.

    Returns:
      [ceil(h / 8), ceil(w / 8)], for blocks of 8x8 pixels: mean 1, at least .2, so that an unlit corner
      is never blown up.
    """
    blocks = ndimage.uniform_filter(np.asarray(mean, np.float32) - dark, _COARSE)[
        _COARSE // 2 :: _COARSE, _COARSE // 2 :: _COARSE
    ]
    smooth = ndimage.gaussian_filter(blocks, min(mean.shape) / 8 / _COARSE, mode="nearest")
    return np.maximum(smooth / max(float(smooth.mean()), 1e-6), 0.2)


def spread(coarse: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """An illumination of blocks at every pixel of a field [h, w], between the blocks' centres linear."""
    factors = [side / blocks for side, blocks in zip(shape, coarse.shape)]
    return ndimage.zoom(coarse, factors, order=1, mode="nearest", grid_mode=True)


def survey(task: tuple[Path, Sequence[Field], Sequence[Sequence[Path | None]]]) -> None:
    """Looks at a sample of a plate's fields, controls first, and writes what it says for `read_plate`.

    Twice over the same fields: their mean gives the illumination, then the histogram of their evenly lit pixels the percentiles.
    Fields that cannot be read, or differ in size from the first, are passed over; without a sound one nothing is written.

    Args:
      task: the file to write, the plate's fields, and the files of each.
    """
    path, fields, paths = task
    sample, total, raw = list[int](), np.zeros(0), np.zeros((len(CHANNELS), _LEVELS), np.int64)
    for i in _order(fields):
        try:
            images = read_field(fields[i], paths[i])
        except Broken:
            continue
        if not sample:
            total = np.zeros(images.shape)
        if images.shape != total.shape:
            continue
        total += images
        raw += [np.bincount(image.ravel(), minlength=_LEVELS) for image in images]
        sample.append(i)
        if len(sample) == SAMPLE:
            break
    if not sample:
        return
    dark = np.array([_percentile(counts, PERCENTILES[0]) for counts in raw])
    coarse = np.stack([illumination(total[c] / len(sample), dark[c]) for c in range(len(dark))])
    if len(sample) < LEAST:
        coarse = np.ones_like(coarse)
    light = np.stack([spread(one, total.shape[1:]) for one in coarse])
    even = np.zeros_like(raw)
    for i in sample:
        with contextlib.suppress(Broken):  # sound a moment ago; a network's folder may fail for once
            for c, image in enumerate(read_field(fields[i], paths[i])):
                pixels = np.clip(np.rint(_even(image, dark[c], light[c])), 0, _LEVELS - 1).astype(np.uint16)
                even[c] += np.bincount(pixels.ravel(), minlength=_LEVELS)
    percentiles = np.array([[_percentile(counts, share) for share in PERCENTILES] for counts in even])
    levels = np.arange(_LEVELS)
    before = [np.histogram(levels, EDGES["before"], weights=counts)[0] for counts in raw]
    after = [np.histogram(_rescaled(levels, p), EDGES["after"], weights=n)[0] for n, p in zip(even, percentiles)]
    with files.replacing(path, "wb") as file:
        np.savez(
            file,
            surveyed=len(sample),
            shape=total.shape[1:],
            dark=dark,
            coarse=coarse,
            percentiles=percentiles,
            before=np.array(before, np.int64),
            after=np.array(after, np.int64),
        )


def read_plate(path: Path) -> Plate | None:
    """What `survey` wrote; None where no field of the plate was sound."""
    if not path.exists():
        return None
    with np.load(path) as kept:
        height, width = map(int, kept["shape"])
        light = np.stack([spread(one, (height, width)) for one in kept["coarse"]])
        return Plate(int(kept["surveyed"]), kept["dark"], light, kept["percentiles"], kept["before"], kept["after"])


def _order(fields: Sequence[Field]) -> list[int]:
    """Indices of the fields, controls first, each kind in an order whose every beginning is spread over the plate."""
    by_place = sorted(range(len(fields)), key=lambda i: (fields[i].well, fields[i].image))
    shuffled = np.random.default_rng(0).permutation(by_place)
    return sorted(map(int, shuffled), key=lambda i: fields[i].compound != CONTROL)


def _even(image: NDArray[np.uint16], dark: float, light: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.float32(dark) + (image - np.float32(dark)) / light


def _percentile(counts: NDArray[np.int64], share: float) -> float:
    """The lowest level that so many per cent of the pixels do not exceed."""
    total = counts.cumsum()
    return float(np.searchsorted(total, share / 100 * total[-1]))


def _rescaled(pixels: NDArray[Any], pair: NDArray[np.float64]) -> NDArray[np.uint16]:
    low, high = pair
    scale = (_LEVELS - 1) / max(high - low, 1.0)
    return np.clip(np.rint((pixels - np.float32(low)) * np.float32(scale)), 0, _LEVELS - 1).astype(np.uint16)
