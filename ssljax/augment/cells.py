"""What cell biologists do to images of cells: quarter turns, changes of single channels, defocus, elastic warp, self-normalisation.

A fluorescence image has one stain a channel, one to sixteen of them, which no colour jitter suits. What is drawn for each channel
is drawn for sixteen; an image takes those of its own.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ssljax.augment import resample
from ssljax.augment.transform import Array, Drawn, Hyper, Interval, Transform, build, uniform
from ssljax.errors import UserError

CHANNELS = tuple(range(1, 17))  # what a transform draws is of fixed size; microscopes record 1 to 8 stains
_FACTOR = Interval(0.0, float("inf"))
_LENGTH = Interval(0.0, float("inf"))
_POSITIVE = Interval(0.0, float("inf"), above=True)
_FLAT = 1e-6  # a deviation far below a step of 16 bits
_WAVES = 16  # of each axis' displacement: enough for it to be near Gaussian (our choice)


def quarter_turns(*, probability: float = 0.75) -> Transform:
    """Turns the image counter-clockwise by one, two or three quarters, each as often: `numpy.rot90`, without resampling.

    Args:
      probability: of turning, in [0, 1]. Default: all four positions, no turn among them, equally often.

    Returns:
      The transform. Drawn: `applied`, `quarters` (0 where it did not happen, else 1, 2 or 3).

    Raises:
      UserError: a value out of its range; when applied, an image that is not square.
    """

    def draw(u: Array, hyper: Hyper) -> Drawn:
        applied = u[0] < hyper["probability"]
        quarters = 1 + jnp.minimum(jnp.floor(3 * u[1]), 2).astype(jnp.int32)
        return {"applied": applied, "quarters": jnp.where(applied, quarters, 0)}

    def apply(image: Array, drawn: Drawn) -> Array:
        if image.shape[0] != image.shape[1]:
            raise UserError(f"quarter_turns: an image of {image.shape[0]}x{image.shape[1]}, expected a square one")
        half = jnp.where(drawn["quarters"] >= 2, image[::-1, ::-1], image)
        return jnp.where(drawn["quarters"] % 2 == 1, jnp.swapaxes(half, 0, 1)[::-1], half)

    return build("quarter_turns", {"probability": probability}, {}, 2, draw, apply, moves=True)


def channel_brightness(*, probability: float = 1.0, strength: float = 0.4) -> Transform:
    """Scales each channel by a factor of its own and clips to [0, 1].

    Args:
      probability: of happening, in [0, 1]. Default and strength: those of the papers' jitter of cells.
      strength: at least 0; each factor is uniform in [max(0, 1 - strength), 1 + strength].

    Returns:
      The transform. Drawn: `applied`, `factor` `[16]`, by channel (1 where it did not happen).

    Raises:
      UserError: a value out of its range.
    """

    def apply(image: Array, drawn: Drawn) -> Array:
        return jnp.clip(image * _own(drawn["factor"], image), 0, 1)

    return _by_channel("channel_brightness", probability, strength, apply, pointwise=True)


def channel_contrast(*, probability: float = 1.0, strength: float = 0.4) -> Transform:
    """Stretches each channel about its own mean by a factor of its own and clips to [0, 1].

    Args:
      probability: of happening, in [0, 1]. Default and strength: those of the papers' jitter of cells.
      strength: at least 0; each factor is uniform in [max(0, 1 - strength), 1 + strength].

    Returns:
      The transform. Drawn: `applied`, `factor` `[16]`, by channel (1 where it did not happen).

    Raises:
      UserError: a value out of its range.
    """

    def apply(image: Array, drawn: Drawn) -> Array:
        factor = _own(drawn["factor"], image)
        return jnp.clip(factor * image + (1 - factor) * image.mean((0, 1)), 0, 1)

    return _by_channel("channel_contrast", probability, strength, apply, pointwise=False)


def channel_drop(*, probability: float = 0.2) -> Transform:
    """Sets each channel to 0 with a probability of its own, but never all: of all, one is spared at random.

    An image of one channel is thus never changed. Each of c channels is dropped with probability p - p^c / c.

    Args:
      probability: of each channel, in [0, 1]. Default: as is usual for Cell Painting.

    Returns:
      The transform. Drawn: `applied` `[16]`, by channel, `spared` in [0, 1): times c, rounded down, the channel that is spared if
      all would go.

    Raises:
      UserError: a value out of its range.
    """

    def draw(u: Array, hyper: Hyper) -> Drawn:
        return {"applied": u[1:] < hyper["probability"], "spared": u[0]}

    def apply(image: Array, drawn: Drawn) -> Array:
        n = image.shape[-1]
        dropped = _own(drawn["applied"], image)
        spared = jnp.minimum(jnp.floor(drawn["spared"] * n), n - 1) == jnp.arange(n)
        return jnp.where(dropped & ~(dropped.all() & spared), 0.0, image)

    numbers = 1 + len(CHANNELS)
    return build(
        "channel_drop", {"probability": probability}, {}, numbers, draw, apply, pointwise=True, channels=CHANNELS
    )


def defocus(*, probability: float = 0.5, radius_low: float = 1.0, radius_high: float = 3.0) -> Transform:
    """Blurs with a disc, what a point becomes out of focus in geometrical optics, mirroring the image at its border.

    The weight of a pixel d pixels off is the share of its width within the disc, clip(radius + .5 - d, 0, 1), over the sum of all
    weights; a radius up to .5 leaves the image as it is.

    Args:
      probability: of happening, in [0, 1]. This and the radii: our choice.
      radius_low: least radius in pixels, at least 0.
      radius_high: greatest radius; up to the image's side.

    Returns:
      The transform. Drawn: `applied`, `radius`.

    Raises:
      UserError: a value out of its range, or low above high.
    """

    def draw(u: Array, hyper: Hyper) -> Drawn:
        radius = uniform(u[1], hyper["radius_low"], hyper["radius_high"])
        return {"applied": u[0] < hyper["probability"], "radius": radius}

    def apply(image: Array, drawn: Drawn) -> Array:
        # A cosine series has the mirror built in: there an even kernel is a product, whatever its radius.
        rows, columns = (_cosines(side) for side in image.shape[:2])
        spectrum = resample.separable(image, rows, columns)
        blurred = resample.separable(
            spectrum * _disc_response(drawn["radius"], (len(rows), len(columns))), rows.T, columns.T
        )
        return jnp.where(drawn["applied"], jnp.clip(blurred, 0, 1), image)

    defaults = {"probability": probability, "radius_low": radius_low, "radius_high": radius_high}
    return build("defocus", defaults, {"radius_low": _LENGTH, "radius_high": _LENGTH}, 2, draw, apply)


def _cosines(side: int) -> Array:
    """The orthogonal `[side, side]` matrix of the cosine transform (DCT-II), a frequency a row."""
    frequency, place = jnp.arange(side)[:, None], jnp.arange(side)[None, :]
    scale = jnp.where(frequency == 0, jnp.sqrt(1 / side), jnp.sqrt(2 / side))
    # Whole turns are taken out in whole numbers: the cosine of a large float32 has few bits left.
    return scale * jnp.cos(jnp.pi / 2 * (frequency * (2 * place + 1) % (4 * side)) / side)


def _disc_response(radius: Array, size: tuple[int, int]) -> Array:
    """What the disc does to each pair of frequencies: `[height, width, 1]`, 1 at the lowest."""

    def folded(side: int) -> Array:
        """Of distance d (a column) to frequency k (a row): both ways but at 0."""
        distance = jnp.arange(side)[None, :]
        both = jnp.where(distance == 0, 1.0, 2.0)
        return both * jnp.cos(jnp.pi * (jnp.arange(side)[:, None] * distance % (2 * side)) / side)

    down, across = jnp.arange(size[0])[:, None], jnp.arange(size[1])[None, :]
    disc = jnp.clip(radius + 0.5 - jnp.sqrt(down**2 + across**2), 0, 1)
    response = resample.separable(disc[:, :, None], folded(size[0]), folded(size[1]))
    return response / response[0, 0]


def elastic(*, probability: float = 0.5, amplitude: float = 0.02, scale: float = 0.15) -> Transform:
    """Displaces pixels by a smooth random field, resampled once, repeating the border.

    P. Simard, D. Steinkraus and J. Platt, "Best practices for convolutional neural networks" (ICDAR 2003) smooth white noise with
    a Gaussian; here the same kind of field is a sum of 16 random waves an axis (A. Rahimi and B. Recht, "Random features", NIPS
    2007), so that one strength means the same at any image size: the displacements of two points r apart covary as amplitude^2
    exp(-r^2 / (2 scale^2)), as of noise smoothed by a Gaussian of scale / sqrt 2.

    Args:
      probability: of happening, in [0, 1]. This and the others: our choice.
      amplitude: standard deviation of the displacement along each axis, as a share of the image's shorter side, at least 0. Above
        about half the scale the field folds.
      scale: how far the field is alike, as a share of the shorter side, above 0.

    Returns:
      The transform. Drawn: `applied`, `amplitude` (0 where it did not happen), and of the waves of y and x `wave` `[2, 16, 2]`,
      their angular frequencies (y, x) in radians a shorter side, and `phase` `[2, 16]`.

    Raises:
      UserError: a value out of its range.
    """

    def draw(u: Array, hyper: Hyper) -> Drawn:
        applied, (first, second, phase) = u[0] < hyper["probability"], u[1:].reshape(3, 2, _WAVES)
        # Box and Muller: two independent normal numbers, of deviation 1 / scale.
        length, angle = jnp.sqrt(-2 * jnp.log1p(-first)) / hyper["scale"], 2 * jnp.pi * second
        wave = jnp.stack([length * jnp.sin(angle), length * jnp.cos(angle)], -1)
        amplitude = jnp.where(applied, hyper["amplitude"], 0.0)
        return {"applied": applied, "amplitude": amplitude, "wave": wave, "phase": 2 * jnp.pi * phase}

    def apply(image: Array, drawn: Drawn) -> Array:
        moved = displacement(drawn, (image.shape[0], image.shape[1]))
        y, x = jnp.arange(image.shape[0])[:, None] + 0.5, jnp.arange(image.shape[1])[None, :] + 0.5
        return jnp.where(drawn["applied"], resample.bilinear(image, x + moved[1], y + moved[0]), image)

    defaults = {"probability": probability, "amplitude": amplitude, "scale": scale}
    ranges = {"amplitude": _LENGTH, "scale": _POSITIVE}
    return build("elastic", defaults, ranges, 1 + 6 * _WAVES, draw, apply, moves=True)


def displacement(drawn: Drawn, size: tuple[int, int]) -> Array:
    """Where an elastic warp looks, relative to each pixel: `[2, height, width]`, along y and x, in pixels."""
    side = min(size)
    y, x = ((jnp.arange(n) + 0.5) / side for n in size)
    down = drawn["wave"][..., :1] * y + drawn["phase"][..., None]
    across = drawn["wave"][..., 1:] * x
    # cos(a + b) = cos a cos b - sin a sin b: a product of two thin matrices instead of a cosine a pixel and wave.
    tall = jnp.concatenate([jnp.cos(down), -jnp.sin(down)], 1)
    wide = jnp.concatenate([jnp.cos(across), jnp.sin(across)], 1)
    waves = jnp.einsum("akh,akw->ahw", tall, wide, precision="highest")
    return drawn["amplitude"] * side * jnp.sqrt(2 / _WAVES) * waves


def self_normalize(*, probability: float = 1.0, deviations: float = 3.0) -> Transform:
    """Brings each channel to mean 0 and deviation 1, and that into [0, 1]: clip(.5 + z / (2 deviations), 0, 1).

    The mean becomes .5, what lies `deviations` standard deviations below or above it 0 or 1; a flat channel is .5 throughout. So
    nothing is left of a plate's brightness and contrast.

    Args:
      probability: of happening, in [0, 1].
      deviations: what is still told apart, above 0. Default: our choice; of real cells under 1 % of the pixels lie beyond 3.

    Returns:
      The transform. Drawn: `applied`, `deviations`.

    Raises:
      UserError: a value out of its range.
    """

    def draw(u: Array, hyper: Hyper) -> Drawn:
        applied = u[0] < hyper["probability"]
        return {"applied": applied, "deviations": jnp.asarray(hyper["deviations"], jnp.float32)}

    def apply(image: Array, drawn: Drawn) -> Array:
        centred = image - image[0, 0]  # so that a flat channel's mean has no rounding
        centred = centred - centred.mean((0, 1))
        deviation = jnp.sqrt((centred**2).mean((0, 1)))
        z = centred / jnp.maximum(deviation, _FLAT)
        return jnp.where(drawn["applied"], jnp.clip(0.5 + z / (2 * drawn["deviations"]), 0, 1), image)

    defaults = {"probability": probability, "deviations": deviations}
    return build("self_normalize", defaults, {"deviations": _POSITIVE}, 1, draw, apply)


def _own(by_channel: Array, image: Array) -> Array:
    return by_channel[: image.shape[-1]]


def _by_channel(
    name: str, probability: float, strength: float, apply: Callable[[Array, Drawn], Array], pointwise: bool
) -> Transform:
    def draw(u: Array, hyper: Hyper) -> Drawn:
        applied = u[0] < hyper["probability"]
        factor = uniform(u[1:], jnp.maximum(0.0, 1.0 - hyper["strength"]), 1.0 + hyper["strength"])
        return {"applied": applied, "factor": jnp.where(applied, factor, 1.0)}

    defaults, ranges = {"probability": probability, "strength": strength}, {"strength": _FACTOR}
    numbers = 1 + len(CHANNELS)
    return build(name, defaults, ranges, numbers, draw, apply, pointwise=pointwise, channels=CHANNELS)
