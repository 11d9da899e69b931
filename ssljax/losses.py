"""Losses: free functions of arrays that return a scalar in float32, and nothing else."""

import jax
import jax.numpy as jnp
import optax

_EPS = 1e-12  # torch.nn.functional.normalize's floor on a norm


def normalize(x: jax.Array) -> jax.Array:
    """Rows of x [..., dim] on the unit sphere, in float32; a zero row stays zero."""
    x = x.astype(jnp.float32)
    # The floor stands inside the root: the derivative of a norm at 0 would be NaN.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), _EPS**2))


def info_nce(query: jax.Array, key: jax.Array, queue: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """InfoNCE with a queue of negatives.

    Args:
      query: [batch, dim], normalised here.
      key: [batch, dim], the positive of each query, normalised here; no gradient flows into it.
      queue: [negatives, dim], unit rows; no gradient flows into it.
      temperature: T > 0.

    Returns:
      Mean over the batch of -log( exp(q.k/T) / (exp(q.k/T) + sum_j exp(q.n_j/T)) ).

    References:
      He et al., 2020 (MoCo), equation 1.
    """
    query = normalize(query)
    key, queue = jax.lax.stop_gradient((normalize(key), queue.astype(jnp.float32)))
    positive = jnp.sum(query * key, axis=-1, keepdims=True)
    logits = jnp.concatenate([positive, query @ queue.T], axis=1) / temperature
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.zeros(len(logits), jnp.int32)).mean()


def nt_xent(z1: jax.Array, z2: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Normalised temperature-scaled cross entropy over the 2N views of N images.

    Args:
      z1, z2: [batch, dim], the two views, normalised here. Gradients flow into both.
      temperature: T > 0.

    Returns:
      Mean over the 2N views of the cross entropy that picks a view's partner among the 2N - 1 others.

    References:
      Chen et al., 2020 (SimCLR), equation 1.
    """
    z = normalize(jnp.concatenate([z1, z2]))
    n = len(z1)
    logits = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, z @ z.T / temperature)
    partner = jnp.concatenate([jnp.arange(n, 2 * n), jnp.arange(n)])
    return optax.softmax_cross_entropy_with_integer_labels(logits, partner).mean()
