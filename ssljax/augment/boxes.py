"""Ten drawn boxes, of which the first that fits counts: the heart of the random crop and of random erasing.

torchvision's `RandomResizedCrop.get_params` and `RandomErasing.get_params` draw an area and an aspect ratio
up to ten times. Here all ten are drawn at once, so that the number of draws is no loop.
"""

import jax.numpy as jnp

from ssljax.augment.transform import Array, Drawn, Hyper, log_uniform, uniform

ATTEMPTS = 10  # torchvision, both functions
NUMBERS = 3 + 2 * ATTEMPTS


def draw(u: Array, hyper: Hyper) -> Drawn:
    """Draws the ten candidates for one image.

    Args:
      u: `[NUMBERS]` uniform in [0, 1).
      hyper: `probability`, `area_low`, `area_high` (shares of the image), `ratio_low`, `ratio_high`.

    Returns:
      `applied` (bool), `area` `[10]` uniform, `ratio` `[10]` log-uniform, and `x`, `y` in [0, 1), where the
      chosen box stands within the room that its size leaves it.
    """
    return {
        "applied": u[0] < hyper["probability"],
        "area": uniform(u[3 : 3 + ATTEMPTS], hyper["area_low"], hyper["area_high"]),
        "ratio": log_uniform(u[3 + ATTEMPTS :], hyper["ratio_low"], hyper["ratio_high"]),
        "x": u[1],
        "y": u[2],
    }


def first_fit(fits: Array, heights: Array, widths: Array) -> tuple[Array, Array, Array]:
    """Whether any candidate fits, and height and width of the first that does (else of the first at all)."""
    first = jnp.argmax(fits)
    return fits.any(), heights[first], widths[first]
