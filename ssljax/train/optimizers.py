"""Update rules and schedules, built from optax parts so that learning rate, decay and momentum may be traced.

A rule here gives the direction of descent; `learning_rate` gives the factor that multiplies it. optax's own `lars` is
no paper's LARS (it scales by the learning rate before momentum), so both forms in use are written out.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

# Rule -> the traced values that it reads besides learning rate and weight decay.
OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "adam": (),
    "adamw": (),
    "lars": ("momentum",),
    "lars_solo": ("momentum",),
}

WARMUP_START = 3e-5  # solo-learn's `warmup_start_lr`


def rule(name: str, hyper: dict[str, Any], learning_rate: jax.Array) -> optax.GradientTransformation:
    """The direction of an optimiser, to be multiplied by minus the learning rate.

    Args:
      name: a key of `OPTIMIZERS`. "sgd" and "adam" add the decay to the gradient, as PyTorch's do; "adamw" decouples it;
        "lars" is MIRA's, VICReg's and Barlow Twins' form, "lars_solo" solo-learn's.
      hyper: `weight_decay` and what `OPTIMIZERS` names; arrays or tracers.
      learning_rate: of this step; only "lars_solo" reads it, for its clip.
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
        return optax.chain(_per_matrix(lambda g, p: lars_direction(g, p, decay)), momentum)
    return optax.chain(_per_matrix(lambda g, p: lars_solo_direction(g, p, decay, learning_rate)), momentum)


def lars_direction(gradient: jax.Array, param: jax.Array, decay: jax.Array, eta: float = 1e-3) -> jax.Array:
    """r (g + wd p), r = eta |p| / |g + wd p|, or 1 where either norm is 0 (You et al., 2017; VICReg's and MIRA's code)."""
    gradient = gradient + decay * param
    p, g = jnp.linalg.norm(param), jnp.linalg.norm(gradient)
    return gradient * jnp.where((p > 0) & (g > 0), eta * p / jnp.where(g > 0, g, 1.0), 1.0)


def lars_solo_direction(
    gradient: jax.Array, param: jax.Array, decay: jax.Array, learning_rate: jax.Array, eta: float = 0.02
) -> jax.Array:
    """min(r / lr, 1) (g + wd p), r = eta |p| / (|g| + wd |p| + 1e-8): solo-learn's LARS with its clip and its eta."""
    p, g = jnp.linalg.norm(param), jnp.linalg.norm(gradient)
    ratio = jnp.where((p > 0) & (g > 0), eta * p / (g + decay * p + 1e-8), 1.0)
    # A warm-up may start at 0; r / lr is then unbounded and the clip gives 1.
    return jnp.minimum(ratio / jnp.maximum(learning_rate, 1e-30), 1.0) * (gradient + decay * param)


def _per_matrix(direction: Callable[[jax.Array, jax.Array], jax.Array]) -> optax.GradientTransformation:
    """Applies `direction` to arrays of two or more axes; biases and norms keep the plain gradient and do not decay."""

    def one(gradient: jax.Array, param: jax.Array) -> jax.Array:
        return direction(gradient, param) if param.ndim > 1 else gradient

    return optax.stateless(lambda gradients, params: jax.tree.map(one, gradients, params))


def learning_rate(peak: jax.Array, step: jax.Array, *, total_steps: int, warmup_steps: int) -> jax.Array:
    """Linear warm-up from 3e-5 to `peak`, then half a cosine to 0 at `total_steps` (solo-learn's schedule, per step).

    A peak below 3e-5 (a swept 0, say) starts at itself.
    """
    step = jnp.asarray(step, jnp.float32)
    start = jnp.minimum(WARMUP_START, peak)
    warmup = start + (peak - start) * step / max(warmup_steps, 1)
    progress = jnp.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0.0, 1.0)
    return jnp.where(step < warmup_steps, warmup, peak * (1 + jnp.cos(jnp.pi * progress)) / 2)
