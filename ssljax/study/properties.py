"""Properties of classes that may say how a transformation treats them: from features and from the images themselves.

The papers name the four of `TABLE3` and give no formulas; the definitions here are this package's choice.
"""

import importlib.util
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssljax.errors import UserError

FEATURE_PROPERTIES = ("intrinsic_dimension", "intrinsic_dimension_mle", "spectrum", "spectrum_decay")
IMAGE_PROPERTIES = ("texture", "texture_homogeneity", "texture_energy", "fourier")
# The rows of "No Free Lunch in Self Supervised Representation Learning", Table 3; the others stand beside these.
TABLE3 = ("intrinsic_dimension", "texture", "fourier", "spectrum")

LEVELS = 32  # grey levels of the co-occurrence matrix: few enough to be well filled by a small image; our choice
ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)  # Haralick et al. 1973: the four directions of nearest neighbours
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, the grey of Pillow and torchvision
HALF_NYQUIST = 0.25  # cycles a pixel; Nyquist is .5
IMAGES = 500  # images a class: all of CIFAR-100's
NEIGHBOURS = 20  # of the maximum likelihood: scikit-dimension's default, where Levina and Bickel's range ends
LEADING = 100  # eigenvalues that the decay is fitted to: where Agrawal et al. 2022 (alpha-ReQ) end their window
_FEWEST = 4  # distinct vectors: TwoNN drops a tenth of them and fits a line through the rest


def check_installed() -> None:
    """Raises before any work is done if a library that the properties need is absent.

    Raises:
      UserError: which one, and how to install it.
    """
    for module, package in (("skdim", "scikit-dimension"), ("skimage", "scikit-image"), ("statsmodels", "statsmodels")):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"class properties: needs {package}; pip install 'ssljax[study]'")


def of_features(features: ArrayLike, labels: ArrayLike, class_names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Properties of each class's cloud of features.

    * `intrinsic_dimension`: TwoNN (Facco et al. 2017), and `intrinsic_dimension_mle`: Levina and Bickel's maximum
      likelihood with the inverse mean of MacKay and Ghahramani, both by scikit-dimension. Equal vectors (to six digits) count once.
    * `spectrum`: participation ratio of the covariance's eigenvalues, (sum l)^2 / sum l^2, from 1 to the dimension.
    * `spectrum_decay`: minus the slope of log eigenvalue on log index with weights 1/index, over the first `LEADING`.

    Args:
      features: [n, d].
      labels: [n] whole numbers, the index of a class's name.
      class_names: C names.

    Returns:
      Each of `FEATURE_PROPERTIES` as [C]; NaN for a class whose features are too few or all equal.

    Raises:
      UserError: lengths that do not agree, or scikit-dimension is not installed.
    """
    features, labels = _checked(features, labels, class_names, dims=2)
    _imported_skdim()
    rows = []
    for label in range(len(class_names)):
        cloud = np.asarray(features[labels == label], np.float64)
        rows.append((*intrinsic_dimensions(cloud), *_spectrum(cloud)))
    return _by_name(FEATURE_PROPERTIES, rows)


def intrinsic_dimensions(points: NDArray[np.float64]) -> tuple[float, float]:
    """Intrinsic dimension of points [n, d] by TwoNN and by maximum likelihood; NaN for fewer than four distinct ones."""
    skdim = _imported_skdim()
    if len(points) < _FEWEST:
        return np.nan, np.nan
    points = points - points.mean(axis=0)
    scale = np.abs(points).max() or 1.0
    # A neighbour at distance 0 has no ratio and no logarithm; below the sixth digit float32 features are rounding.
    points = np.unique(np.round(points / scale, 6), axis=0)
    if len(points) < _FEWEST:
        return np.nan, np.nan
    if points.shape[1] == 1:  # scikit-dimension takes no fewer than two coordinates; a constant one changes no distance
        points = np.pad(points, ((0, 0), (0, 1)))
    likelihood = skdim.id.MLE().fit_predict(points, n_neighbors=min(NEIGHBOURS, len(points) - 1))
    return float(skdim.id.TwoNN().fit_transform(points)), float(likelihood)


def _imported_skdim() -> ModuleType:
    try:
        import skdim
    except ImportError as error:
        raise UserError("class properties: needs scikit-dimension; pip install 'ssljax[study]'") from error
    return skdim


def _spectrum(points: NDArray[np.float64]) -> tuple[float, float]:
    """Participation ratio and decay exponent of the covariance of points [n, d]."""
    if len(points) < 2:
        return np.nan, np.nan
    singular = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    scale = np.abs(points).max() * np.sqrt(points.size)
    eigenvalues = singular[singular > scale * np.finfo(np.float32).eps] ** 2  # features are computed in float32
    if not len(eigenvalues):
        return np.nan, np.nan
    ratio = float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    if len(eigenvalues) < 2:
        return ratio, np.nan
    index = np.arange(1, min(len(eigenvalues), LEADING) + 1)
    # polyfit weighs the residual, not its square.
    slope = np.polyfit(np.log(index), np.log(eigenvalues[: len(index)]), 1, w=index**-0.5)[0]
    return ratio, -float(slope)


def of_images(
    images: np.ndarray, labels: ArrayLike, class_names: Sequence[str], limit: int | None = IMAGES
) -> dict[str, NDArray[np.float64]]:
    """Properties of each class's images: the mean over the images of what each one shows.

    * `texture`: contrast of the grey-level co-occurrence matrix of neighbouring pixels (distance 1, four angles, both ways,
      `LEVELS` grey levels over the range of the type), mean over the angles; `texture_homogeneity` and `texture_energy` beside.
    * `fourier`: share of the spectral energy above half the Nyquist frequency (radius .25 cycles a pixel); the mean grey
      value is no part of it, and an image of one grey has 0.

    Args:
      images: uint8 or uint16 [n, height, width, channels], 2 pixels or more a side. Three channels are grey by BT.601, others by
        their mean.
      labels: [n] whole numbers, the index of a class's name.
      class_names: C names.
      limit: images a class, evenly spaced over those that there are; None for all.

    Returns:
      Each of `IMAGE_PROPERTIES` as [C]; NaN for a class without images.

    Raises:
      UserError: lengths or types that do not fit, or scikit-image is not installed.
    """
    images, labels = _checked(images, labels, class_names, dims=4)
    if images.dtype not in (np.uint8, np.uint16) or min(images.shape[1:3]) < 2:
        raise UserError(
            f"class properties: images are {images.dtype} of {images.shape[1]} x {images.shape[2]} pixels; expected uint8 or "
            "uint16 of 2 x 2 or more"
        )
    rows = []
    for label in range(len(class_names)):
        index = np.flatnonzero(labels == label)
        if limit is not None and len(index) > limit:
            index = index[np.linspace(0, len(index) - 1, limit).round().astype(int)]
        if not len(index):
            rows.append((np.nan,) * len(IMAGE_PROPERTIES))
            continue
        batches = np.array_split(index, -(-len(index) // 64))  # bounds the memory that the matrices take
        each = [_of_grey(_grey(images[batch])) for batch in batches]
        rows.append(tuple(np.concatenate(each).mean(axis=0)))
    return _by_name(IMAGE_PROPERTIES, rows)


def _grey(images: np.ndarray) -> NDArray[np.float64]:
    """Images [n, h, w, c] as grey [n, h, w] in [0, 1]."""
    channels = images.shape[-1]
    weights = GREY if channels == 3 else (1 / channels,) * channels
    return images @ np.array(weights) / np.iinfo(images.dtype).max


def _of_grey(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """`IMAGE_PROPERTIES` of grey images [n, h, w] as [n, 4]."""
    try:
        from skimage.feature import graycomatrix, graycoprops
    except ImportError as error:
        raise UserError("class properties: needs scikit-image; pip install 'ssljax[study]'") from error
    levels = np.minimum((grey * LEVELS).astype(np.uint8), LEVELS - 1)
    counts = [graycomatrix(one, [1], ANGLES, levels=LEVELS, symmetric=True, normed=True) for one in levels]
    # The images take the place of the distances, of which there is one: one call for all.
    matrices = np.concatenate(counts, axis=2)
    texture = [graycoprops(matrices, name).mean(axis=1) for name in ("contrast", "homogeneity", "energy")]
    return np.stack([*texture, high_frequency_share(grey)], axis=1)


def high_frequency_share(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the spectral energy of images [n, h, w] above half the Nyquist frequency, the mean left out; [n] in [0, 1]."""
    varying = grey - grey.mean(axis=(1, 2), keepdims=True)
    energy = np.abs(np.fft.fft2(varying)) ** 2
    rows, columns = (np.fft.fftfreq(side) for side in grey.shape[1:])
    high = np.hypot(rows[:, None], columns[None, :]) > HALF_NYQUIST
    total = energy.sum(axis=(1, 2))
    flat = np.ptp(grey, axis=(1, 2)) == 0  # what the mean leaves of it is rounding
    return np.where(flat, 0.0, energy[:, high].sum(axis=1) / np.where(flat, 1.0, total))


def _checked(values: Any, labels: ArrayLike, class_names: Sequence[str], dims: int) -> tuple[np.ndarray, np.ndarray]:
    values = values if hasattr(values, "ndim") else np.asarray(values)  # images may be read as they are asked for
    labels = np.asarray(labels)
    if values.ndim != dims or labels.shape != values.shape[:1]:
        raise UserError(
            f"class properties: given an array {list(values.shape)} and labels {list(labels.shape)}; expected {dims} axes, and a "
            "label for each entry of the first"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise UserError(
            f"class properties: labels from {labels.min()} to {labels.max()} for {len(class_names)} class names; expected "
            f"0 to {len(class_names) - 1}"
        )
    return values, labels


def _by_name(names: Sequence[str], rows: Sequence[Sequence[float]]) -> dict[str, NDArray[np.float64]]:
    table = np.array(rows, np.float64).reshape(len(rows), len(names))
    return {name: table[:, i] for i, name in enumerate(names)}
