"""What the swept value does to each class by itself: the slope of its curve, and how much of its variance the value explains."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ssljax.study.association import ALPHA, p_of_correlation
from ssljax.study.curves import Curves, points, positions

DIRECTIONS = ("ascending", "descending", "random")
_ROUNDING = 1e-12  # part of the total sum of squares below which another one is float64 rounding


class Trend(NamedTuple):
    """The linear fit of each class's accuracy on the swept value.

    Attributes:
      slope: float64 [C], change of the accuracy per unit of the swept value.
      p: float64 [C], two-sided, of a slope of 0; 1 for a class that does not vary.
      direction: C of `DIRECTIONS`: the slope's where p is small enough, else "random".
    """

    slope: NDArray[np.float64]
    p: NDArray[np.float64]
    direction: tuple[str, ...]


class Explained(NamedTuple):
    """How much of the variance of each class's accuracy the swept value explains.

    Attributes:
      share: float64 [C] in [0, 1], eta squared: sum of squares between the values over the total.
      f: float64 [C], F with V - 1 and (V - 1)(S - 1) degrees of freedom.
      p: float64 [C], of no effect of the value.
      q: float64 [C], p adjusted for the number of classes by Benjamini and Hochberg.
      sign: int [C], of the class's slope where q is small enough, else 0.

    With one seed there is no error to hold the value against: share and f are NaN, p and q 1, sign 0. So it is for a class
    that does not vary.
    """

    share: NDArray[np.float64]
    f: NDArray[np.float64]
    p: NDArray[np.float64]
    q: NDArray[np.float64]
    sign: NDArray[np.int_]


def trends(curves: Curves, of: str = "runs", alpha: float = ALPHA) -> Trend:
    """Least-squares line of each class's accuracy on the swept value; p < alpha makes a direction (our choice).

    Args:
      curves: complete.
      of: the reading of the points, `runs` or `mean`.
      alpha: bound of the p-value.
    """
    x, y = positions(curves, of), points(curves, of)
    x, centred = x - x.mean(), y - y.mean(axis=0)
    slope = x @ centred / (x @ x)
    varies = y.max(axis=0) > y.min(axis=0)
    norms = np.sqrt((x @ x) * (centred**2).sum(axis=0))
    r = np.clip(x @ centred / np.where(varies, norms, 1), -1, 1)
    p = np.where(varies, p_of_correlation(r, len(x)), 1.0)
    named = np.where(p >= alpha, "random", np.where(slope > 0, "ascending", "descending"))
    return Trend(np.where(varies, slope, 0.0), p, tuple(str(name) for name in named))


def explained(curves: Curves, alpha: float = ALPHA) -> Explained:
    """F-test of the swept value with the seeds as blocks: a randomised complete block design, class by class.

    Unlike a correlation of two classes it needs no pair: there are as many tests as classes, and it asks about the swept
    value, not about classes that trade places from run to run whatever the value.

    Args:
      curves: complete.
      alpha: bound of q for a sign.
    """
    y = curves.accuracy
    n_values, n_seeds, n_classes = y.shape
    slope = trends(curves).slope
    if n_seeds == 1:
        nothing, one = np.full(n_classes, np.nan), np.ones(n_classes)
        return Explained(nothing, nothing, one, one, np.zeros(n_classes, int))
    mean = y.mean(axis=(0, 1))
    by_value, by_seed = y.mean(axis=1), y.mean(axis=0)
    total = ((y - mean) ** 2).sum(axis=(0, 1))
    between = n_seeds * ((by_value - mean) ** 2).sum(axis=0)
    error = ((y - by_value[:, None] - by_seed + mean) ** 2).sum(axis=(0, 1))
    varies = y.max(axis=(0, 1)) > y.min(axis=(0, 1))
    between, error = (np.where(part > _ROUNDING * total, part, 0.0) for part in (between, error))
    df = n_values - 1, (n_values - 1) * (n_seeds - 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # no error: F is infinite; nothing but seeds: 0 / 0
        share = np.where(varies, between / total, np.nan)
        f = np.where(varies & (between + error > 0), (between / df[0]) / (error / df[1]), np.nan)
    p = np.where(np.isnan(f), 1.0, stats.f.sf(np.nan_to_num(f, nan=0.0, posinf=np.inf), *df))
    q = stats.false_discovery_control(p)
    return Explained(share, f, p, q, np.where(q < alpha, np.sign(slope), 0).astype(int))
