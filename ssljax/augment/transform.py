"""What a transform is: two pure functions, the defaults of its traced parameters and their legal ranges.

`sample(key, hyper)` draws what happens to one image, `apply(image, drawn)` does it. A transform that moves
pixels also says so as a matrix (`Geometry`), so that a composition can resample once. Everything that may
differ between the runs of one sweep is in `defaults`; everything that changes shapes or code is in `options`.
"""

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssljax.errors import UserError, unknown

_GREATEST = float(jnp.finfo(jnp.float32).max)  # parameters are computed with in 32 bits
Array = jax.Array
Drawn = dict[str, Array]
Hyper = Mapping[str, Any]  # parameter -> scalar (a float, or an array under jit and vmap)


class Interval(NamedTuple):
    """Values that a parameter may take, `low <= value <= high` (`low < value` where `above`)."""

    low: float
    high: float
    above: bool = False

    def __str__(self) -> str:
        opens, closes = "(" if self.above else "[", "]" if math.isfinite(self.high) else ")"
        return f"{opens}{self.low:g}, {self.high:g}{closes}"


PROBABILITY = Interval(0.0, 1.0)


class Geometry(NamedTuple):
    """How a transform moves pixels.

    Attributes:
      place: `(drawn, canvas, size) -> (matrix, canvas)`. `canvas` is the `[2]` array (height, width), in
        pixels, of what the transform is given and, on return, of what it leaves; `size` is (height, width) of
        what a crop resizes to. The `[3, 3]` matrix takes homogeneous (x, y, 1) of the new canvas to that of
        the old one, where pixel i covers [i, i + 1].
      fills: whether the new canvas can show more than the old one; what lies outside is then 0.
      axis_aligned: whether the matrix only scales and moves.
      flip: the image axis that is reversed, if the transform is a flip.
    """

    place: Callable[[Drawn, Array, tuple[int, int]], tuple[Array, Array]]
    fills: bool = False
    axis_aligned: bool = True
    flip: int | None = None


class Transform(NamedTuple):
    """One image operation.

    Attributes:
      name: its name in definitions and addresses, such as "rotation".
      defaults: traced parameters and their default values, such as `{"probability": 1.0, "degrees": 25.0}`.
      ranges: every parameter the transform can have and the values it may take.
      options: static options that differ from their default.
      numbers: how many random numbers the choices for one image take.
      draw: `(u, hyper) -> drawn`: those choices, a dict of arrays, from `u` `[numbers]` uniform in [0, 1).
        `hyper` has the keys of `defaults`. `drawn["applied"]` says whether the transform happens.
      apply: `(image, drawn) -> image` for one float image `[height, width, channels]` in [0, 1], of the same
        size.
      pointwise: whether each pixel's result depends on that pixel alone.
      channels: the channel counts the transform is defined for; None means any.
      geometry: how pixels move, for the transforms that do nothing else and that a matrix can say.
      moves: whether the transform moves pixels and does nothing else, by a matrix or not.
    """

    name: str
    defaults: dict[str, float]
    ranges: dict[str, Interval]
    options: dict[str, Any]
    numbers: int
    draw: Callable[[Array, Hyper], Drawn]
    apply: Callable[[Array, Drawn], Array]
    pointwise: bool = False
    channels: tuple[int, ...] | None = None
    geometry: Geometry | None = None
    moves: bool = False

    def sample(self, key: Array, hyper: Hyper) -> Drawn:
        """Draws for one image from a random key; `hyper` has the keys of `defaults`."""
        return self.draw(jax.random.uniform(key, (self.numbers,)), hyper)


def build(
    name: str,
    defaults: Mapping[str, float],
    ranges: Mapping[str, Interval],
    numbers: int,
    draw: Callable[[Array, Hyper], Drawn],
    apply: Callable[[Array, Drawn], Array],
    *,
    options: Mapping[str, Any] | None = None,
    pointwise: bool = False,
    channels: tuple[int, ...] | None = None,
    geometry: Geometry | None = None,
    moves: bool = False,
) -> Transform:
    """A `Transform` whose defaults have been checked against their ranges."""
    every = {"probability": PROBABILITY, **ranges}
    values = check_values(name, every, defaults)
    moves = moves or geometry is not None
    return Transform(
        name, values, every, dict(options or {}), numbers, draw, apply, pointwise, channels, geometry, moves
    )


def check_values(
    name: str, ranges: Mapping[str, Interval], values: Mapping[str, object], where: str = ""
) -> dict[str, float]:
    """Checks the parameters of one transform, each alone and every `low` against its `high`.

    Args:
      name: the transform's name, for the message.
      ranges: what each parameter may be.
      values: what each parameter is.
      where: the flag or file the values came from.

    Returns:
      The values as floats.

    Raises:
      UserError: an unknown parameter, a value that is no finite number of its range, a `low` above its
        `high`.
    """
    prefix = f"{where}: " if where else ""
    checked: dict[str, float] = {}
    for parameter, value in values.items():
        if parameter not in ranges:
            raise unknown(f"parameter of {name}", parameter, ranges, where)
        interval = ranges[parameter]
        real = isinstance(value, int | float | numbers.Real) and not isinstance(value, bool)
        number = float(value) if real and -_GREATEST <= value <= _GREATEST else math.nan  # type: ignore
        low_enough = interval.low < number if interval.above else interval.low <= number
        if not (math.isfinite(number) and low_enough and number <= interval.high):
            raise UserError(f"{prefix}{name}.{parameter} is {value!r}, expected a number in {interval}")
        checked[parameter] = number
    for parameter, low in checked.items():
        upper = parameter.removesuffix("low") + "high"
        if parameter.endswith("low") and low > checked.get(upper, math.inf):
            raise UserError(f"{prefix}{name}.{parameter} is {low:g}, expected at most {upper}={checked[upper]:g}")
    return checked


def uniform(u: Array, low: Any, high: Any) -> Array:
    """Spreads `u`, uniform in [0, 1), over [low, high)."""
    return low + u * (high - low)


def log_uniform(u: Array, low: Any, high: Any) -> Array:
    """Spreads `u`, uniform in [0, 1), over [low, high) so that the logarithm is uniform."""
    return jnp.exp(uniform(u, jnp.log(low), jnp.log(high)))
