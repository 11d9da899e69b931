"""Iterative normalisation against Newton's iteration on eigenvalues in float64, and whiteness itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.errors import UserError
from ssljax.models.layers import iterative_normalization

rng = np.random.default_rng(0)


def numpy_iterative_normalization(x, group_size, iterations, eps=1e-5):
    """P_t has the eigenvectors of S, so Newton's iteration acts on each eigenvalue alone: p <- (3p - p^3 s) / 2."""
    groups = []
    for start in range(0, x.shape[1], group_size):
        centred = x[:, start : start + group_size] - x[:, start : start + group_size].mean(axis=0)
        values, vectors = np.linalg.eigh(centred.T @ centred / len(x) + eps * np.eye(group_size))
        trace, p = values.sum(), np.ones(group_size)
        for _ in range(iterations):
            p = (3 * p - p**3 * values / trace) / 2
        groups.append(centred @ (vectors * p) @ vectors.T / np.sqrt(trace))
    return np.concatenate(groups, axis=1)


def correlated(n, dim, group_size):
    """Rows whose groups have covariances of condition number about 10."""
    mix = np.eye(group_size) + 0.5 * rng.normal(size=(dim // group_size, group_size, group_size)) / group_size**0.5
    x = np.einsum("ngi,gij->ngj", rng.normal(size=(n, dim // group_size, group_size)), mix).reshape(n, dim)
    return (x + 3).astype(np.float32)


X = correlated(256, 24, 8)
normalise = jax.jit(iterative_normalization, static_argnums=(1, 2))


@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_iterations_are_newtons(iterations):
    expected = numpy_iterative_normalization(X.astype(np.float64), 8, iterations)
    np.testing.assert_allclose(normalise(X, 8, iterations), expected, rtol=1e-4, atol=1e-5)


def test_many_iterations_whiten():
    y = np.asarray(normalise(X, 8, 30), np.float64)  # thrice as many as it takes: rounding must not grow either
    np.testing.assert_allclose(y.mean(axis=0), np.zeros(24), atol=1e-5)
    for start in range(0, 24, 8):
        block = y[:, start : start + 8]
        np.testing.assert_allclose(block.T @ block / len(y), np.eye(8), atol=1e-4)  # eps over the least eigenvalue
    assert np.abs(X.T @ X / len(X) - np.eye(24)).max() > 1  # which it was far from


def test_a_group_is_whitened_by_itself():
    changed = X.copy()
    changed[:, 8:16] = rng.normal(size=(256, 8))
    before, after = np.asarray(normalise(X, 8, 5)), np.asarray(normalise(changed, 8, 5))
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    np.testing.assert_array_equal(before[:, 16:], after[:, 16:])
    assert np.abs(before[:, 8:16] - after[:, 8:16]).max() > 0.1


def test_gradients_are_finite_differences_of_newtons_iteration():
    weights, direction = rng.normal(size=X.shape), rng.normal(size=X.shape)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(iterative_normalization(x, 8) * weights)))(X)

    def along(step):
        return np.sum(numpy_iterative_normalization(X + step * direction, 8, 5) * weights)

    np.testing.assert_allclose(np.sum(gradient * direction), (along(1e-6) - along(-1e-6)) / 2e-6, rtol=1e-4)


@pytest.mark.parametrize("x", [np.zeros((16, 32)), np.full((16, 32), 0.1), rng.normal(size=(4, 32))])
def test_degenerate_batches_give_finite_values_and_gradients(x):
    """All rows zero, all rows equal, fewer rows than features: eps alone keeps the covariance regular."""
    weights = rng.normal(size=x.shape)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(iterative_normalization(x) * weights))(jnp.float32(x))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_bfloat16_is_computed_in_float32():
    x = jnp.asarray(X, jnp.bfloat16)
    y = normalise(x, 8, 5)
    assert y.dtype == jnp.float32
    expected = numpy_iterative_normalization(np.asarray(x, np.float64), 8, 5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_groups_that_do_not_divide_the_features_are_refused():
    with pytest.raises(UserError, match="24 features.*group_size=32"):
        iterative_normalization(X)
