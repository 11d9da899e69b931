"""What features say of an encoder without any label: spectra, distances on the sphere, likeness of two encoders.

| measure | range | collapsed | healthy |
| --- | --- | --- | --- |
| `rankme` | 1 to min(n, d) | near 1 | many directions; compares runs of one method only |
| `lidar` | 1 to min(n - 1, d) | near 1 | many directions in which images differ more than their views do |
| `alpha_req` | any | far above 1, or NaN | near 1, where R2 is near 1 |
| `alignment` | 0 to 4 | 0 | small, with a small uniformity |
| `uniformity` | -8 to 0 | 0 | near -4 |
| `collapse` | 0 to 1 | 0 | near 1 |
| `linear_cka` | 0 to 1 | NaN | 1 for the same features up to rotation and scale |

Everything is computed in float64. An array may have leading axes (the runs of a sweep): they are measured one by one, so that
no more than one run's features are held in float64, and the results have those axes. What collapse leaves undefined is NaN.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from ssljax.errors import UserError
from ssljax.evaluate.arrays import normalized

RANK_EPSILON = 1e-7  # Garrido et al. (2023), eq. 1: "epsilon = 1e-7" for float32 features
LIDAR_DELTA = 1e-4  # Thilak et al. (2024), section 4: added to the diagonal of the scatter within
ALPHA_WINDOW = (11, 100)  # eigenvalues that the line is fitted to, counted from 1 (Agrawal et al. 2022)
UNIFORMITY_T = 2.0  # Wang and Isola (2020), eq. 5 as used in all their experiments
UNIFORMITY_SAMPLE = (
    10_000  # images whose pairs are all taken: 50 million, some 4 s of one core at 512 dimensions (our choice)
)

MEASURES = ("rankme", "lidar", "alpha", "alpha_r2", "alignment", "uniformity", "collapse")  # what `measures` gives

# Training images that runs are measured on: as many as LiDAR's paper takes (section 4); of a smaller set half.
IMAGES = 1000
# Views of each for LiDAR and alignment: two pairs as training draws them. The paper takes 50, too many while a run is trained.
VIEWS = 4
# Further images, that neighbours and classifiers come from while a run is trained, at most (our choice).
BANK = 4000
# Below it `collapse` is called one: its square is about 1 minus the mean cosine of two images' features, which then is above .9975.
# A collapsed encoder has 0; those of the digits preset have .25 to .8 after an epoch (our choice).
COLLAPSED = 0.05
PREFIX = "watch/"  # of what is measured while a run is trained, in the log; TensorBoard puts what shares it together

_PAIRS_AT_ONCE = 2**22  # distances held at once: 32 MiB (our choice)
_LEAST_POINTS = 3  # a line through two points has an R2 of 1 whatever they are

Matrix = NDArray[np.float64]


class PowerLaw(NamedTuple):
    """A line fitted to the logarithms of a spectrum.

    Attributes:
      alpha: exponent of the decay, eigenvalue ~ index^-alpha; of the leading shape of the features.
      r2: weighted share of the variance that the line explains; a low one says that alpha means little.
    """

    alpha: NDArray[np.float64]
    r2: NDArray[np.float64]


def places(count: int, further: int = 0) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Which of so many training images are measured, and `further` ones at most: always the same, no image in both."""
    drawn = np.random.default_rng(0).permutation(count)
    n = min(IMAGES, max(2, count // 2))
    return np.sort(drawn[:n]), np.sort(drawn[n : n + further])


def rankme(features: ArrayLike) -> NDArray[np.float64]:
    """Effective rank of the features: exp(-sum_k p_k log p_k), p_k = s_k / sum_j s_j + 1e-7, s the singular values.

    The features are taken raw: not centred, not normalised. It compares runs of one method, data set and backbone.

    Args:
      features: [..., n, d]; n above d, or n limits the rank.

    Returns:
      [...], from 1 (collapsed to a line) to min(n, d) (all directions alike).

    Raises:
      UserError: another shape, or a value that is not finite.

    References:
      Q. Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised representations by their
      rank", ICML 2023, eq. 1 and 2.
    """
    return _each("RankMe", lambda x: _effective_rank(_singular_values(x)), features)


def lidar(views: ArrayLike) -> NDArray[np.float64]:
    """Effective rank of S_w^-1/2 S_b S_w^-1/2: of the scatter between images against that between the views of one.

    S_b is the covariance of the images' mean features, S_w that of the views around their image's mean, plus 1e-4 I; both are
    unbiased (divided by n - 1 and n (q - 1)). p_k is as for `rankme`, of the eigenvalues. Needs no label: an image is its own
    class, so the views must be those of the training.

    Args:
      views: [..., n, q, d], q >= 2 views of each of n >= 2 images; the paper takes n = 1000, q = 50.

    Returns:
      [...], from 1 (collapsed, or one direction tells images apart) to min(n - 1, d).

    Raises:
      UserError: another shape, or a value that is not finite.

    References:
      V. Thilak et al., "LiDAR: sensing linear probing performance in joint embedding SSL architectures", ICLR 2024, section 4.
    """

    def measure(x: Matrix) -> float:
        n, q, d = x.shape
        means = x.mean(axis=1)
        apart = (x - means[:, None]).reshape(n * q, d)
        within = apart.T @ apart / (n * (q - 1)) + LIDAR_DELTA * np.eye(d)
        # With S_w = L L^T, L^-1 S_b L^-T has the same eigenvalues, which are the squared singular values of L^-1 M^T.
        between = np.linalg.solve(np.linalg.cholesky(within), (means - means.mean(axis=0)).T)
        return _effective_rank(_singular_values(between) ** 2)

    return _each("LiDAR", measure, views, least=(2, 2, 1))


def alpha_req(features: ArrayLike) -> PowerLaw:
    """Exponent alpha of the decay of the eigenvalues of the centred covariance: l_i ~ i^-alpha, i from 11 to 100.

    Minus the slope of the least-squares line of log l_i on log i with weights 1 / i, which is even in log i. A larger alpha is a
    steeper spectrum; the paper finds the best generalisation near 1. Eigenvalues that are zero but for rounding are left out.

    Args:
      features: [..., n, d]; fewer than 13 directions leave nothing to fit.

    Returns:
      alpha and R2, each [...]; NaN where fewer than three eigenvalues of the window are above zero.

    Raises:
      UserError: another shape, or a value that is not finite.

    References:
      K. K. Agrawal et al., "alpha-ReQ: assessing representation quality in self-supervised learning by measuring eigenspectrum
      decay", NeurIPS 2022, section 2.
    """

    def measure(x: Matrix) -> tuple[float, float]:
        s = _singular_values(x - x.mean(axis=0))
        # The usual bound of numerical rank, against the features before centring, whose rounding it is.
        above = s > max(x.shape) * np.finfo(np.float64).eps * np.linalg.norm(x)
        first, last = ALPHA_WINDOW
        window = s[above][first - 1 : last]
        if len(window) < _LEAST_POINTS:
            return np.nan, np.nan
        index = np.arange(first, first + len(window))
        weight = 1 / index / (1 / index).sum()
        u, v = np.log(index), 2 * np.log(window)
        u, v = u - weight @ u, v - weight @ v
        slope = (weight @ (u * v)) / (weight @ u**2)
        total = weight @ v**2
        rest = weight @ (v - slope * u) ** 2
        return -slope, 1 - rest / total if total > 0 else np.nan

    both = _each("alpha-ReQ", measure, features)
    return PowerLaw(both[..., 0][()], both[..., 1][()])


def alignment(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """How near the two views of an image are on the unit sphere: the mean of |x_i - y_i|^2, each row divided by its length.

    Small is good only with a small `uniformity`: a collapsed encoder aligns everything.

    Args:
      x: [..., n, d], features of one view of each image.
      y: [..., n, d], of another view of the same images.

    Returns:
      [...], from 0 (the same direction) over 2 (unrelated) to 4 (opposite).

    Raises:
      UserError: shapes that differ or are not these, or a value that is not finite.

    References:
      T. Wang and P. Isola, "Understanding contrastive representation learning through alignment and uniformity on the
      hypersphere", ICML 2020, section 4.1.1, alpha = 2.
    """
    first, second = np.asarray(x), np.asarray(y)
    if first.shape != second.shape:
        raise UserError(f"alignment: given views of shape {first.shape} and {second.shape}, expected the same shape")

    def measure(a: Matrix, b: Matrix) -> float:
        return float(((normalized(a, "l2") - normalized(b, "l2")) ** 2).sum(axis=1).mean())

    return _each("alignment", measure, first, second)


def uniformity(x: ArrayLike) -> NDArray[np.float64]:
    """How evenly features lie on the unit sphere: log of the mean of exp(-2 |x_i - x_j|^2) over all pairs i < j.

    Of more than 10,000 images all pairs of a fixed random sample of 10,000 are taken.

    Args:
      x: [..., n, d], n >= 2.

    Returns:
      [...], from 0 (collapsed to a point) down; about -4 for an even spread in many dimensions, never below -8.

    Raises:
      UserError: another shape, or a value that is not finite.

    References:
      Wang and Isola (2020), section 4.1.2, t = 2.
    """

    def measure(a: Matrix) -> float:
        if len(a) > UNIFORMITY_SAMPLE:
            a = a[np.random.default_rng(0).choice(len(a), UNIFORMITY_SAMPLE, replace=False)]
        unit = normalized(a, "l2")
        squares = (unit**2).sum(axis=1)
        rows, total = max(1, _PAIRS_AT_ONCE // len(unit)), 0.0
        for start in range(0, len(unit), rows):
            block = slice(start, start + rows)
            # Only later images: each pair once, and none with itself.
            distance = squares[block, None] + squares[start:] - 2 * unit[block] @ unit[start:].T
            later = np.exp(-UNIFORMITY_T * np.maximum(distance, 0))
            total += np.triu(later, k=1).sum()
        return float(np.log(total / (len(unit) * (len(unit) - 1) / 2)))

    return _each("uniformity", measure, x, least=(2, 1))


def collapse(features: ArrayLike) -> NDArray[np.float64]:
    """Spread of the directions of the features: sqrt(d) times the mean over dimensions of the standard deviation.

    Rows are divided by their length first; the deviation is the biased one.

    Args:
      features: [..., n, d].

    Returns:
      [...], 0 for a collapsed encoder, 1 for directions spread evenly (an isotropic Gaussian has about 1).

    Raises:
      UserError: another shape, or a value that is not finite.

    References:
      X. Chen and K. He, "Exploring simple siamese representation learning", CVPR 2021, section 4.1.
    """
    return _each("collapse", lambda x: np.sqrt(x.shape[1]) * normalized(x, "l2").std(axis=0).mean(), features)


def linear_cka(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Linear centred kernel alignment of two encoders: |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F), columns centred.

    Unchanged by a rotation or an isotropic scaling of either side. With few images and many dimensions it is biased upwards:
    take several times as many images as dimensions.

    Args:
      x: [..., n, d], features of n images.
      y: [..., n, e], of the same images in the same order, by another encoder.

    Returns:
      [...], from 0 (nothing in common) to 1; NaN where one side is constant.

    Raises:
      UserError: shapes that do not fit, or a value that is not finite.

    References:
      S. Kornblith et al., "Similarity of neural network representations revisited", ICML 2019, section 3.
    """
    first, second = np.asarray(x), np.asarray(y)
    if first.shape[:-1] != second.shape[:-1]:
        raise UserError(
            f"linear CKA: given features of shape {first.shape} and {second.shape}, expected the same images in both"
        )

    def measure(a: Matrix, b: Matrix) -> float:
        centred = []
        for side in (a, b):
            apart = side - side.mean(axis=0)
            # Rounding of the mean is no variation.
            if np.linalg.norm(apart) <= len(side) * np.finfo(np.float64).eps * np.linalg.norm(side):
                return float("nan")
            centred.append(apart / np.linalg.norm(apart))
        a, b = centred
        if len(a) < max(a.shape[1], b.shape[1]):  # the same from the Gram matrices of the images, the smaller ones here
            k, m = a @ a.T, b @ b.T
            return float((k * m).sum() / (np.linalg.norm(k) * np.linalg.norm(m)))
        return float(np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)))

    return _each("linear CKA", measure, first, second)


def measures(features: ArrayLike, views: ArrayLike | None = None) -> dict[str, float]:
    """All measures of one encoder, by the names in `MEASURES`.

    Args:
      features: [n, d], of images as they are: RankMe, alpha-ReQ and its R2, uniformity, collapse.
      views: [n, q, d], of q views of each image, q even, in positive pairs: LiDAR, and the alignment of each with its partner;
        without them those two are left out.

    Returns:
      NaN for what the features leave undefined, and for everything where they are not finite.

    Raises:
      UserError: other shapes.
    """
    clean = np.asarray(features)
    drawn = None if views is None else np.asarray(views)
    if not (np.isfinite(clean).all() and (drawn is None or np.isfinite(drawn).all())):
        return {name: float("nan") for name in MEASURES if drawn is not None or name not in ("lidar", "alignment")}
    line = alpha_req(clean)
    found = {
        "rankme": rankme(clean),
        "alpha": line.alpha,
        "alpha_r2": line.r2,
        "uniformity": uniformity(clean),
        "collapse": collapse(clean),
    }
    if drawn is not None:
        x, y = (drawn[:, side::2].reshape(-1, drawn.shape[-1]) for side in (0, 1))
        found |= {"lidar": lidar(drawn), "alignment": alignment(x, y)}
    return {name: float(found[name]) for name in MEASURES if name in found}


def _singular_values(x: Matrix) -> Matrix:
    return np.asarray(np.linalg.svd(x, compute_uv=False), np.float64)


def _effective_rank(spectrum: Matrix) -> float:
    """exp of the entropy of a spectrum, as RankMe's eq. 1 has it; 1 where everything is zero."""
    total = spectrum.sum()
    if total == 0:
        return 1.0
    p = spectrum / total + RANK_EPSILON
    return float(np.exp(-(p * np.log(p)).sum()))


def _each(
    where: str,
    measure: Callable[..., float | tuple[float, ...]],
    *arrays: ArrayLike,
    least: tuple[int, ...] = (1, 1),
) -> NDArray[np.float64]:
    """`measure` of each run's float64 arrays; `least` are the smallest lengths of their last axes."""
    given = [np.asarray(array) for array in arrays]
    inner = len(least)
    for array in given:
        if array.ndim < inner or any(size < low for size, low in zip(array.shape[-inner:], least)) or 0 in array.shape:
            names = "[..., n, q, d]" if inner == 3 else "[..., n, d]"
            least_n = f" with at least {least[0]} images" if least[0] > 1 else ""
            views = " and 2 views of each" if inner == 3 else ""
            raise UserError(
                f"{where}: given an array of shape {array.shape}, expected features {names}{least_n}{views}"
            )
        if not (np.issubdtype(array.dtype, np.number) and np.isrealobj(array)):
            raise UserError(f"{where}: given features of type {array.dtype}, expected real numbers")
        if not np.isfinite(array).all():
            raise UserError(f"{where}: given NaN or infinity, expected finite features (did the run diverge?)")
    shape = given[0].shape[:-inner]
    with threadpool_limits(1):  # sums in one order on every machine; BLAS threads that wait for a shared core cost more
        found = np.array([measure(*(array[at].astype(np.float64) for array in given)) for at in np.ndindex(shape)])
    return found.reshape(shape + found.shape[1:])[()]
