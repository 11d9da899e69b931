"""How the accuracies of two classes go together: three correlations with their p-values, for all pairs of classes at once.

The p-values are those of `scipy.stats` (`pearsonr`, `kendalltau`, `spearmanr`), which takes one pair at a time; a
permutation baseline needs a million of them.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from ssljax.errors import UserError

MEASURES = ("pearson", "kendall", "spearman")
OPPOSITE_BELOW = -0.3  # 001, appendix C: "lower than -0.3 and a p-value lower than 0.05"
ALPHA = 0.05  # the same
_EXACT_KENDALL = 33  # points up to which scipy.stats.kendalltau(method="auto") enumerates when nothing is tied


class Association(NamedTuple):
    """A coefficient in [-1, 1] and its two-sided p-value for every pair of classes.

    Attributes:
      coefficient: float64 [..., C, C], symmetric, diagonal 1; NaN where a class of the pair does not vary.
      p: float64 [..., C, C], symmetric, diagonal 0; 1 where the coefficient is NaN.
    """

    coefficient: NDArray[np.float64]
    p: NDArray[np.float64]


def associations(points: ArrayLike) -> dict[str, Association]:
    """Pearson's r, Kendall's tau-b and Spearman's rho of every pair of columns.

    Kendall's p-value is exact for up to 33 untied points and else that of the normal approximation with its tie correction;
    the two others' come from Student's t with n - 2 degrees of freedom.

    Args:
      points: [..., n, C], n at least 3; finite.

    Returns:
      By the names in `MEASURES`.

    Raises:
      UserError: fewer than three points, or one that is not finite.
    """
    x = np.asarray(points, np.float64)
    if x.ndim < 2 or x.shape[-2] < 3 or not np.isfinite(x).all():
        raise UserError(f"associations: given points of shape {x.shape}, expected finite ones [..., n >= 3, classes]")
    n = x.shape[-2]
    first, second = np.triu_indices(x.shape[-1], k=1)
    low, high = (stats.rankdata(x, method, axis=-2) for method in ("min", "max"))
    r, rho = (_correlation(of)[..., first, second] for of in (x, (low + high) / 2))
    found = {
        "pearson": (r, p_of_correlation(r, n)),
        "kendall": _kendall(low, high - low + 1, first, second),
        "spearman": (rho, p_of_correlation(rho, n)),
    }
    varies = x.max(axis=-2) > x.min(axis=-2)
    defined = varies[..., first] & varies[..., second]

    def square(pairs: NDArray[np.float64], undefined: float, diagonal: float) -> NDArray[np.float64]:
        full = np.full((*x.shape[:-2], x.shape[-1], x.shape[-1]), diagonal)
        full[..., first, second] = full[..., second, first] = np.where(defined, pairs, undefined)
        return full

    return {name: Association(square(value, np.nan, 1.0), square(p, 1.0, 0.0)) for name, (value, p) in found.items()}


def adjusted(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Benjamini and Hochberg's adjustment of the p-values [..., C, C] of all pairs of classes, taken once each."""
    first, second = np.triu_indices(p.shape[-1], k=1)
    q = p.copy()
    if len(first):
        pairs = stats.false_discovery_control(p[..., first, second], axis=-1)
        q[..., first, second] = q[..., second, first] = pairs
    return q


def opposite(
    found: Mapping[str, Association],
    *,
    below: float = OPPOSITE_BELOW,
    alpha: float = ALPHA,
    corrected: bool = False,
) -> NDArray[np.bool_]:
    """Pairs of classes of which at least one measure is below `below` with a p-value under `alpha` (001, appendix C).

    Args:
      found: what `associations` gave.
      below: bound of the coefficient.
      alpha: bound of the p-value.
      corrected: whether the p-values are first adjusted for the number of pairs, each measure's for itself.

    Returns:
      bool [..., C, C], symmetric.
    """
    marks = [(a.coefficient < below) & ((adjusted(a.p) if corrected else a.p) < alpha) for a in found.values()]
    return np.logical_or.reduce(marks)


def p_of_correlation(r: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Two-sided p-value of a correlation of n points under independence.

    r sqrt((n - 2) / (1 - r^2)) is Student's t with n - 2 degrees of freedom: 1 - r^2 is beta-distributed.
    """
    return special.betainc(n / 2 - 1, 0.5, (1 - r) * (1 + r))


def _correlation(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., C, C]; of a column that does not vary any number."""
    centred = x - x.mean(axis=-2, keepdims=True)
    norm = np.linalg.norm(centred, axis=-2, keepdims=True)
    unit = centred / np.where(norm > 0, norm, 1)
    return np.clip(np.swapaxes(unit, -1, -2) @ unit, -1, 1)


def _kendall(
    ranks: NDArray[np.int_], group: NDArray[np.int_], first: NDArray[np.int_], second: NDArray[np.int_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """tau-b and its p-value [..., P] of the pairs of columns (first, second); `group` is the size of each point's tie."""
    n = ranks.shape[-2]
    i, j = np.triu_indices(n, k=1)
    # Whole numbers below 2^24 (n < 5000) are exact in float32, whose product is twice as fast.
    exact = ranks.astype(np.float32)
    signs = np.sign(exact[..., i, :] - exact[..., j, :])
    excess = (np.swapaxes(signs, -1, -2) @ signs)[..., first, second].astype(np.float64)  # concordant - discordant

    # Sums over groups of t tied points of t(t-1)/2, t(t-1)(t-2) and t(t-1)(2t+5), taken point by point (Kendall 1970, ch. 3-4)
    t = group.astype(np.float64)
    tied, triples, spread = (of.sum(axis=-2) for of in ((t - 1) / 2, (t - 1) * (t - 2), (t - 1) * (2 * t + 5)))
    a, b = (tuple(of[..., side] for of in (tied, triples, spread)) for side in (first, second))
    pairs = n * (n - 1) / 2
    untied = np.sqrt((pairs - a[0]) * (pairs - b[0]))
    tau = np.clip(excess / np.where(untied > 0, untied, 1), -1, 1)

    variance = (2 * pairs * (2 * n + 5) - a[2] - b[2]) / 18 + a[0] * b[0] / pairs + a[1] * b[1] / (18 * pairs * (n - 2))
    z = excess / np.sqrt(np.where(variance > 0, variance, 1))
    p = special.erfc(np.abs(z) / np.sqrt(2))
    if n <= _EXACT_KENDALL:
        fewest = ((pairs - np.abs(excess)) / 2).astype(int)  # of concordant and discordant pairs
        p = np.where((a[0] == 0) & (b[0] == 0), _exact_kendall(n)[fewest], p)
    return tau, p


@lru_cache
def _exact_kendall(n: int) -> NDArray[np.float64]:
    """Two-sided p-value by the smaller number of concordant and discordant pairs: the share of permutations that extreme."""
    # Share of the permutations of k points with 0, 1, ... inversions: Mahonian numbers over k!
    inversions = np.ones(1)
    for k in range(2, n + 1):
        inversions = np.convolve(inversions, np.full(k, 1 / k))
    return np.minimum(1, 2 * np.cumsum(inversions))
