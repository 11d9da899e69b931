"""The linear probe: a linear classifier on frozen features, trained for all runs at once.

SGD with momentum .9, no weight decay, learning rate .1 falling tenfold at 60 and 80 % of the epochs, the last epoch counts: the
protocol of the papers' code (their text says: frozen encoder, 100 epochs). Nothing is chosen on test labels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
    learning_rate: float = 0.1,
) -> dict[str, np.ndarray]:
    """Trains one linear classifier a run.

    Args:
      features: [runs, n, dim]; or, where training images are transformed anew each epoch, a function of (indices [runs, batch],
        keys [runs]) that gives [runs, batch, dim].
      labels: [n] whole numbers below n_classes.
      seeds: [runs]; order of the images and start of each classifier.
      n_classes, dim: sizes of the classifier.
      epochs, batch_size, learning_rate: a batch larger than the set is the set.

    Returns:
      {"kernel": [runs, dim, n_classes], "bias": [runs, n_classes]} in float32.
    """
    n = len(labels)
    batch_size = min(batch_size, n)
    per_epoch = n // batch_size
    total = epochs * per_epoch
    schedule = optax.piecewise_constant_schedule(learning_rate, {int(total * share): 0.1 for share in DROPS})
    optimizer = optax.sgd(schedule, momentum=MOMENTUM)
    targets = jnp.asarray(labels, jnp.int32)
    fixed = None if callable(features) else jnp.asarray(features, jnp.float32)

    def start(seed: jax.Array) -> Any:
        return linear_start(derive(seed, 0, PROBE_INIT), dim, n_classes)

    def loss(head: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return losses.cross_entropy(x @ head["kernel"] + head["bias"], y)

    def step(head: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(head, x, y), state)
        return optax.apply_updates(head, updates), state

    def batches(seed: jax.Array, epoch: jax.Array | int) -> jax.Array:
        order = jax.random.permutation(derive(seed, epoch, PROBE_ORDER), n)
        return order[: per_epoch * batch_size].reshape(per_epoch, batch_size)

    @partial(jax.jit, donate_argnums=(0, 1))
    def epoch_on_fixed(head: Any, state: Any, seeds: jax.Array, epoch: jax.Array | int) -> tuple[Any, Any]:
        def one(head: Any, state: Any, seed: jax.Array, own: jax.Array) -> tuple[Any, Any]:
            return jax.lax.scan(
                lambda carry, index: (step(*carry, own[index], targets[index]), None),
                (head, state),
                batches(seed, epoch),
            )[0]

        return jax.vmap(one)(head, state, seeds, fixed)  # type: ignore[arg-type]

    keys_from = jnp.asarray(seeds, jnp.uint32)
    head = jax.vmap(start)(keys_from)
    state = jax.vmap(optimizer.init)(head)
    steps = jax.jit(jax.vmap(step), donate_argnums=(0, 1))
    for epoch in range(epochs):
        if fixed is not None:
            head, state = epoch_on_fixed(head, state, keys_from, epoch)
            continue
        index = jax.vmap(batches, in_axes=(0, None))(keys_from, epoch)
        for i in range(per_epoch):
            own = jax.vmap(derive, in_axes=(0, None, None))(keys_from, epoch * per_epoch + i, PROBE_VIEWS)
            head, state = steps(head, state, features(index[:, i], own), targets[index[:, i]])  # type: ignore[operator]
    return jax.tree.map(np.asarray, head)


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
