"""Transforms of values, for any channel count: inversion, blur, solarize, equalize, erasing."""

from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp

from ssljax.augment import boxes, resample
from ssljax.augment.transform import Array, Drawn, Hyper, Interval, Transform, build, uniform
from ssljax.errors import UserError

_POSITIVE = Interval(0.0, float("inf"), above=True)
_LEVELS = 256  # equalize works on 8-bit levels, as Pillow and torchvision do


def color_inversion(*, probability: float = 0.5) -> Transform:
    """Replaces x by 1 - x.

    Args:
      probability: of happening, in [0, 1]. The papers leave it open; with 1 it would be a fixed recolouring.

    Returns:
      The transform. Drawn: `applied`.

    Raises:
      UserError: a value out of its range.
    """
    return _gated("color_inversion", probability, lambda image: 1 - image, pointwise=True)


def equalize(*, probability: float = 0.1) -> Transform:
    """Spreads each channel's histogram evenly, on 8-bit levels: Pillow's `ImageOps.equalize`.

    Args:
      probability: of happening, in [0, 1].

    Returns:
      The transform. Drawn: `applied`.

    Raises:
      UserError: a value out of its range.
    """
    return _gated("equalize", probability, equalized)


def equalized(image: Array) -> Array:
    """`image` `[height, width, channels]` with each channel's histogram equalized; flat channels stay."""

    def one(channel: Array) -> Array:
        level = jnp.clip(jnp.round(channel * (_LEVELS - 1)), 0, _LEVELS - 1).astype(jnp.int32)
        counts = jnp.zeros(_LEVELS, jnp.int32).at[level.reshape(-1)].add(1)
        highest = counts[level.max()]
        step = (counts.sum() - highest) // (_LEVELS - 1)
        below = jnp.cumsum(counts) - counts
        spread = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, _LEVELS - 1)
        return jnp.where(step > 0, spread[level] / (_LEVELS - 1), channel)

    return jax.vmap(one, in_axes=-1, out_axes=-1)(image)


def solarize(*, probability: float = 0.2, threshold: float = 128 / 255) -> Transform:
    """Inverts the values at or above a threshold.

    Args:
      probability: of happening, in [0, 1]. Default: BYOL's second view.
      threshold: in [0, 1]. Default: Pillow's 128 of 255.

    Returns:
      The transform. Drawn: `applied`, `threshold`.

    Raises:
      UserError: a value out of its range.
    """

    def draw(u: Array, hyper: Hyper) -> Drawn:
        applied = u[0] < hyper["probability"]
        return {"applied": applied, "threshold": jnp.asarray(hyper["threshold"], jnp.float32)}

    def apply(image: Array, drawn: Drawn) -> Array:
        return jnp.where(drawn["applied"], dm_pix.solarize(image, drawn["threshold"]), image)

    defaults = {"probability": probability, "threshold": threshold}
    return build("solarize", defaults, {"threshold": Interval(0.0, 1.0)}, 1, draw, apply, pointwise=True)


def gaussian_blur(
    *,
    probability: float = 0.5,
    sigma_low: float = 0.1,
    sigma_high: float = 2.0,
    kernel_size: int | None = None,
) -> Transform:
    """Blurs with a Gaussian whose sigma is uniform, mirroring the image at its border.

    torchvision's `GaussianBlur`. Defaults: SimCLR's, with its kernel of a tenth of the side: the odd number 2
    floor(side / 20) + 1, at least 3, is 3 at 32 pixels and 23 at 224.

    Args:
      probability: of happening, in [0, 1].
      sigma_low: least sigma in pixels, above 0.
      sigma_high: greatest sigma.
      kernel_size: static; odd number of pixels the kernel spans, from the image's shorter side by default.

    Returns:
      The transform. Drawn: `applied`, `sigma`.

    Raises:
      UserError: a value out of its range, low above high, a kernel size that is no odd positive integer; when
        applied, an image too small to be mirrored.
    """
    if kernel_size is not None and (not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0):
        raise UserError(f"gaussian_blur.kernel_size is {kernel_size!r}, expected an odd positive integer")

    def draw(u: Array, hyper: Hyper) -> Drawn:
        sigma = uniform(u[1], hyper["sigma_low"], hyper["sigma_high"])
        return {"applied": u[0] < hyper["probability"], "sigma": sigma}

    def apply(image: Array, drawn: Drawn) -> Array:
        shorter = min(image.shape[:2])
        reach = kernel_size // 2 if kernel_size else max(shorter // 20, 1)
        if reach >= shorter:
            raise UserError(
                f"gaussian_blur: a kernel of {2 * reach + 1} pixels, expected at most {2 * shorter - 1} "
                f"for an image of {image.shape[0]}x{image.shape[1]}"
            )
        rows, columns = (blur_matrix(side, drawn["sigma"], reach) for side in image.shape[:2])
        return jnp.where(drawn["applied"], resample.separable(image, rows, columns), image)

    defaults = {"probability": probability, "sigma_low": sigma_low, "sigma_high": sigma_high}
    ranges = {"sigma_low": _POSITIVE, "sigma_high": _POSITIVE}
    options = {} if kernel_size is None else {"kernel_size": kernel_size}
    return build("gaussian_blur", defaults, ranges, 2, draw, apply, options=options)


def blur_matrix(side: int, sigma: Array, reach: int) -> Array:
    """The `[side, side]` matrix of a Gaussian cut off beyond `reach` < side, mirrored at border pixels."""

    def kernel(distance: Array) -> Array:
        return jnp.where(jnp.abs(distance) <= reach, jnp.exp(-0.5 * (distance / sigma) ** 2), 0.0)

    target, source = jnp.arange(side)[:, None], jnp.arange(side)[None, :]
    last = side - 1
    # A source pixel is seen directly and in the two mirrors, in which the border pixels themselves do not
    # appear.
    weights = kernel(source - target)
    weights += jnp.where(source > 0, kernel(-source - target), 0.0)
    weights += jnp.where(source < last, kernel(2 * last - source - target), 0.0)
    return weights / kernel(jnp.arange(-reach, reach + 1)).sum()


def random_erasing(
    *,
    probability: float = 0.5,
    area_low: float = 0.02,
    area_high: float = 0.3,
    ratio_low: float = 0.3,
    ratio_high: float = 3.3,
) -> Transform:
    """Sets a random box to 0.

    torchvision's `RandomErasing`: the first of ten drawn boxes, of whole pixels, that is smaller than the
    image both ways; none if none is. Defaults: the papers' second MNIST set; torchvision's ratios.

    Args:
      probability: of erasing, in [0, 1].
      area_low: least area, as a share of the image, above 0.
      area_high: greatest area.
      ratio_low: least height / width, above 0.
      ratio_high: greatest height / width.

    Returns:
      The transform. Drawn: `applied`, the ten candidates' `area` and `ratio`, `x`, `y` (see `boxes.draw`).

    Raises:
      UserError: a value out of its range, or low above high.
    """

    def apply(image: Array, drawn: Drawn) -> Array:
        height, width = image.shape[:2]
        top, left, box_height, box_width = erased_box(drawn, height, width)
        row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
        inside = (row >= top) & (row < top + box_height) & (column >= left) & (column < left + box_width)
        return jnp.where(drawn["applied"] & inside, 0.0, image)

    defaults = {
        "probability": probability,
        "area_low": area_low,
        "area_high": area_high,
        "ratio_low": ratio_low,
        "ratio_high": ratio_high,
    }
    ranges = {name: _POSITIVE for name in defaults if name != "probability"}
    return build("random_erasing", defaults, ranges, boxes.NUMBERS, boxes.draw, apply)


def erased_box(drawn: Drawn, height: int, width: int) -> Array:
    """What random erasing sets to 0: `[4]`, top, left, height, width, whole pixels; empty if none fits."""
    heights = jnp.round(jnp.sqrt(drawn["area"] * drawn["ratio"] * height * width))
    widths = jnp.round(jnp.sqrt(drawn["area"] / drawn["ratio"] * height * width))
    any_fits, box_height, box_width = boxes.first_fit((heights < height) & (widths < width), heights, widths)
    box_height, box_width = jnp.where(any_fits, box_height, 0.0), jnp.where(any_fits, box_width, 0.0)
    top = jnp.floor(drawn["y"] * (height - box_height + 1))
    left = jnp.floor(drawn["x"] * (width - box_width + 1))
    return jnp.stack([top, left, box_height, box_width])


def _gated(name: str, probability: float, change: Callable[[Array], Array], pointwise: bool = False) -> Transform:
    def draw(u: Array, hyper: Hyper) -> Drawn:
        return {"applied": u[0] < hyper["probability"]}

    def apply(image: Array, drawn: Drawn) -> Array:
        return jnp.where(drawn["applied"], change(image), image)

    return build(name, {"probability": probability}, {}, 1, draw, apply, pointwise=pointwise)
