"""Every transform by name, and the check of a single parameter by its address."""

from collections.abc import Callable

from ssljax.augment import cells, color, geometry, pixel
from ssljax.augment.transform import Transform, check_values
from ssljax.errors import unknown

TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "padding": geometry.padding,
    "color_inversion": pixel.color_inversion,
    "rotation": geometry.rotation,
    "random_resized_crop": geometry.random_resized_crop,
    "center_crop": geometry.center_crop,
    "horizontal_flip": geometry.horizontal_flip,
    "vertical_flip": geometry.vertical_flip,
    "affine": geometry.affine,
    "brightness": color.brightness,
    "contrast": color.contrast,
    "saturation": color.saturation,
    "hue": color.hue,
    "color_jitter": color.color_jitter,
    "grayscale": color.grayscale,
    "gaussian_blur": pixel.gaussian_blur,
    "solarize": pixel.solarize,
    "equalize": pixel.equalize,
    "random_erasing": pixel.random_erasing,
    "quarter_turns": cells.quarter_turns,
    "channel_brightness": cells.channel_brightness,
    "channel_contrast": cells.channel_contrast,
    "channel_drop": cells.channel_drop,
    "defocus": cells.defocus,
    "elastic": cells.elastic,
    "self_normalize": cells.self_normalize,
}


def check_value(name: str, parameter: str, value: object, where: str = "") -> float:
    """Checks one value of one parameter, as a sweep gives it.

    Args:
      name: a transform; a repeated one may carry its suffix, as in `rotation_2`.
      parameter: one of its parameters, such as "degrees".
      value: what it would be set to.
      where: the flag or file the value came from.

    Returns:
      The value as a float.

    Raises:
      UserError: no such transform or parameter, or a value out of its range.
    """
    stem, _, number = name.rpartition("_")
    known = stem if number.isdigit() and stem in TRANSFORMS else name
    if known not in TRANSFORMS:
        raise unknown("transform", name, TRANSFORMS, where)
    return check_values(name, TRANSFORMS[known]().ranges, {parameter: value}, where)[parameter]
