"""The linear probe: a linear classifier on frozen features, trained for all runs, and for several learning rates of each, at once.

SGD with momentum .9, no weight decay, learning rate .1 falling tenfold at 60 and 80 % of the epochs, the last epoch counts: the
protocol of the papers' code (their text says: frozen encoder, 100 epochs). Nothing is chosen on test labels.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from ssljax import losses
from ssljax.train.step import PROBE_INIT, PROBE_ORDER, PROBE_VIEWS, derive

MOMENTUM = 0.9
DROPS = (0.6, 0.8)


def fit(
    features: Callable[[jax.Array, jax.Array], jax.Array] | np.ndarray,
    labels: np.ndarray,
    seeds: np.ndarray,
    *,
    n_classes: int,
    dim: int,
    epochs: int = 100,
    batch_size: int = 256,
    learning_rate: ArrayLike = 0.1,
    schedule: str = "steps",
    order: Callable[[int, int], np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Trains linear classifiers: one a run, or several a run that differ in nothing but their learning rate.

    All are one program: the rates are traced, and the classifiers of a run share the features of each batch.

    Args:
      features: [runs, n, dim]; or, where training images are transformed anew each epoch, a function of (indices [runs, batch],
        keys [runs]) that gives [runs, batch, dim].
      labels: [n] whole numbers below n_classes.
      seeds: [runs]; order of the images and start of each classifier.
      n_classes, dim: sizes of the classifier.
      epochs, batch_size: a batch larger than the set is the set.
      learning_rate: at the first step; one for all, one a run [runs], or several a run [runs, rates].
      schedule: "steps" falls tenfold at 60 and at 80 % of the epochs, "cosine" by half a cosine to 0.
      order: (epoch, n) -> permutation of the images that all runs go through, where a function gives the features; None for an
        order of each run's own.

    Returns:
      {"kernel": [runs, dim, n_classes], "bias": [runs, n_classes]} in float32; where there are several rates a run, each has an
      axis [rates] after that of the runs.
    """
    n = len(labels)
    batch_size = min(batch_size, n)
    per_epoch = n // batch_size
    fall = falling(schedule, epochs * per_epoch)
    momentum = optax.trace(MOMENTUM)
    targets = jnp.asarray(labels, jnp.int32)
    fixed = None if callable(features) else jnp.asarray(features, jnp.float32)
    given = np.asarray(learning_rate, np.float32)
    rates = jnp.asarray(given if given.ndim == 2 else np.broadcast_to(given, len(seeds))[:, None])

    def start(seed: jax.Array, rates: jax.Array) -> Any:
        head = linear_start(derive(seed, 0, PROBE_INIT), dim, n_classes)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(rates), *leaf.shape)), head)

    def loss(head: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return losses.cross_entropy(x @ head["kernel"] + head["bias"], y)

    @partial(jax.vmap, in_axes=(0, 0, 0, None, None, None))
    def step(head: Any, state: Any, rate: jax.Array, number: jax.Array, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        direction, state = momentum.update(jax.grad(loss)(head, x, y), state)
        return jax.tree.map(lambda leaf, d: leaf - rate * fall(number) * d, head, direction), state

    def batches(seed: jax.Array, epoch: jax.Array | int) -> jax.Array:
        order = jax.random.permutation(derive(seed, epoch, PROBE_ORDER), n)
        return order[: per_epoch * batch_size].reshape(per_epoch, batch_size)

    @partial(jax.jit, donate_argnums=(0, 1))
    def epoch_on_fixed(head: Any, state: Any, seeds: jax.Array, epoch: jax.Array | int) -> tuple[Any, Any]:
        numbers = epoch * per_epoch + jnp.arange(per_epoch)

        def one(head: Any, state: Any, rates: jax.Array, seed: jax.Array, own: jax.Array) -> tuple[Any, Any]:
            return jax.lax.scan(
                lambda carry, at: (step(*carry, rates, at[0], own[at[1]], targets[at[1]]), None),
                (head, state),
                (numbers, batches(seed, epoch)),
            )[0]

        return jax.vmap(one)(head, state, rates, seeds, fixed)  # type: ignore[arg-type]

    keys_from = jnp.asarray(seeds, jnp.uint32)
    head = jax.vmap(start)(keys_from, rates)
    state = jax.vmap(jax.vmap(momentum.init))(head)
    steps = jax.jit(jax.vmap(step, in_axes=(0, 0, 0, None, 0, 0)), donate_argnums=(0, 1))
    for epoch in range(epochs):
        if fixed is not None:
            head, state = epoch_on_fixed(head, state, keys_from, epoch)
            continue
        if order is None:
            index = jax.vmap(batches, in_axes=(0, None))(keys_from, epoch)
        else:
            one = order(epoch, n)[: per_epoch * batch_size].reshape(per_epoch, batch_size)
            index = jnp.broadcast_to(one, (len(keys_from), *one.shape))
        for i in range(per_epoch):
            number = epoch * per_epoch + i
            own = jax.vmap(derive, in_axes=(0, None, None))(keys_from, number, PROBE_VIEWS)
            x = features(index[:, i], own)  # type: ignore[operator]
            head, state = steps(head, state, rates, number, x, targets[index[:, i]])
    return jax.tree.map(lambda leaf: np.asarray(leaf if given.ndim == 2 else leaf[:, 0]), head)


def falling(schedule: str, total: int) -> optax.Schedule:
    """What a learning rate is multiplied by at each of so many steps: "steps" or "cosine", as for `fit`."""
    if schedule == "cosine":
        return lambda number: (1 + jnp.cos(math.pi * number / total)) / 2
    return optax.piecewise_constant_schedule(1.0, {int(total * share): 0.1 for share in DROPS})


def linear_start(key: jax.Array, dim: int, n_classes: int) -> dict[str, jax.Array]:
    """A linear classifier at PyTorch's start of a linear layer: kernel [dim, n_classes] and bias uniform in +-1/sqrt(dim)."""
    kernel_key, bias_key = jax.random.split(key)
    bound = dim**-0.5
    return {
        "kernel": jax.random.uniform(kernel_key, (dim, n_classes), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (n_classes,), minval=-bound, maxval=bound),
    }


def scores(head: dict[str, np.ndarray], features: np.ndarray) -> np.ndarray:
    """Class scores [runs, n, n_classes] of features [runs, n, dim]."""
    return features @ head["kernel"] + head["bias"][:, None]
