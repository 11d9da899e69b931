"""Hard pseudo-labels: spherical k-means, and the nearest row of a queue. No gradient passes either."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Rows compared with all centroids at once: bounds the memory to _CHUNK x k, whatever the size of the set.
_CHUNK = 4096

# A product of float32 matrices is rounded to fewer bits on accelerators unless told otherwise (10 bits of TF32 on GPUs).
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class KMeans(NamedTuple):
    """A clustering of unit vectors.

    centroids: [k, d] unit rows. assignment: [n] int32, -1 for rows never seen. objective: the mean cosine of the seen
    rows to their own centroids, at most 1; 0 if none was seen.
    """

    centroids: jax.Array
    assignment: jax.Array
    objective: jax.Array


def spherical_kmeans(x: jax.Array, k: int, key: jax.Array, iterations: jax.Array | int = 10) -> KMeans:
    """Clusters unit vectors by cosine: assign each to the nearest centroid, move centroids to their members' direction.

    Starts from k random rows that were seen, all different if there are as many. A centroid without members stays. The
    objective never falls from one iteration to the next.

    Args:
      x: [n, d], unit rows; a zero row stands for one never seen: it pulls no centroid and is assigned to none.
      k: number of clusters.
      key: random key of the start.
      iterations: centroid updates, >= 0; 10 is DeepCluster v2's.

    Returns:
      The last centroids and the assignment of the rows to them.

    References:
      Dhillon and Modha, 2001; Caron et al., 2020 (SwAV), appendix, for DeepCluster v2.
    """
    x = jax.lax.stop_gradient(x.astype(jnp.float32))
    n, d = x.shape
    seen = jnp.any(x != 0, axis=1)
    count = jnp.maximum(jnp.sum(seen), 1)
    order = jnp.argsort(jnp.where(seen, jax.random.uniform(key, (n,)), jnp.inf))  # the seen rows, shuffled, come first
    start = x[order[jnp.arange(k) % count]]

    chunk = min(n, _CHUNK)
    chunks = jnp.pad(x, ((0, -n % chunk), (0, 0))).reshape(-1, chunk, d)

    def assign(centroids: jax.Array) -> tuple[jax.Array, jax.Array]:
        def assign_chunk(sums: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
            nearest_centroid = jnp.argmax(_matmul(rows, centroids.T), axis=1)
            assignment = jnp.where(jnp.any(rows != 0, axis=1), nearest_centroid, -1)
            # A product with a one-hot matrix, whose row for -1 is zero: a scatter-add on a GPU has no fixed order of
            # summation, and a resumed run would differ.
            return sums + _matmul(jax.nn.one_hot(assignment, k, axis=0), rows), assignment

        sums, assignment = jax.lax.scan(assign_chunk, jnp.zeros((k, d)), chunks)
        return sums, assignment.reshape(-1)[:n]

    def update(_: jax.Array, centroids: jax.Array) -> jax.Array:
        sums, _ = assign(centroids)
        norm = jnp.linalg.norm(sums, axis=1, keepdims=True)
        return jnp.where(norm > 0, sums / jnp.where(norm > 0, norm, 1), centroids)

    centroids = jax.lax.fori_loop(0, iterations, update, start)
    sums, assignment = assign(centroids)
    return KMeans(centroids, assignment.astype(jnp.int32), jnp.sum(sums * centroids) / count)


def nearest(x: jax.Array, queue: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The row of a queue with the largest dot product with each row of x.

    Args:
      x: [n, d]; its norm does not matter.
      queue: [q, d], unit rows.

    Returns:
      The rows [n, d] in float32 and their indices [n].

    References:
      Dwibedi et al., 2021 (NNCLR), equation 4.
    """
    x, queue = jax.lax.stop_gradient((x.astype(jnp.float32), queue.astype(jnp.float32)))
    index = jnp.argmax(_matmul(x, queue.T), axis=1)
    return queue[index], index
