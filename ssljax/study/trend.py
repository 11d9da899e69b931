"""What the swept value does to each class by itself: the slope of its curve, and how much of its variance the value explains."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

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
      linear_p: float64 [C], of no linear part of that effect: F with 1 and (V - 1)(S - 1) degrees of freedom.
      linear_q: float64 [C], `linear_p` adjusted for the number of classes.
      sign: int [C], of the class's slope where `linear_q` is small enough, else 0: 1 rises with the value, -1 falls.
      bend: bool [C], the value acts (q is small enough) and sign is 0: the class neither rises nor falls, but does best or
        worst somewhere in between.

    With one seed there is no error to hold the value against: share and f are NaN, the p and q 1, sign 0, bend False. So it is
    for a class that does not vary.
    """

    share: NDArray[np.float64]
    f: NDArray[np.float64]
    p: NDArray[np.float64]
    q: NDArray[np.float64]
    linear_p: NDArray[np.float64]
    linear_q: NDArray[np.float64]
    sign: NDArray[np.int_]
    bend: NDArray[np.bool_]


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
    value, not about classes that trade places from run to run whatever the value. Of the sum of squares between the values
    the linear contrast takes S (sum_v x_v y_v)^2 / sum_v x_v^2, x the centred values and y the means over the seeds: one degree
    of freedom, held against the same error.

    Args:
      curves: complete.
      alpha: bound of q and `linear_q` for a sign or a bend.
    """
    y = curves.accuracy
    n_values, n_seeds, n_classes = y.shape
    if n_seeds == 1:
        nothing, one = np.full(n_classes, np.nan), np.ones(n_classes)
        return Explained(nothing, nothing, one, one, one, one, np.zeros(n_classes, int), np.zeros(n_classes, bool))
    mean = y.mean(axis=(0, 1))
    by_value, by_seed = y.mean(axis=1), y.mean(axis=0)
    total = ((y - mean) ** 2).sum(axis=(0, 1))
    between = n_seeds * ((by_value - mean) ** 2).sum(axis=0)
    error = ((y - by_value[:, None] - by_seed + mean) ** 2).sum(axis=(0, 1))
    x = curves.values - curves.values.mean()
    rise = x @ (by_value - mean)
    linear = n_seeds * rise**2 / (x @ x)
    varies = y.max(axis=(0, 1)) > y.min(axis=(0, 1))
    between, linear, error = (np.where(part > _ROUNDING * total, part, 0.0) for part in (between, linear, error))
    df = n_values - 1, (n_values - 1) * (n_seeds - 1)
    f, p = _f_test(between, df[0], error, df[1], varies)
    linear_p = _f_test(linear, 1, error, df[1], varies)[1]
    q, linear_q = stats.false_discovery_control(p), stats.false_discovery_control(linear_p)
    share = np.where(varies, between / np.where(varies, total, 1), np.nan)
    sign = np.where(linear_q < alpha, np.sign(rise), 0).astype(int)
    return Explained(share, f, p, q, linear_p, linear_q, sign, (q < alpha) & (sign == 0))


def _f_test(
    effect: NDArray[np.float64], effect_df: int, error: NDArray[np.float64], error_df: int, varies: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """F of sums of squares, and its p-value; NaN and 1 where there is nothing to compare."""
    with np.errstate(divide="ignore", invalid="ignore"):  # no error: F is infinite; nothing but seeds: 0 / 0
        f = np.where(varies & (effect + error > 0), (effect / effect_df) / (error / error_df), np.nan)
    return f, np.where(np.isnan(f), 1.0, special.fdtrc(effect_df, error_df, f))
