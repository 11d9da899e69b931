"""What a statistic of a sweep would be if the swept value and the other classes said nothing about a class."""

import zlib
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from ssljax.errors import UserError
from ssljax.study.curves import Curves, describe

DRAWS = 200  # permutations: p is known to about .015 at .05 (our choice)

T = TypeVar("T")


class Chance(NamedTuple):
    """A measured statistic beside the same one of permuted accuracies.

    Attributes:
      measured: of the curves as they are.
      mean, low, high: mean, 2.5 % and 97.5 % quantile of the draws.
      p: (1 + draws at least as large as measured) / (1 + draws).

    All are NaN where the statistic cannot be had, `UNTESTED`.
    """

    measured: float
    mean: float
    low: float
    high: float
    p: float


UNTESTED = Chance(*(float("nan"),) * 5)


def permuted(curves: Curves, rng: np.random.Generator) -> Curves:
    """The curves with each class's accuracies permuted over the values, within each seed and each class on its own.

    Levels of classes and seeds stay; what a class has to do with the value, and with other classes, goes. A share of opposite
    pairs above this chance may thus also be that of classes which trade places from run to run, whatever the value is;
    `explained` is about the value alone.
    """
    return curves._replace(accuracy=rng.permuted(curves.accuracy, axis=0))


def drawn(curves: Curves, statistic: Callable[[Curves], T], draws: int = DRAWS, seed: int = 0) -> list[T]:
    """A statistic of each of `draws` permutations of the curves, to be `compared` with that of the curves themselves.

    Args:
      curves: complete.
      statistic: of curves.
      draws: number of permutations; the smallest p is 1 / (1 + draws).
      seed: of the permutations.
    """
    rng = generator(curves, seed)
    with threadpool_limits(1):  # small products: threads that wait for a shared core cost ten times as much
        return [statistic(permuted(curves, rng)) for _ in range(draws)]


def compared(measured: float, drawn: ArrayLike) -> Chance:
    """A measured statistic, larger meaning more than chance, beside the drawn ones [draws].

    Raises:
      UserError: none is drawn.
    """
    values = np.asarray(drawn, np.float64)
    if not values.size:
        raise UserError("chance: given 0 draws, expected at least 1")
    low, high = np.quantile(values, (0.025, 0.975))
    # as many as are equal but for the rounding of a mean
    reached = np.count_nonzero(values >= measured - 1e-12 * abs(measured))
    return Chance(
        float(measured), float(values.mean()), float(low), float(high), float((1 + reached) / (1 + len(values)))
    )


def generator(curves: Curves, seed: int) -> np.random.Generator:
    """Another stream for each sweep, so that two methods' draws are independent of each other."""
    return np.random.default_rng([seed, zlib.crc32(describe(curves).encode())])
