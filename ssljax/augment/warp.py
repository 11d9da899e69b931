"""One resampling for a whole list of transforms: what makes composed geometry sharp, and cheap."""

from collections.abc import Sequence

import jax.numpy as jnp

from ssljax.augment import resample
from ssljax.augment.transform import Array, Drawn, Transform


def warp(
    image: Array,
    steps: Sequence[tuple[Transform, Drawn]],
    size: tuple[int, int],
) -> Array:
    """Runs geometry and pointwise transforms on one image with a single resampling of its pixels.

    The matrices of all geometry are multiplied and the image is sampled once, at output resolution. Then the
    list is walked in order: a transform that fills is multiplied by the coverage of the canvas before it, a
    pointwise one is applied. So padding that is inverted comes out white while the corners of a later
    rotation stay black.

    Args:
      image: `[height, width, channels]`.
      steps: each transform, pointwise or with a geometry, with what was drawn for it.
      size: (height, width) of the result, which is also what a crop resizes to.

    Returns:
      `[*size, channels]`.
    """
    canvas = jnp.array(image.shape[:2], jnp.float32)
    before = []  # of each step: its canvas, and the matrix from the next canvas back to it
    for transform, drawn in steps:
        step, after = jnp.eye(3), canvas
        if transform.geometry:
            step, after = transform.geometry.place(drawn, canvas, size)
        before.append((canvas, step))
        canvas = after
    to_canvas = resample.resize_matrix(canvas, size)
    masks: list[Array | None] = []
    for (transform, drawn), (canvas, step) in zip(reversed(steps), reversed(before)):
        to_canvas = resample.compose(step, to_canvas) if transform.geometry else to_canvas
        fills = transform.geometry is not None and transform.geometry.fills
        mask = jnp.where(drawn["applied"], resample.coverage(to_canvas, canvas, size), 1.0) if fills else None
        masks.append(mask)
    aligned = all(transform.geometry.axis_aligned for transform, _ in steps if transform.geometry)
    result = resample.sample(image, to_canvas, size, aligned)
    for (transform, drawn), mask in zip(steps, reversed(masks)):
        if transform.pointwise:
            result = transform.apply(result, drawn)
        elif mask is not None:
            result = result * mask
    return result
