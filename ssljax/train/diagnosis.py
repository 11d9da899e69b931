"""What went wrong in a step whose loss, gradient or new weights are not finite: the first tensor of it that is not."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


class Examined(NamedTuple):
    """What a step takes and makes, in the order in which it does.

    Attributes:
      weights, memory, statistics: of the run before the step.
      views: in the order of the plan.
      terms: the method's own numbers, of which the loss is made.
      loss, gradients: of the step.
      updates: the weights after the step.
    """

    weights: Tree
    memory: Tree
    statistics: Tree
    views: Tree
    terms: Tree
    loss: Tree
    gradients: Tree
    updates: Tree


_TITLES = {"statistics": "batch statistics", "terms": "terms of the loss", "updates": "weights after the step"}


def finite(examined: Examined) -> Examined:
    """Whether each tensor is finite, and so short that its length is too, in its place."""

    def sound(leaf: jax.Array) -> jax.Array:
        return jnp.isfinite(jnp.square(leaf).sum()) if jnp.issubdtype(leaf.dtype, jnp.inexact) else jnp.array(True)

    return jax.tree.map(sound, examined)


def first_not_finite(sound: Examined) -> str:
    """The first tensor that is not finite, in words; "" where all are.

    Args:
      sound: of one run, from `finite`.

    Returns:
      Such as "gradients, backbone/conv1/kernel (and 11 more of 12)". Within a part tensors stand in the order of their paths.
    """
    for part, tree in zip(Examined._fields, sound):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        bad = [path for path, good in leaves if not np.all(good)]
        if bad:
            name, more = _path(bad[0]), len(bad) - 1
            others = f" (and {more} more of {len(leaves)})" if more else ""
            return f"{_TITLES.get(part, part)}{f', {name}' if name else ''}{others}"
    return ""


def _path(path: Sequence[Any]) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)
