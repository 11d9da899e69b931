"""Transforms that move pixels: padding, rotation, affine, the crops and the flips.

Each is a matrix (see `Geometry`); `apply` resamples one image by it, a composition multiplies the matrices
first. Positions are continuous: a crop's box and a padding's border may lie between pixels, where torchvision
rounds them, so that a strength acts smoothly on images of any size.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ssljax.augment import boxes, resample
from ssljax.augment.transform import Array, Drawn, Geometry, Hyper, Interval, Transform, build, uniform
from ssljax.augment.warp import warp
from ssljax.errors import UserError

_INFINITY = float("inf")
_ANGLE = Interval(0.0, _INFINITY)
_RATIO = Interval(0.0, _INFINITY, above=True)


def padding(*, probability: float = 1.0, low: float = 0.1, high: float = 0.4) -> Transform:
    """Adds an empty border to all four edges, by a share of the side that is uniform in [low, high].

    The content shrinks when the result is brought to the output's size. Defaults: the papers' first MNIST
    set.

    Args:
      probability: of padding at all, in [0, 1].
      low: least border, as a share of each side, at least 0.
      high: greatest border.

    Returns:
      The transform. Drawn: `applied`, `share`.

    Raises:
      UserError: a value out of its range, or low above high.
    """

    def draw(u: Array, hyper: Hyper) -> Drawn:
        return {"applied": u[0] < hyper["probability"], "share": uniform(u[1], hyper["low"], hyper["high"])}

    def place(drawn: Drawn, canvas: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        share = jnp.where(drawn["applied"], drawn["share"], 0.0)
        one = jnp.ones(())
        moved = resample.scale_and_shift(one, one, -share * canvas[1], -share * canvas[0])
        return moved, canvas * (1 + 2 * share)

    border = Interval(0.0, _INFINITY)
    defaults = {"probability": probability, "low": low, "high": high}
    return _moving("padding", defaults, {"low": border, "high": border}, 2, draw, Geometry(place, fills=True))


def rotation(*, probability: float = 1.0, degrees: float = 25.0) -> Transform:
    """Turns the image about its centre, counter-clockwise by an angle uniform in [-degrees, degrees].

    torchvision's `RandomRotation`, bilinear, zero fill. Default: the papers' first MNIST set.

    Args:
      probability: of turning at all, in [0, 1].
      degrees: greatest angle, at least 0.

    Returns:
      The transform. Drawn: `applied`, `angle` (degrees).

    Raises:
      UserError: a value out of its range.
    """

    def draw(u: Array, hyper: Hyper) -> Drawn:
        return {"applied": u[0] < hyper["probability"], "angle": (2 * u[1] - 1) * hyper["degrees"]}

    def place(drawn: Drawn, canvas: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        angle = jnp.deg2rad(jnp.where(drawn["applied"], drawn["angle"], 0.0))
        cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros(())
        return resample.about_centre((cos, -sin, sin, cos), canvas, zero, zero), canvas

    defaults = {"probability": probability, "degrees": degrees}
    geometry = Geometry(place, fills=True, axis_aligned=False)
    return _moving("rotation", defaults, {"degrees": _ANGLE}, 2, draw, geometry)


def affine(
    *, probability: float = 1.0, degrees: float = 20.0, translate: float = 0.1, shear: float = 10.0
) -> Transform:
    """Turns, shears and moves the image in one go.

    torchvision's `RandomAffine(degrees, (translate, translate), shear=shear)`, bilinear, zero fill: about the
    centre, the content is sheared parallel to the x axis, turned clockwise, then moved. Defaults: the papers'
    cell sets.

    Args:
      probability: of moving at all, in [0, 1].
      degrees: greatest angle either way, at least 0.
      translate: greatest move along each axis as a share of its side, at least 0.
      shear: greatest shear either way, in degrees, at least 0 and below 90.

    Returns:
      The transform. Drawn: `applied`, `angle`, `shear` (degrees), `x`, `y` (shares of the side).

    Raises:
      UserError: a value out of its range.
    """

    def draw(u: Array, hyper: Hyper) -> Drawn:
        reach = {"angle": "degrees", "shear": "shear", "x": "translate", "y": "translate"}
        drawn = {name: (2 * u[i] - 1) * hyper[bound] for i, (name, bound) in enumerate(reach.items(), 1)}
        return {"applied": u[0] < hyper["probability"], **drawn}

    def place(drawn: Drawn, canvas: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        def on(value: Array) -> Array:
            return jnp.where(drawn["applied"], value, 0.0)

        angle, slope = jnp.deg2rad(on(drawn["angle"])), jnp.tan(jnp.deg2rad(on(drawn["shear"])))
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        # The inverse of (turn clockwise, y down) x (shear), whose determinant is 1.
        linear = (cos - slope * sin, sin + slope * cos, -sin, cos)
        shift_x, shift_y = on(drawn["x"]) * canvas[1], on(drawn["y"]) * canvas[0]
        return resample.about_centre(linear, canvas, shift_x, shift_y), canvas

    defaults = {"probability": probability, "degrees": degrees, "translate": translate, "shear": shear}
    ranges = {"degrees": _ANGLE, "translate": Interval(0.0, _INFINITY), "shear": Interval(0.0, 89.0)}
    return _moving("affine", defaults, ranges, 5, draw, Geometry(place, fills=True, axis_aligned=False))


def random_resized_crop(
    *,
    probability: float = 1.0,
    area_low: float = 0.08,
    area_high: float = 1.0,
    ratio_low: float = 3 / 4,
    ratio_high: float = 4 / 3,
    beyond_border: bool = False,
) -> Transform:
    """Cuts out a box of random area and aspect ratio and brings it to the output's size.

    torchvision's `RandomResizedCrop`: the area is uniform, the ratio log-uniform; of ten boxes the first that
    fits is taken, else the largest central box that respects the ratios. An area above 1 thus never shows
    more than the image. Defaults: torchvision's.

    Args:
      probability: of cropping, in [0, 1]; else the whole image is resized.
      area_low: least area, as a share of the image, above 0.
      area_high: greatest area.
      ratio_low: least width / height, above 0.
      ratio_high: greatest width / height.
      beyond_border: static; take the first box whatever its size, and show 0 where it leaves the image.

    Returns:
      The transform. Drawn: `applied`, the ten candidates' `area` and `ratio`, `x`, `y` (see `boxes.draw`) and
      the two ratio bounds, which the central box needs.

    Raises:
      UserError: a value out of its range, or low above high.
    """

    def draw(u: Array, hyper: Hyper) -> Drawn:
        bounds = {name: jnp.asarray(hyper[name], jnp.float32) for name in ("ratio_low", "ratio_high")}
        return {**boxes.draw(u, hyper), **bounds}

    def place(drawn: Drawn, canvas: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        return _cut(drawn["applied"], crop_box(drawn, canvas, beyond_border), canvas, size)

    defaults = {
        "probability": probability,
        "area_low": area_low,
        "area_high": area_high,
        "ratio_low": ratio_low,
        "ratio_high": ratio_high,
    }
    area = Interval(0.0, _INFINITY, above=True)
    ranges = {"area_low": area, "area_high": area, "ratio_low": _RATIO, "ratio_high": _RATIO}
    if not isinstance(beyond_border, bool):
        raise UserError(f"random_resized_crop.beyond_border is {beyond_border!r}, expected True or False")
    options = {"beyond_border": True} if beyond_border else {}
    geometry = Geometry(place, fills=beyond_border)
    return _moving("random_resized_crop", defaults, ranges, boxes.NUMBERS, draw, geometry, options)


def crop_box(drawn: Drawn, canvas: Array, beyond_border: bool = False) -> Array:
    """The box that a random resized crop takes: `[4]`, top, left, height, width, in pixels of the canvas."""
    height, width = canvas[0], canvas[1]
    heights = jnp.sqrt(drawn["area"] / drawn["ratio"] * height * width)
    widths = jnp.sqrt(drawn["area"] * drawn["ratio"] * height * width)
    fits = (heights <= height) & (widths <= width)
    if beyond_border:
        fits = jnp.ones_like(fits)
    any_fits, box_height, box_width = boxes.first_fit(fits, heights, widths)
    box_height = jnp.where(any_fits, box_height, jnp.minimum(height, width / drawn["ratio_low"]))
    box_width = jnp.where(any_fits, box_width, jnp.minimum(width, height * drawn["ratio_high"]))
    across, down = jnp.where(any_fits, drawn["x"], 0.5), jnp.where(any_fits, drawn["y"], 0.5)
    return jnp.stack([down * (height - box_height), across * (width - box_width), box_height, box_width])


def center_crop(*, probability: float = 1.0, area: float | None = None, side: float | None = None) -> Transform:
    """Cuts out the centre and brings it to the output's size.

    The papers' "centre crop .5" reads as half the area in one and as a scale of .5 in another: give one of
    `area` and `side`; without either, area .5.

    Args:
      probability: of cropping, in [0, 1]; else the whole image is resized.
      area: share of the image's area that is kept, in (0, 1].
      side: share of each side that is kept, in (0, 1].

    Returns:
      The transform, whose parameter is the one of the two that was given. Drawn: `applied`, `side`.

    Raises:
      UserError: a value out of its range, or both of area and side.
    """
    if area is not None and side is not None:
        raise UserError(f"center_crop got area={area} and side={side}, expected one of them")
    by_side = side is not None

    def draw(u: Array, hyper: Hyper) -> Drawn:
        kept = jnp.asarray(hyper["side"], jnp.float32) if by_side else jnp.sqrt(jnp.float32(hyper["area"]))
        return {"applied": u[0] < hyper["probability"], "side": kept}

    def place(drawn: Drawn, canvas: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        kept = canvas * drawn["side"]
        return _cut(drawn["applied"], jnp.concatenate([(canvas - kept) / 2, kept]), canvas, size)

    value = {"side": side} if side is not None else {"area": 0.5 if area is None else area}
    share = Interval(0.0, 1.0, above=True)
    defaults = {"probability": probability, **value}
    return _moving("center_crop", defaults, {"area": share, "side": share}, 1, draw, Geometry(place))


def horizontal_flip(*, probability: float = 0.5) -> Transform:
    """Mirrors left and right. `probability` in [0, 1]. Drawn: `applied`."""
    return _flip("horizontal_flip", probability, axis=1)


def vertical_flip(*, probability: float = 0.5) -> Transform:
    """Mirrors top and bottom. `probability` in [0, 1]. Drawn: `applied`."""
    return _flip("vertical_flip", probability, axis=0)


def _flip(name: str, probability: float, axis: int) -> Transform:
    def draw(u: Array, hyper: Hyper) -> Drawn:
        return {"applied": u[0] < hyper["probability"]}

    def apply(image: Array, drawn: Drawn) -> Array:
        return jnp.where(drawn["applied"], jnp.flip(image, axis), image)

    def place(drawn: Drawn, canvas: Array, size: tuple[int, int]) -> tuple[Array, Array]:
        sign = jnp.where(drawn["applied"], -1.0, 1.0)
        shift = jnp.where(drawn["applied"], canvas[axis], 0.0)
        one, zero = jnp.ones(()), jnp.zeros(())
        if axis == 1:
            return resample.scale_and_shift(sign, one, shift, zero), canvas
        return resample.scale_and_shift(one, sign, zero, shift), canvas

    geometry = Geometry(place, flip=axis)
    return build(name, {"probability": probability}, {}, 1, draw, apply, geometry=geometry)


def _cut(applied: Array, box: Array, canvas: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """The matrix that shows `box` (top, left, height, width), or the whole canvas, at `size`."""
    whole = jnp.concatenate([jnp.zeros(2), canvas])
    top, left, height, width = jnp.where(applied, box, whole)
    to_box = resample.scale_and_shift(width / size[1], height / size[0], left, top)
    return to_box, jnp.array(size, jnp.float32)


def _moving(
    name: str,
    defaults: dict[str, float],
    ranges: dict[str, Interval],
    numbers: int,
    draw: Callable[[Array, Hyper], Drawn],
    geometry: Geometry,
    options: dict[str, bool] | None = None,
) -> Transform:
    def apply(image: Array, drawn: Drawn) -> Array:
        return warp(image, [(transform, drawn)], (image.shape[0], image.shape[1]))

    transform = build(name, defaults, ranges, numbers, draw, apply, options=options, geometry=geometry)
    return transform
