"""Convolution as matrix products, in the place of `jax.lax.conv_general_dilated`.

A convolution inside `vmap` over runs becomes a grouped convolution, and one inside `scan` leaves the fast path of
XLA's CPU backend altogether. Here the same function is a (batched) matrix product, which stays one in both places. Which product
depends on the shapes alone:

* the map has fewer pixels than the kernel (the last stages of a small network): one dense matrix from all input pixels to
  all output pixels, with the kernel's elements at their places; taps that only ever see the border are never multiplied;
* few channels (the first layer of small images): a row of pixels as one vector, times the banded matrix that a row of the kernel
  is. Patches of a handful of numbers are too short for vector instructions; the zeros between the bands cost less;
* stride 1: columns of the kernel as patches, rows as outputs that are added up afterwards. It moves kernel width + kernel
  height copies of a map through memory where whole patches move their product, and memory bounds a small network on CPU;
* else: patches times a matrix.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.models.depthwise import depthwise_conv

ConvGeneralDilated = Callable[..., jax.Array]
Pads = tuple[tuple[int, int], tuple[int, int]]
Precision = Any

# A row of the kernel that does not fill a vector register (16 float32 with AVX512) is multiplied as a banded matrix, as long as
# the row of pixels is no wider than this: the zeros multiply the products by the row's width over the kernel's.
LANES, WIDEST = 16, 32


def conv_as_matmul(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Any,
    *,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Precision = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Two-dimensional convolution as matrix products.

    Drop-in for `jax.lax.conv_general_dilated` as `flax.linen.Conv` calls it, for undilated, ungrouped kernels; a depthwise
    convolution goes to `depthwise_conv`. Differentiable in reverse mode.

    Args:
      inputs: [batch, height, width, channels].
      kernel: [kernel height, kernel width, channels, features].
      strides: two window strides.
      padding: "SAME", "VALID" or ((low, high), (low, high)).

    Returns:
      [batch, height', width', features].
    """
    del dimension_numbers, batch_group_count, preferred_element_type  # flax passes NHWC/HWIO and the defaults
    dilated = any(d != 1 for ds in (lhs_dilation, rhs_dilation) for d in (ds or ()))
    if feature_group_count == inputs.shape[-1] > 1 and not dilated:
        return depthwise_conv(inputs, kernel, strides, padding)
    if feature_group_count != 1 or dilated:
        raise NotImplementedError("conv_as_matmul takes undilated convolutions with one feature group")
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
    (top, bottom), (left, right) = padding
    pads = ((top, bottom), (left, right))
    stride_y, stride_x = strides
    if inputs.shape[1] * inputs.shape[2] < kernel.shape[0] * kernel.shape[1]:
        return _dense(inputs, kernel, (stride_y, stride_x), pads, precision)
    single = stride_y == stride_x == 1 and min(kernel.shape[:2]) > 1
    if single and kernel.shape[1] * kernel.shape[2] < LANES and inputs.shape[2] <= WIDEST:
        return _banded(inputs, kernel, pads, precision)
    if single:
        return _columns_and_rows(pads, precision, inputs, kernel)
    return _patches(inputs, kernel, (stride_y, stride_x), pads, precision)


def _patches(
    inputs: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: Pads, precision: Precision
) -> jax.Array:
    kernel_height, kernel_width, channels, features = kernel.shape
    stride_y, stride_x = strides
    padded = jnp.pad(inputs, ((0, 0), *pads, (0, 0)))
    height = (padded.shape[1] - kernel_height) // stride_y + 1
    width = (padded.shape[2] - kernel_width) // stride_x + 1
    patches = jnp.concatenate(
        [
            padded[:, y : y + stride_y * (height - 1) + 1 : stride_y, x : x + stride_x * (width - 1) + 1 : stride_x]
            for y in range(kernel_height)
            for x in range(kernel_width)
        ],
        axis=-1,
    )
    return _dot(patches, kernel.reshape(kernel_height * kernel_width * channels, features), precision)


def _dense(
    inputs: jax.Array, kernel: jax.Array, strides: tuple[int, int], pads: Pads, precision: Precision
) -> jax.Array:
    batch, height, width, channels = inputs.shape
    kernel_height, kernel_width, _, features = kernel.shape
    out_height = (height + sum(pads[0]) - kernel_height) // strides[0] + 1
    out_width = (width + sum(pads[1]) - kernel_width) // strides[1] + 1
    nothing = jnp.zeros((channels, features), kernel.dtype)

    def element(i: int, j: int, y: int, x: int) -> jax.Array:
        """What input pixel (i, j) gives to output pixel (y, x)."""
        row, column = i + pads[0][0] - strides[0] * y, j + pads[1][0] - strides[1] * x
        return kernel[row, column] if 0 <= row < kernel_height and 0 <= column < kernel_width else nothing

    outputs = list(product(range(out_height), range(out_width)))
    matrix = jnp.block([[element(i, j, y, x) for y, x in outputs] for i in range(height) for j in range(width)])
    flat = _dot(inputs.reshape(batch, height * width * channels), matrix, precision)
    return flat.reshape(batch, out_height, out_width, features)


def _banded(inputs: jax.Array, kernel: jax.Array, pads: Pads, precision: Precision) -> jax.Array:
    kernel_height, kernel_width, channels, features = kernel.shape
    padded = jnp.pad(inputs, ((0, 0), *pads, (0, 0)))
    batch, _, width, _ = padded.shape
    out_height, out_width = padded.shape[1] - kernel_height + 1, width - kernel_width + 1
    rows = padded.reshape(batch, -1, width * channels)
    seen = jnp.concatenate([rows[:, i : i + out_height] for i in range(kernel_height)], axis=-1)
    # band[a, b, j] is 1 where tap j of the output pixel b is the pixel a of the padded row.
    taps = np.arange(width)[:, None] - np.arange(out_width)
    band = (taps[..., None] == np.arange(kernel_width)).astype(kernel.dtype)
    matrix = jnp.einsum("abj,ijcf->iacbf", band, kernel, precision=jax.lax.Precision.HIGHEST)
    matrix = matrix.reshape(kernel_height * width * channels, out_width * features)
    return _dot(seen, matrix, precision).reshape(batch, out_height, out_width, features)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _columns_and_rows(pads: Pads, precision: Precision, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _forward(pads, precision, x, kernel)[0]


def _forward(pads: Pads, precision: Precision, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    kernel_height, kernel_width, channels, features = kernel.shape
    patches = _shifted(x, kernel_width, pads[1], axis=2)  # [batch, height, width', kernel width x channels]
    matrix = kernel.transpose(1, 2, 0, 3).reshape(kernel_width * channels, kernel_height * features)
    rows = jnp.split(_dot(patches, matrix, precision), kernel_height, axis=-1)
    out = reduce(jnp.add, (_shift(row, i, kernel_height, pads[0], axis=1) for i, row in enumerate(rows)))
    return out, (patches, kernel)


def _backward(pads: Pads, precision: Precision, residuals: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    patches, kernel = residuals
    kernel_height, kernel_width, channels, features = kernel.shape
    # With respect to the image: the same with the kernel turned, and the padding that the image's lacked.
    rest_y, rest_x = (
        (size - 1 - low, size - 1 - high) for size, (low, high) in zip(kernel.shape[:2], pads, strict=True)
    )
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    to_x, _ = _forward((rest_y, rest_x), precision, g, turned)
    # With respect to the kernel: every column patch with the output row that it gave to.
    rows = _shifted(g, kernel_height, rest_y, axis=1)
    every = tuple(range(g.ndim - 1))
    matrix = jax.lax.dot_general(patches, rows, ((every, every), ((), ())), precision=precision)
    to_kernel = matrix.reshape(kernel_width, channels, kernel_height, features).transpose(2, 0, 1, 3)[::-1]
    return to_x, to_kernel


_columns_and_rows.defvjp(_forward, _backward)


def _shifted(x: jax.Array, count: int, pads: tuple[int, int], axis: int) -> jax.Array:
    """All `count` shifts along an axis, side by side in the last."""
    return jnp.concatenate([_shift(x, i, count, pads, axis) for i in range(count)], axis=-1)


def _shift(x: jax.Array, tap: int, count: int, pads: tuple[int, int], axis: int) -> jax.Array:
    """What the tap of a kernel of `count` sees along an axis that is padded by `pads`: zeros beyond the border."""
    low, high = pads
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (low - tap, high - (count - 1 - tap), 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)


def _dot(x: jax.Array, matrix: jax.Array, precision: Precision) -> jax.Array:
    return jax.lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())), precision=precision)


CONVOLUTIONS: dict[str, ConvGeneralDilated] = {"lax": jax.lax.conv_general_dilated, "matmul": conv_as_matmul}
