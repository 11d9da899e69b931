"""What a method is: a NamedTuple of pure functions over explicit state, in the shape of optax's gradient transformations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Tree = Any
"""A pytree of arrays."""


class View(NamedTuple):
    """One view that a method asks for: which of the set's views draws it, and the side of the image in pixels."""

    source: str  # "view1" or "view2"
    size: int


class Batch(NamedTuple):
    """What a loss sees: the views in the order of the plan, each [batch, size, size, channels], and the images' indices."""

    views: tuple[jax.Array, ...]
    index: jax.Array  # type: ignore[assignment]  # also a method of tuple, which nobody calls on a batch


class Method(NamedTuple):
    """A self-supervised method for one run.

    Attributes:
      views: the plan: which views a step draws.
      init: (key, views) -> (params, stats, memory). Stats are batch statistics; memory is what the method carries between
        steps besides them: queue, target, centre, bank.
      loss: (params, stats, memory, batch, hyper, step, key) -> (scalar, (stats, memory, metrics)); differentiable in params.
      update: (params, memory, hyper, step) -> memory, after the optimiser: EMA targets and the like.
      encode: (params, stats, images) -> features [batch, dim] of the backbone in evaluation mode, before any head.
      trainable: (params, step, hyper) -> tree of 0/1 that multiplies the *update*: what may move now.
      on_epoch: (params, memory, key) -> memory, at the start of each epoch.
    """

    views: tuple[View, ...]
    init: Callable[[jax.Array, tuple[jax.Array, ...]], tuple[Tree, Tree, Tree]]
    loss: Callable[..., tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]]
    update: Callable[[Tree, Tree, Tree, jax.Array], Tree]
    encode: Callable[[Tree, Tree, jax.Array], jax.Array]
    trainable: Callable[[Tree, jax.Array, Tree], Tree] | None = None
    on_epoch: Callable[[Tree, Tree, jax.Array], Tree] | None = None


def two_global_views(image_size: int) -> tuple[View, View]:
    """The plan of most methods: one full-size view from each side of the transform set."""
    return View("view1", image_size), View("view2", image_size)


def cosine_tau(base: jax.Array, final: jax.Array, step: jax.Array, total_steps: int) -> jax.Array:
    """EMA coefficient that goes from base at step 0 to final at the last step by half a cosine (BYOL, section 3.2)."""
    progress = jnp.clip(step / max(total_steps - 1, 1), 0.0, 1.0)
    return final - (final - base) * (1 + jnp.cos(jnp.pi * progress)) / 2


def ema(target: Tree, params: Tree, tau: jax.Array) -> Tree:
    """tau x target + (1 - tau) x params, leaf by leaf."""
    return jax.tree.map(lambda t, p: tau * t + (1 - tau) * p, target, params)


def keep(params: Tree, memory: Tree, hyper: Tree, step: jax.Array) -> Tree:
    """The `update` of a method that keeps nothing besides its weights."""
    del params, hyper, step
    return memory
