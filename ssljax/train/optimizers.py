"""Update rules and schedules, built from optax parts so that learning rate, decay and momentum may be traced.

A rule here gives the direction of descent; `learning_rate` gives the factor that multiplies it. optax's own `lars` is
no paper's LARS (it scales by the learning rate before momentum), so both forms in use are written out.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Tree = Any

# Rule -> the traced values that it reads besides learning rate and weight decay.
OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "adam": (),
    "adamw": (),
    "lars": ("momentum",),
    "lars_solo": ("momentum",),
    "lars_solo_unclipped": ("momentum",),
}


def rule(name: str, hyper: dict[str, Any], rates: Tree) -> optax.GradientTransformation:
    """The direction of an optimiser, to be multiplied by minus the learning rate.

    Args:
      name: a key of `OPTIMIZERS`. "sgd" and "adam" add the decay to the gradient, as PyTorch's do; "adamw" decouples it;
        "lars" is MIRA's, VICReg's and Barlow Twins' form, "lars_solo" solo-learn's, with or without its clip.
      hyper: `weight_decay` and what `OPTIMIZERS` names; arrays or tracers.
      rates: the learning rate of each array in this step, a tree like the parameters; only "lars_solo" reads it, for its clip.
    """
    decay = hyper["weight_decay"]
    if name == "adam":
        return optax.chain(optax.add_decayed_weights(decay), optax.scale_by_adam())
    if name == "adamw":
        return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(decay))
    momentum = optax.trace(hyper["momentum"])
    if name == "sgd":
        return optax.chain(optax.add_decayed_weights(decay), momentum)
    if name == "lars":
        return optax.chain(_per_matrix(lambda g, p, _: lars_direction(g, p, decay), rates), momentum)
    if name == "lars_solo_unclipped":
        return optax.chain(_per_matrix(lambda g, p, _: lars_solo_direction(g, p, decay, None), rates), momentum)
    return optax.chain(_per_matrix(lambda g, p, rate: lars_solo_direction(g, p, decay, rate), rates), momentum)


def lars_direction(gradient: jax.Array, param: jax.Array, decay: jax.Array, eta: float = 1e-3) -> jax.Array:
    """r (g + wd p), r = eta |p| / |g + wd p|, or 1 where either norm is 0 (You et al., 2017; VICReg's and MIRA's code)."""
    gradient = gradient + decay * param
    p, g = jnp.linalg.norm(param), jnp.linalg.norm(gradient)
    return gradient * jnp.where((p > 0) & (g > 0), eta * p / jnp.where(g > 0, g, 1.0), 1.0)


def lars_solo_direction(
    gradient: jax.Array, param: jax.Array, decay: jax.Array, learning_rate: jax.Array | None, eta: float = 0.02
) -> jax.Array:
    """c (g + wd p): solo-learn's LARS with its eta.

    With r = eta |p| / (|g| + wd |p| + 1e-8), c is min(r / learning rate, 1), or r where `learning_rate` is None (no clip).
    Where a norm is 0 it is the plain gradient, without decay.
    """
    p, g = jnp.linalg.norm(param), jnp.linalg.norm(gradient)
    ratio = eta * p / (g + decay * p + 1e-8)
    if learning_rate is not None:
        # A warm-up may start at 0; r / lr is then unbounded and the clip gives 1.
        ratio = jnp.minimum(ratio / jnp.maximum(learning_rate, 1e-30), 1.0)
    return jnp.where((p > 0) & (g > 0), ratio * (gradient + decay * param), gradient)


def _per_matrix(
    direction: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], rates: Tree
) -> optax.GradientTransformation:
    """Applies `direction` to arrays of two or more axes; biases and norms keep the plain gradient and do not decay."""

    def one(gradient: jax.Array, param: jax.Array, rate: jax.Array) -> jax.Array:
        return direction(gradient, param, rate) if param.ndim > 1 else gradient

    return optax.stateless(lambda gradients, params: jax.tree.map(one, gradients, params, rates))


def hold(rule: optax.GradientTransformation, mask: Tree, new: Tree, old: Tree) -> Tree:
    """The optimiser's new state, but the old one for arrays whose mask (0 or 1, a tree like the parameters) is 0.

    As PyTorch passes over a parameter without gradient: neither momentum nor second moments move. Adam's count of steps is one
    for all arrays and does move.
    """
    moves = optax.tree_utils.tree_map_params(rule, lambda _, m: m, new, mask, transform_non_params=lambda _: 1.0)
    return jax.tree.map(lambda m, a, b: jnp.where(m > 0, a, b), moves, new, old)


def learning_rate(
    peak: jax.Array,
    step: jax.Array,
    *,
    total_steps: jax.Array | float,
    warmup_steps: jax.Array,
    start: jax.Array,
    end: jax.Array,
) -> jax.Array:
    """Linear warm-up from `start` to `peak`, then half a cosine to `end` at `total_steps` (solo-learn's schedule, per step).

    A peak below `start` (a swept 0, say) starts at itself, one below `end` ends at itself.
    """
    step = jnp.asarray(step, jnp.float32)
    start, end = jnp.minimum(start, peak), jnp.minimum(end, peak)
    warmup = start + (peak - start) * step / jnp.maximum(warmup_steps, 1e-6)
    progress = jnp.clip((step - warmup_steps) / jnp.maximum(total_steps - warmup_steps, 1), 0.0, 1.0)
    return jnp.where(step < warmup_steps, warmup, end + (peak - end) * (1 + jnp.cos(jnp.pi * progress)) / 2)
