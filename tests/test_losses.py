"""Every loss against float64 numpy written from the paper's equation, gradients against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import losses

rng = np.random.default_rng(0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def numpy_info_nce(q, k, queue, temperature):
    q, k = unit(q.astype(np.float64)), unit(k.astype(np.float64))
    total = 0.0
    for i in range(len(q)):
        positive = np.exp(q[i] @ k[i] / temperature)
        total -= np.log(positive / (positive + np.exp(queue @ q[i] / temperature).sum()))
    return total / len(q)


def numpy_nt_xent(z1, z2, temperature):
    z = unit(np.concatenate([z1, z2]).astype(np.float64))
    n, total = len(z1), 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = sum(np.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i)
        total -= np.log(np.exp(z[i] @ z[j] / temperature) / others)
    return total / (2 * n)


def draw(*shapes):
    return [rng.normal(size=s).astype(np.float32) for s in shapes]


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_info_nce_is_the_equation(temperature):
    q, k, queue = draw((6, 5), (6, 5), (11, 5))
    queue = unit(queue)
    expected = numpy_info_nce(q, k, queue, temperature)
    np.testing.assert_allclose(losses.info_nce(q, k, queue, temperature), expected, rtol=2e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_nt_xent_is_the_equation(temperature):
    z1, z2 = draw((6, 5), (6, 5))
    np.testing.assert_allclose(losses.nt_xent(z1, z2, temperature), numpy_nt_xent(z1, z2, temperature), rtol=2e-5)


def finite_difference(function, x, direction, eps=1e-6):
    return (function(x + eps * direction) - function(x - eps * direction)) / (2 * eps)


def test_gradients_are_the_finite_differences_of_the_equation():
    q, k, queue = draw((6, 5), (6, 5), (11, 5))
    queue, direction = unit(queue), rng.normal(size=q.shape)
    slope = finite_difference(lambda x: numpy_info_nce(x, k, queue, 0.2), q.astype(np.float64), direction)
    np.testing.assert_allclose(np.sum(jax.grad(losses.info_nce)(q, k, queue, 0.2) * direction), slope, rtol=1e-4)
    for argument, other in ((0, lambda x: numpy_nt_xent(x, k, 0.2)), (1, lambda x: numpy_nt_xent(q, x, 0.2))):
        slope = finite_difference(other, (q, k)[argument].astype(np.float64), direction)
        gradient = jax.grad(losses.nt_xent, argument)(q, k, 0.2)
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-4)


def test_no_gradient_reaches_keys_and_queue():
    q, k, queue = draw((6, 5), (6, 5), (11, 5))
    for gradient in jax.grad(losses.info_nce, (1, 2))(q, k, queue, 0.2):
        assert not np.any(gradient)


def test_collapse_gives_what_theory_gives():
    # All representations equal: every candidate is as likely, so the loss is the log of their number.
    same = jnp.ones((8, 4))
    np.testing.assert_allclose(
        losses.info_nce(same, same, losses.normalize(jnp.ones((24, 4))), 0.1), np.log(25), rtol=1e-5
    )
    np.testing.assert_allclose(losses.nt_xent(same, same, 0.1), np.log(15), rtol=1e-5)


def test_bfloat16_inputs_give_float32_losses_and_zero_rows_give_finite_gradients():
    q, k, queue = (jnp.asarray(x, jnp.bfloat16) for x in draw((6, 5), (6, 5), (11, 5)))
    assert losses.info_nce(q, k, queue, 0.2).dtype == jnp.float32
    assert losses.nt_xent(q, k, 0.2).dtype == jnp.float32
    zeros = jnp.zeros((6, 5))
    gradients = jax.grad(losses.nt_xent, (0, 1))(zeros, zeros, 0.2)
    assert np.isfinite(np.asarray(gradients)).all()


def test_normalize_is_numpys():
    (x,) = draw((7, 3))
    np.testing.assert_allclose(losses.normalize(x), unit(x.astype(np.float64)), rtol=1e-6)
    np.testing.assert_array_equal(losses.normalize(jnp.zeros((1, 3))), np.zeros((1, 3)))
