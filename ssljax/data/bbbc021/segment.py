"""Nuclei of one field, found on its DAPI channel: threshold, watershed, and the rules that drop some."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Nuclei of MCF-7 at 20x are some 30 to 40 pixels wide here, 700 to 1,300 in area (measured on 2,400 crops). The numbers
# below are our choice, made on those crops and on fields of them.
_NOISE = 1.0  # width in pixels of the Gaussian that quiets the camera's noise; a sharp rim is 3 to 4 pixels wide
_ABOVE = 5.0  # deviations of the background above its median that a nucleus must reach, where Otsu's level is lower
_OPENING = 2  # radius in pixels: bridges and whiskers narrower than 5 pixels are no nucleus' part
_DISTANCE = 1.5  # width of the Gaussian on the distance to the rim, against the rim's raggedness
_APART = 9  # two centres of one clump are no nearer than this, half the width of a small nucleus
_NUCLEUS = 31  # side in pixels of the square in which the local peak is looked for: a nucleus' width
_SHARE = (
    0.4  # of the local peak that a pixel must reach: opens the necks of clumps that Otsu's level, low as it is, fills
)

REASONS = ("small", "large", "cut by the border", "window cut by the border", "out of focus")


class Rules(NamedTuple):
    """What is dropped. A nucleus is counted under the first of `REASONS` that holds."""

    min_area: int = 120  # pixels: a plate of chromosomes seen from its side has 140, debris and fragments less
    max_area: int = 4000  # pixels: nuclei swollen by Aurora kinase inhibitors reach 3,000, more is a clump or dirt
    min_focus: float = 0.12  # per pixel, see `focus`: a rim blurred by a Gaussian of 3.3 pixels; 3 % of the 2,400 crops


class Nuclei(NamedTuple):
    """The n objects of a field, kept or not."""

    labels: NDArray[np.int32]  # [h, w]: 0 background, i + 1 the pixels of object i
    centres: NDArray[np.float64]  # [n, 2] (y, x), the centroids, in pixels
    areas: NDArray[np.int64]  # [n] in pixels
    focus: NDArray[np.float64]  # [n] per pixel
    reasons: NDArray[np.str_]  # [n]: one of `REASONS`, or "" for those kept

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which of the objects no rule drops [n]."""
        return self.reasons == ""


def find_nuclei(dapi: NDArray[np.generic], window: int = 196, rules: Rules = Rules()) -> Nuclei:  # noqa: B008
    """Finds the nuclei of a field.

    Otsu's threshold on the logarithm of the smoothed image, so that dim nuclei count as bright ones do; never below the
    background's median plus five deviations, so that an empty field stays empty; and a share of the local peak. Touching nuclei
    are split by a watershed on the distance to the rim. Then each object is cut back to where it is brighter than half of its own
    height above the background, which takes the halo from bright ones.

    Args:
      dapi: [h, w], evenly lit, any number type.
      window: side in pixels of the crops to come: a nucleus whose window the border cuts is dropped.
      rules: what else is dropped.

    Returns:
      The objects, from top to bottom.
    """
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.segmentation import watershed

    smooth = ndimage.gaussian_filter(np.asarray(dapi, np.float32), _NOISE)
    # The darker half of the background tells its deviation: nothing bright is in it.
    low, background = np.percentile(smooth[::2, ::2], (15.87, 50))
    otsu = np.exp(threshold_otsu(np.log(np.maximum(smooth, 1))))
    mask = smooth > max(otsu, background + _ABOVE * (background - low))
    around = ndimage.uniform_filter(ndimage.maximum_filter(smooth, _NUCLEUS), _NUCLEUS)
    mask &= smooth - background > _SHARE * (around - background)
    mask = ndimage.binary_fill_holes(_opened(mask))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), _DISTANCE)
    peaks = peak_local_max(distance, min_distance=_APART, labels=ndimage.label(mask)[0], exclude_border=False)
    seeds = np.zeros(mask.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-distance, seeds, mask=mask)
    labels = _cut_back(smooth, labels, len(peaks), background)
    return _judged(smooth, labels, float(background), window, rules)


def focus(
    smooth: NDArray[np.floating], labels: NDArray[np.integer], count: int, background: float
) -> NDArray[np.float64]:
    """How steep the rims of objects are [count], per pixel: some .15 to .22 in focus.

    The gradient's size at the upper quartile of an object's rim, which touching neighbours leave alone, over the object's height
    above the background. Free of brightness; a straight rim blurred by a Gaussian of width s has 1 / (s sqrt(2 pi)).

    Args:
      smooth: [h, w], the image under the Gaussian of `find_nuclei`.
      labels: [h, w], 1 to count.
      count: of the objects.
      background: the image's level where nothing is.
    """
    index = np.arange(1, count + 1)
    height = ndimage.mean(smooth, labels, index) - background
    rim = np.where(ndimage.grey_erosion(labels, (3, 3)) != labels, labels, 0)
    steepness = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)) / 8  # Sobel's weights sum to 8
    places = np.flatnonzero(rim)
    owner, values = rim.ravel()[places], steepness.ravel()[places]
    order = np.lexsort((values, owner))
    ends = np.cumsum(np.bincount(owner, minlength=count + 1)[1:])
    sizes = np.diff(ends, prepend=0)
    upper = values[order][np.maximum(ends - 1 - sizes // 4, 0)] if len(order) else np.zeros(count)
    return np.where((sizes > 0) & (height > 0), upper / np.maximum(height, 1e-6), 0.0)


def _opened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    diamond = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), _OPENING)
    return ndimage.binary_opening(mask, diamond)


def _cut_back(
    smooth: NDArray[np.floating], labels: NDArray[np.integer], count: int, background: float
) -> NDArray[np.int32]:
    """Takes from each object what is darker than half of its mean height, and numbers those that remain from top to bottom."""
    height = ndimage.mean(smooth, labels, np.arange(count + 1)) - background if count else np.zeros(1)
    bright = smooth > background + 0.5 * height[labels]
    cut = np.where(bright, labels, 0)
    names, first = np.unique(cut, return_index=True)
    order = np.argsort(first[names > 0])
    numbers = np.zeros(count + 1, np.int32)
    numbers[names[names > 0][order]] = np.arange(1, len(order) + 1)
    return numbers[cut]


def _judged(
    smooth: NDArray[np.floating], labels: NDArray[np.int32], background: float, window: int, rules: Rules
) -> Nuclei:
    count = int(labels.max(initial=0))
    height, width = labels.shape
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    if not count:
        empty = np.zeros(0)
        return Nuclei(labels, np.zeros((0, 2)), areas, empty, np.zeros(0, "U1"))
    y, x = np.divmod(np.flatnonzero(labels), width)
    owner = labels[y, x]
    centres = np.stack([np.bincount(owner, at, count + 1)[1:] / areas for at in (y, x)], -1)
    at_border = np.zeros(count + 1, bool)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        at_border[side] = True
    corner = window_corners(centres, window)
    outside = ((corner < 0) | (corner + window > (height, width))).any(1)
    sharp = focus(smooth, labels, count, background)
    tests = (areas < rules.min_area, areas > rules.max_area, at_border[1:], outside, sharp < rules.min_focus)
    return Nuclei(labels, centres, areas, sharp, np.select(tests, REASONS, ""))


def window_corners(centres: NDArray[np.floating], window: int) -> NDArray[np.int64]:
    """The upper left corners [n, 2] of windows whose pixel window // 2 is nearest to each centre [n, 2]."""
    return np.rint(centres).astype(np.int64) - window // 2
