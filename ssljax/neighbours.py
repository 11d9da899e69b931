"""The nearest neighbours of every row among all others, on the device, for features that need not fit in memory."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

_QUERIES, _BANK = 2048, 8192  # rows compared at a time: their similarities take 64 MiB (our choice)


@partial(jax.jit, static_argnames="total")
def _nearer(
    best: jax.Array,
    index: jax.Array,
    rows: jax.Array,
    queries: jax.Array,
    first: jax.Array,
    bank: jax.Array,
    total: int,
) -> tuple[jax.Array, jax.Array]:
    """The most similar rows of those found so far and of a bank that starts at row `first`; a row is no neighbour of itself."""

    def unit(x: jax.Array) -> jax.Array:
        length = jnp.linalg.norm(x, axis=1, keepdims=True)
        return x / jnp.where(length > 0, length, 1)

    similarity = jnp.matmul(unit(queries), unit(bank).T, precision=jax.lax.Precision.HIGHEST)
    at = first + jnp.arange(len(bank))
    hidden = (at[None] == rows[:, None]) | (at >= total)[None]
    count = best.shape[1]
    values, places = jax.lax.top_k(jnp.where(hidden, -jnp.inf, similarity), min(count, len(bank)))
    values, order = jax.lax.top_k(jnp.concatenate([best, values], 1), count)
    return values, jnp.take_along_axis(jnp.concatenate([index, at[places]], 1), order, axis=1)


def nearest(features: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of the most similar other rows, and their cosines, by comparing every pair of rows on the device.

    Args:
      features: [n, d]; a memory map, say.
      count: from 1 to n - 1.

    Yields:
      int32 and float32 [at most 2048, count], most similar first, in the order of the rows. Of equal ones the first counts.
    """
    total = len(features)
    queries, bank = min(_QUERIES, total), min(_BANK, total)

    def block(start: int, size: int) -> np.ndarray:
        rows = np.asarray(features[start : start + size])
        return np.pad(rows, ((0, size - len(rows)), (0, 0)))  # all of one shape: one compilation

    for start in range(0, total, queries):
        rows, asked = start + jnp.arange(queries), jnp.asarray(block(start, queries))
        best, index = jnp.full((queries, count), -jnp.inf), jnp.zeros((queries, count), jnp.int32)
        for first in range(0, total, bank):
            best, index = _nearer(best, index, rows, asked, first, jnp.asarray(block(first, bank)), total)
        own = min(queries, total - start)
        yield np.asarray(index[:own], np.int32), np.asarray(best[:own])
