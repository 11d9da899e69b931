"""What soft labels say about the data: entropies, mutual information, the objective that MIRA minimises, and its duality gap."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy


class Information(NamedTuple):
    """Entropies of a batch's soft labels, in nats; mutual = marginal - row, from 0 to log min(n, k).

    row: the mean entropy of a row, H(label | sample); 0 for one-hot labels.
    marginal: the entropy of the mean row, H(label); 0 where all samples share one label.
    mutual: the mutual information of label and sample.
    """

    row: jax.Array
    marginal: jax.Array
    mutual: jax.Array


def mutual_information(probabilities: jax.Array, *, axis_name: str | None = None) -> Information:
    """The information that soft labels carry about which sample they belong to.

    Args:
      probabilities: [n, k]; rows sum to 1; zeros are allowed.
      axis_name: the mesh or vmap axis that the batch is spread over, if it is.

    References:
      Lee et al., 2022 (MIRA), equation 2.
    """
    probabilities = jnp.asarray(probabilities)
    p = probabilities.astype(jnp.promote_types(probabilities.dtype, jnp.float32))
    means = -jnp.mean(jnp.sum(xlogy(p, p), axis=1)), jnp.mean(p, axis=0)
    row, share = means if axis_name is None else jax.lax.pmean(means, axis_name)
    marginal = -jnp.sum(xlogy(share, share))
    return Information(row, marginal, marginal - row)


def mira_objective(
    labels: jax.Array,
    logits: jax.Array,
    *,
    temperature: jax.Array | float = 0.225,
    beta: jax.Array | float = 2 / 3,
    axis_name: str | None = None,
) -> jax.Array:
    """What MIRA minimises over labels: their mean divergence from the model's probabilities, less beta times their information.

    Args:
      labels: [n, k]; rows sum to 1.
      logits: [n, k]; the model's probabilities are softmax(logits / temperature).
      temperature, beta, axis_name: as for `mira`.

    Returns:
      A scalar, in nats: at the model's own probabilities it is -beta times their mutual information.

    References:
      Lee et al., 2022 (MIRA), equation 1 (equation 4 is the same, sorted by terms).
    """
    labels, logits = jnp.asarray(labels), jnp.asarray(logits)
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    labels = labels.astype(dtype)
    log_p = jax.nn.log_softmax(logits.astype(dtype) / temperature, axis=1)
    divergence = jnp.mean(jnp.sum(xlogy(labels, labels) - labels * log_p, axis=1))
    if axis_name is not None:
        divergence = jax.lax.pmean(divergence, axis_name)
    return divergence - beta * mutual_information(labels, axis_name=axis_name).mutual


def duality_gap(
    labels: jax.Array,
    logits: jax.Array,
    *,
    temperature: jax.Array | float = 0.225,
    beta: jax.Array | float = 2 / 3,
    axis_name: str | None = None,
) -> jax.Array:
    """How far at most the objective of some labels is above the least possible: it is 0 at MIRA's solution and nowhere else.

    The marginal's entropy is the least of -sum_j m_j log u_j over distributions u. With u held, the best labels w(u) are those
    of equation 7, so that for every u the objective of no labels is below the dual

        g(u) = -(1 - beta) mean_i log sum_j p_ij^(1/(1-beta)) u_j^(-beta/(1-beta)).

    At u = m, the labels' own marginal, their objective less g(m) is (1 - beta) mean_i KL(w_i || w_i(m)), which is computed.

    Args:
      labels: [n, k]; rows sum to 1.
      logits, temperature, beta, axis_name: as for `mira`.

    Returns:
      A scalar, in nats; float32 rounds it to some 1e-7. Entries of the marginal below the smallest normal number count as that.

    References:
      Lee et al., 2022 (MIRA), equations 4 and 7.
    """
    labels, logits = jnp.asarray(labels), jnp.asarray(logits)
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    labels = labels.astype(dtype)

    def mean(x: jax.Array) -> jax.Array:
        own = jnp.mean(x, axis=0)
        return own if axis_name is None else jax.lax.pmean(own, axis_name)

    marginal = jnp.maximum(mean(labels), jnp.finfo(dtype).tiny)
    best = jax.nn.log_softmax((logits.astype(dtype) / temperature - beta * jnp.log(marginal)) / (1 - beta), axis=1)
    return (1 - beta) * mean(jnp.sum(xlogy(labels, labels) - labels * best, axis=1))
