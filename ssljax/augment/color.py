"""Transforms of colour: brightness, contrast, saturation, hue, their jitter in random order, and grey.

Strengths mean what they mean in torchvision: a factor uniform in [max(0, 1 - s), 1 + s] for the first three,
a turn of the colour circle uniform in [-s, s] for the hue; every result is clipped to [0, 1].
"""

from collections.abc import Callable

import dm_pix
import jax.numpy as jnp

from ssljax.augment.transform import PROBABILITY, Array, Drawn, Hyper, Interval, Transform, build, uniform

RGB = (3,)
_FACTOR = Interval(0.0, float("inf"))
_TURN = Interval(0.0, 0.5)  # half the circle either way reaches every hue
# What an image is blended with, in the order of `color_jitter`'s parts.
_BLENDED = ("brightness", "contrast", "saturation")
_HUE = len(_BLENDED)


def grey(image: Array) -> Array:
    """The luma (ITU-R 601) of an RGB image, the mean over channels of any other: `[height, width, 1]`."""
    if image.shape[-1] == 3:
        return dm_pix.rgb_to_grayscale(image)
    return image.mean(-1, keepdims=True)


def blend(image: Array, target: Array, factor: Array) -> Array:
    """`factor` parts image and `1 - factor` parts target, clipped to [0, 1]; factor 1 is the image."""
    return jnp.clip(factor * image + (1 - factor) * target, 0, 1)


def turn_hue(image: Array, turn: Array) -> Array:
    """Turns the colours of an RGB image by a share of the colour circle; turn 0 is the image, to the bit."""
    return jnp.where(turn == 0, image, dm_pix.adjust_hue(image, turn))


def brightness(*, probability: float = 1.0, strength: float = 0.4) -> Transform:
    """Scales the image: blends it with black, torchvision's `adjust_brightness`.

    Args:
      probability: of happening, in [0, 1].
      strength: at least 0; the factor is uniform in [max(0, 1 - strength), 1 + strength].

    Returns:
      The transform. Drawn: `applied`, `factor` (1 where it did not happen).

    Raises:
      UserError: a value out of its range.
    """
    return _blending("brightness", probability, strength, lambda image: jnp.zeros(()), pointwise=True)


def contrast(*, probability: float = 1.0, strength: float = 0.4) -> Transform:
    """Blends the image with the mean of its grey version, torchvision's `adjust_contrast`.

    Args:
      probability: of happening, in [0, 1].
      strength: at least 0; the factor is uniform in [max(0, 1 - strength), 1 + strength].

    Returns:
      The transform. Drawn: `applied`, `factor` (1 where it did not happen).

    Raises:
      UserError: a value out of its range.
    """
    return _blending("contrast", probability, strength, lambda image: grey(image).mean(), pointwise=False)


def saturation(*, probability: float = 1.0, strength: float = 0.2) -> Transform:
    """Blends an RGB image with its grey version, torchvision's `adjust_saturation`.

    Args:
      probability: of happening, in [0, 1].
      strength: at least 0; the factor is uniform in [max(0, 1 - strength), 1 + strength].

    Returns:
      The transform. Drawn: `applied`, `factor` (1 where it did not happen).

    Raises:
      UserError: a value out of its range.
    """
    return _blending("saturation", probability, strength, grey, pointwise=True, channels=RGB)


def hue(*, probability: float = 1.0, strength: float = 0.1) -> Transform:
    """Turns the hue of an RGB image, torchvision's `adjust_hue`.

    Args:
      probability: of happening, in [0, 1].
      strength: in [0, .5]; the turn is uniform in [-strength, strength] of the colour circle.

    Returns:
      The transform. Drawn: `applied`, `turn` (0 where it did not happen).

    Raises:
      UserError: a value out of its range.
    """

    def draw(u: Array, hyper: Hyper) -> Drawn:
        applied = u[0] < hyper["probability"]
        return {"applied": applied, "turn": jnp.where(applied, _turn(u[1], hyper["strength"]), 0.0)}

    def apply(image: Array, drawn: Drawn) -> Array:
        return turn_hue(image, drawn["turn"])

    defaults = {"probability": probability, "strength": strength}
    return build("hue", defaults, {"strength": _TURN}, 2, draw, apply, pointwise=True, channels=RGB)


def color_jitter(
    *,
    probability: float = 0.8,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.2,
    hue: float = 0.1,
    hue_probability: float | None = None,
) -> Transform:
    """Brightness, contrast, saturation and hue of an RGB image, in random order.

    torchvision's `ColorJitter` inside `RandomApply`. Defaults: BYOL's, which most methods share.

    Args:
      probability: of happening, in [0, 1].
      brightness, contrast, saturation: strengths, at least 0 (see the module).
      hue: strength, in [0, .5].
      hue_probability: None and the hue shares the one gate, as in torchvision; a number in [0, 1] and the hue
        has an independent gate with this probability, while `probability` is that of the other three.

    Returns:
      The transform; `hue_probability` is a parameter of it only if it was given. Drawn: `applied` (the gate
      of the first three), `hue_applied`, `order` `[4]` (a permutation; 0 to 3 are brightness, contrast,
      saturation, hue), the factors `brightness`, `contrast`, `saturation` (1 where gated off) and the turn
      `hue` (0 where gated off).

    Raises:
      UserError: a value out of its range.
    """
    own_gate = hue_probability is not None

    def draw(u: Array, hyper: Hyper) -> Drawn:
        applied = u[0] < hyper["probability"]
        hue_applied = u[1] < hyper["hue_probability"] if own_gate else applied
        factors = {name: jnp.where(applied, _factor(u[3 + i], hyper[name]), 1.0) for i, name in enumerate(_BLENDED)}
        turn = jnp.where(hue_applied, _turn(u[2], hyper["hue"]), 0.0)
        order = jnp.argsort(u[6:])
        return {"applied": applied, "hue_applied": hue_applied, "order": order, **factors, "hue": turn}

    def apply(image: Array, drawn: Drawn) -> Array:
        # Converting to hue and back is the dear part, so it is done once, between three blends of which only
        # those that come before the hue act and three of which the others do. A blend with factor 1 does
        # nothing.
        order, factors = drawn["order"], jnp.stack([drawn[name] for name in _BLENDED])
        place = jnp.argmax(order == _HUE)
        slots = jnp.arange(len(_BLENDED))
        parts = order[slots + (slots >= place)]
        for slot in range(len(_BLENDED)):
            factor = jnp.where(slot < place, factors[parts[slot]], 1.0)
            image = _blend_part(image, parts[slot], factor)
        image = turn_hue(image, drawn["hue"])
        for slot in range(len(_BLENDED)):
            factor = jnp.where(slot < place, 1.0, factors[parts[slot]])
            image = _blend_part(image, parts[slot], factor)
        return image

    defaults = {
        "probability": probability,
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }
    if hue_probability is not None:
        defaults["hue_probability"] = hue_probability
    ranges = {name: _FACTOR for name in _BLENDED} | {"hue": _TURN, "hue_probability": PROBABILITY}
    return build("color_jitter", defaults, ranges, 10, draw, apply, channels=RGB)


def grayscale(*, probability: float = 0.2) -> Transform:
    """Replaces the three colours of an RGB image by its luma (ITU-R 601).

    Args:
      probability: of happening, in [0, 1]. Default: MoCo v2's and SimCLR's.

    Returns:
      The transform. Drawn: `applied`.

    Raises:
      UserError: a value out of its range.
    """

    def draw(u: Array, hyper: Hyper) -> Drawn:
        return {"applied": u[0] < hyper["probability"]}

    def apply(image: Array, drawn: Drawn) -> Array:
        return jnp.where(drawn["applied"], grey(image), image)

    return build("grayscale", {"probability": probability}, {}, 1, draw, apply, pointwise=True, channels=RGB)


def _factor(u: Array, strength: Array) -> Array:
    return uniform(u, jnp.maximum(0.0, 1.0 - strength), 1.0 + strength)


def _turn(u: Array, strength: Array) -> Array:
    return (2 * u - 1) * strength


def _blend_part(image: Array, part: Array, factor: Array) -> Array:
    """One of the three blends, chosen by its index; they differ in nothing but the target."""
    luma = grey(image)
    target = jnp.where(part == 0, 0.0, jnp.where(part == 1, luma.mean(), luma))
    return blend(image, target, factor)


def _blending(
    name: str,
    probability: float,
    strength: float,
    target: Callable[[Array], Array],
    pointwise: bool,
    channels: tuple[int, ...] | None = None,
) -> Transform:
    def draw(u: Array, hyper: Hyper) -> Drawn:
        applied = u[0] < hyper["probability"]
        return {"applied": applied, "factor": jnp.where(applied, _factor(u[1], hyper["strength"]), 1.0)}

    def apply(image: Array, drawn: Drawn) -> Array:
        return blend(image, target(image), drawn["factor"])

    defaults = {"probability": probability, "strength": strength}
    return build(name, defaults, {"strength": _FACTOR}, 2, draw, apply, pointwise=pointwise, channels=channels)
