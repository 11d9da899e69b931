"""Resampling one image by a 3x3 matrix, and the coverage of a canvas, from coordinates alone.

A pixel i covers [i, i + 1], so its centre is at i + 1/2 (torch calls this align_corners=False). Matrices take
(x, y, 1) of the output to the input. `sample` never looks beyond the image: it repeats the border, and
`coverage` is what a bilinear sample of a canvas full of ones, with zeros around it, would be; their product
is bilinear sampling with zero fill. Two ways to sample: two small matrix products where output axes are input
axes (antialiased as Pillow's bilinear resize), four taps a pixel where they are not.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def matrix(xx: Array, xy: Array, x: Array, yx: Array, yy: Array, y: Array) -> Array:
    """The `[3, 3]` matrix of (x, y) -> (xx x + xy y + x, yx x + yy y + y)."""
    entries = jnp.stack([jnp.asarray(e, jnp.float32) for e in (xx, xy, x, yx, yy, y, 0.0, 0.0, 1.0)])
    return entries.reshape(3, 3)


def scale_and_shift(scale_x: Array, scale_y: Array, x: Array, y: Array) -> Array:
    """The matrix that scales each axis and then moves."""
    zero = jnp.zeros(())
    return matrix(scale_x, zero, x, zero, scale_y, y)


def about_centre(linear: tuple[Array, Array, Array, Array], canvas: Array, shift_x: Array, shift_y: Array) -> Array:
    """The matrix that undoes a shift, then applies `linear` (xx, xy, yx, yy) about the canvas' centre."""
    xx, xy, yx, yy = linear
    centre_y, centre_x = canvas[0] / 2, canvas[1] / 2
    x, y = centre_x + shift_x, centre_y + shift_y
    return matrix(xx, xy, centre_x - xx * x - xy * y, yx, yy, centre_y - yx * x - yy * y)


def compose(outer: Array, inner: Array) -> Array:
    """The matrix that applies `inner` first. Written out: a matrix product may lose bits on accelerators."""
    return (outer[:, :, None] * inner[None, :, :]).sum(1)


def resize_matrix(canvas: Array, size: tuple[int, int]) -> Array:
    """The matrix that shows the whole of `canvas` (height, width) at `size`."""
    return scale_and_shift(canvas[1] / size[1], canvas[0] / size[0], jnp.zeros(()), jnp.zeros(()))


def coverage(to_canvas: Array, canvas: Array, size: tuple[int, int]) -> Array:
    """How much of each output pixel lies on a canvas.

    Args:
      to_canvas: `[3, 3]`, output coordinates to those of the canvas.
      canvas: `[2]`, its height and width in pixels.
      size: (height, width) of the output.

    Returns:
      `[height, width, 1]` in [0, 1]. Where the output is at least as fine as the canvas this is bilinear
      sampling of ones with zeros around them; where it is coarser the ramp at the edge is one output pixel
      wide.
    """
    x, y = _positions(to_canvas, size)
    # How far a pixel of the output reaches along each axis of the canvas, the other coordinate held fixed.
    area = jnp.abs(to_canvas[0, 0] * to_canvas[1, 1] - to_canvas[0, 1] * to_canvas[1, 0])
    reach_x, reach_y = area / jnp.linalg.norm(to_canvas[1, :2]), area / jnp.linalg.norm(to_canvas[0, :2])
    return (_on_axis(x, canvas[1], reach_x) * _on_axis(y, canvas[0], reach_y))[:, :, None]


def _on_axis(position: Array, side: Array, reach: Array) -> Array:
    ramp = jnp.maximum(reach, 1.0)
    return jnp.clip(0.5 + position / ramp, 0, 1) * jnp.clip(0.5 + (side - position) / ramp, 0, 1)


def sample(image: Array, to_image: Array, size: tuple[int, int], axis_aligned: bool) -> Array:
    """Samples an image at the centres of the output's pixels, repeating its border outside.

    Args:
      image: `[height, width, channels]`.
      to_image: `[3, 3]`, output coordinates to those of the image.
      size: (height, width) of the output.
      axis_aligned: a promise that the matrix has no terms off its diagonal but the shift.

    Returns:
      `[*size, channels]`. Shrinking is antialiased: with a triangle filter as wide as the shrinking where
      axes are aligned, else with the mean of as many samples a side as the image is larger than the output.
    """
    if axis_aligned:
        rows = _axis_weights(to_image[1, 1], to_image[1, 2], image.shape[0], size[0])
        columns = _axis_weights(to_image[0, 0], to_image[0, 2], image.shape[1], size[1])
        return separable(image, rows, columns)
    fine = max(1, round(max(image.shape[0] / size[0], image.shape[1] / size[1])))
    if fine == 1:
        return bilinear(image, *_positions(to_image, size))
    finer = compose(to_image, scale_and_shift(*map(jnp.float32, (1 / fine, 1 / fine, 0.0, 0.0))))
    sampled = bilinear(image, *_positions(finer, (size[0] * fine, size[1] * fine)))
    return sampled.reshape(size[0], fine, size[1], fine, -1).mean((1, 3))


def separable(image: Array, rows: Array, columns: Array) -> Array:
    """Mixes the rows of an image by `rows` `[out, height]` and its columns by `columns` `[out, width]`."""
    # Pixels pass through here unweighted too (scale 1), and a TF32 product would round them.
    tall = jnp.einsum("oh,hwc->owc", rows, image, precision="highest")
    return jnp.einsum("pw,owc->opc", columns, tall, precision="highest")


def _axis_weights(scale: Array, shift: Array, given: int, wanted: int) -> Array:
    """`[wanted, given]` weights of a triangle filter, rows summing to 1 (to 0 far outside)."""
    centre = scale * (jnp.arange(wanted) + 0.5) + shift
    width = jnp.maximum(jnp.abs(scale), 1.0)
    distance = jnp.abs(jnp.arange(given) + 0.5 - centre[:, None]) / width
    weights = jnp.maximum(1.0 - distance, 0.0)
    total = weights.sum(1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


def _positions(to_canvas: Array, size: tuple[int, int]) -> list[Array]:
    """(x, y) on the canvas of the centre of each output pixel, each `[height, width]`."""
    y, x = jnp.arange(size[0])[:, None] + 0.5, jnp.arange(size[1])[None, :] + 0.5
    return [row[0] * x + row[1] * y + row[2] for row in to_canvas[:2]]


def bilinear(image: Array, x: Array, y: Array) -> Array:
    """The image at the points (x, y), its border repeated outside: `[*x.shape, channels]` for points of one shape."""
    height, width, channels = image.shape
    shape = x.shape
    x = jnp.clip(x - 0.5, 0, width - 1)
    y = jnp.clip(y - 0.5, 0, height - 1)
    # The left tap stays one short of the border, so that the right one is always its neighbour.
    left = jnp.minimum(jnp.floor(x), max(width - 2, 0))
    top = jnp.minimum(jnp.floor(y), max(height - 2, 0))
    across, down = (x - left).reshape(-1, 1), (y - top).reshape(-1, 1)
    start = (top * width + left).astype(jnp.int32).reshape(-1)
    right, below = min(width - 1, 1), width * min(height - 1, 1)
    flat = image.reshape(height * width, channels)

    # Four gathers of whole pixels, which XLA fuses with the weighting: .6 ms for 256 images of 32x32x1 on two
    # CPU cores, where one gather of all taps takes 25 ms.
    def tap(offset: int) -> Array:
        return flat.at[start + offset].get(mode="clip")

    above = (1 - across) * tap(0) + across * tap(right)
    under = (1 - across) * tap(below) + across * tap(below + right)
    return ((1 - down) * above + down * under).reshape(*shape, channels)
