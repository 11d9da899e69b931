"""Convolution as matrix products: its four forms, value and gradients, against XLA's own; the pool against scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.measure import block_reduce

from ssljax.models import convolution
from ssljax.models.convolution import conv_as_matmul
from ssljax.models.layers import max_pool

# height and width, kernel, stride, padding, and the form that they are meant to take
CASES = [
    ((1, 1), (3, 3), 1, ((1, 1), (1, 1)), "_dense"),
    ((2, 2), (3, 3), 1, ((1, 1), (1, 1)), "_dense"),
    ((2, 2), (3, 3), 2, ((1, 1), (1, 1)), "_dense"),
    ((2, 3), (7, 7), 2, ((3, 3), (3, 3)), "_dense"),
    *(
        (size, window, 1, pads, form)
        for form in ("_banded", "_columns_and_rows")
        for size, window, pads in (
            ((5, 7), (3, 3), ((1, 1), (1, 1))),
            ((5, 7), (3, 2), ((2, 0), (1, 1))),
            ((6, 6), (5, 5), ((2, 2), (2, 2))),
            ((9, 8), (3, 3), ((0, 0), (0, 0))),
            ((4, 4), (3, 3), ((2, 2), (2, 2))),
        )
    ),
    ((8, 8), (3, 3), 2, ((1, 1), (1, 1)), "_patches"),
    ((8, 8), (1, 1), 2, ((0, 0), (0, 0)), "_patches"),
    ((16, 16), (7, 7), 4, ((2, 2), (2, 2)), "_patches"),
]


@pytest.mark.parametrize(("size", "window", "stride", "pads", "form"), CASES)
def test_value_and_gradients_equal_xlas(size, window, stride, pads, form, monkeypatch):
    taken = []
    for name in ("_dense", "_banded", "_columns_and_rows", "_patches"):
        own = getattr(convolution, name)
        monkeypatch.setattr(convolution, name, lambda *a, own=own, name=name: taken.append(name) or own(*a))
    rng = np.random.default_rng(0)
    runs, channels = 2, 8 if form == "_columns_and_rows" else 3  # under vmap over runs, as it is used
    x = jnp.asarray(rng.normal(size=(runs, 3, *size, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(runs, *window, channels, 4)), jnp.float32)

    def ours(x, kernel):
        return jax.vmap(lambda x, k: conv_as_matmul(x, k, (stride, stride), pads))(x, kernel)

    def xlas(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jnp.stack(
            [
                jax.lax.conv_general_dilated(*one, (stride, stride), pads, dimension_numbers=numbers)
                for one in zip(x, kernel)
            ]
        )

    (actual, back), (expected, back_expected) = jax.vjp(ours, x, kernel), jax.vjp(xlas, x, kernel)
    assert set(taken) == {form}
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    weights = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)
    for one, other in zip(back(weights), back_expected(weights)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-4)


def test_a_dense_map_leaves_out_the_taps_that_only_see_the_border():
    # At one pixel a padded 3x3 kernel is its centre: a ninth of the products.
    x, kernel = jnp.ones((4, 1, 1, 8)), jnp.ones((3, 3, 8, 16))
    cost = jax.jit(lambda x, k: conv_as_matmul(x, k, (1, 1), ((1, 1), (1, 1)))).lower(x, kernel).cost_analysis()
    assert cost["flops"] < 2 * 4 * 8 * 16 * 2


def test_max_pool_equals_block_maxima_and_gives_the_gradient_to_the_maximum():
    rng = np.random.default_rng(0)
    x = rng.permutation(2 * 6 * 8 * 3).reshape(2, 6, 8, 3).astype(np.float32)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), 2, 2), block_reduce(x, (1, 2, 2, 1), np.max))
    gradient = jax.grad(lambda x: (max_pool(x, 2, 2) * 3).sum())(jnp.asarray(x))
    upsampled = block_reduce(x, (1, 2, 2, 1), np.max).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(gradient, np.where(x == upsampled, 3, 0))


@pytest.mark.parametrize(("window", "stride", "padding", "side"), [(3, 2, 1, 9), (3, 2, 0, 8), (2, 2, 0, 7)])
def test_max_pool_of_overlapping_windows_equals_flaxs(window, stride, padding, side):
    from flax import linen as nn

    x = jnp.asarray(
        np.random.default_rng(0).normal(size=(2, side, side, 3)) - 5, jnp.float32
    )  # below the zeros of a border

    def flaxs(x):
        return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding),) * 2)

    def ours(x):
        return max_pool(x, window, stride, padding)

    np.testing.assert_array_equal(ours(x), flaxs(x))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=flaxs(x).shape), jnp.float32)
    one, other = (jax.grad(lambda x, f=f: (f(x) * weights).sum())(x) for f in (ours, flaxs))
    np.testing.assert_allclose(one, other, atol=1e-6)
