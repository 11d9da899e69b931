"""Depthwise convolution as a sum of shifted products, for XLA's CPU backend, where a grouped convolution is slow.

A depthwise convolution has no matrix product in it: kernel side squared multiply-adds a pixel, which XLA fuses into one
vectorised loop over the image. The gradients are written out because those that follow from differentiating the sum
are several times slower to compile and to run.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

Pads = tuple[tuple[int, int], tuple[int, int]]


def depthwise_conv(inputs: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any) -> jax.Array:
    """Two-dimensional convolution of every channel with its own kernel, of stride 1.

    Args:
      inputs: [batch, height, width, channels].
      kernel: [kernel height, kernel width, 1, channels].
      strides: (1, 1).
      padding: "SAME", "VALID" or ((low, high), (low, high)).

    Returns:
      [batch, height', width', channels] in the inputs' type; the sum is taken in float32 at least.

    Raises:
      NotImplementedError: another stride, or several features a channel.
    """
    if tuple(strides) != (1, 1) or kernel.shape[2:] != (1, inputs.shape[3]):
        raise NotImplementedError("depthwise_conv takes stride 1 and one feature for each channel")
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
    (top, bottom), (left, right) = padding
    return _correlate(((top, bottom), (left, right)), inputs, kernel)


def _taps(pads: Pads, x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
    """What each pixel of the kernel sees: shifted copies of x, in at least float32."""
    rows, columns = kernel.shape[:2]
    x = jnp.pad(x.astype(jnp.promote_types(x.dtype, jnp.float32)), ((0, 0), *pads, (0, 0)))
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    return [x[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _correlate(pads: Pads, x: jax.Array, kernel: jax.Array) -> jax.Array:
    weights = kernel.reshape(-1, kernel.shape[3])
    products = (tap * weight for tap, weight in zip(_taps(pads, x, kernel), weights, strict=True))
    return functools.reduce(jnp.add, products).astype(x.dtype)


def _forward(pads: Pads, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _correlate(pads, x, kernel), (x, kernel)


def _backward(pads: Pads, residuals: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    # With respect to the image: the same with the kernel turned, and the padding that the image's lacked.
    (top, bottom), (left, right) = pads
    rows, columns = kernel.shape[0] - 1, kernel.shape[1] - 1
    rest = ((rows - top, rows - bottom), (columns - left, columns - right))
    to_x = _correlate(rest, g, kernel[::-1, ::-1])
    # With respect to the kernel: a sum over batch and pixels for each tap. As one reduction of many operands their
    # chains of additions run side by side; one reduction after another waits for each addition.
    products = [tap * g for tap in _taps(pads, x, kernel)]
    zeros = [jnp.zeros((), product.dtype) for product in products]
    sums = jax.lax.reduce(products, zeros, lambda a, b: [p + q for p, q in zip(a, b)], (0, 1, 2))
    return to_x, jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


_correlate.defvjp(_forward, _backward)
