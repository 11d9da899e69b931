"""SwAV (Caron et al., 2020): predict the cluster code of one view from another.

Loss: the cross entropy between Sinkhorn's codes of one global view and softmax(p / T) of every other view, p the
cosines of its projection with prototypes; the mean over codes and views (equation 2, section 3.4 for local crops).
Memory: `queue`, unit projections of the last images [2, queue size, dim], newest first, one queue a global view; it
lets a small batch fill the equal parts that Sinkhorn asks for.
What people get wrong: Sinkhorn is exp(s / epsilon) in float32, samples' marginals last, without gradient;
prototypes have unit length; they do not move at all for the first epochs; the queue is filled from the first step
and used only from an epoch on (50 on CIFAR).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax import assign, losses
from ssljax.errors import UserError
from ssljax.methods.base import (
    TEMPERATURE,
    Batch,
    Course,
    Method,
    Traced,
    Tree,
    cross_view_pairs,
    freeze_prototypes,
    multi_crop_views,
    no_update,
)
from ssljax.methods.networks import network, precision, prototypes, scores
from ssljax.models import MLP

VIEWS = multi_crop_views

HYPER = {
    **TEMPERATURE,
    "sinkhorn.epsilon": Traced("entropy of the codes", 0.05, low=1e-4),  # Caron et al., appendix A
    "sinkhorn.iterations": Traced("steps of Sinkhorn-Knopp", 3.0, low=1.0, whole=True),
    "queue_start_epoch": Traced("first epoch, from 0, whose codes see the queue", 15.0),  # solo-learn's default
    "freeze_epochs": Traced("epochs in which the prototypes do not move", 1.0),  # solo-learn's default
}

_SHARED: dict[str, Any] = dict(
    learning_rate=0.6, weight_decay=1e-6, temperature=0.1, hidden_dim=2048, output_dim=128, prototypes=3000,
    queue_size=3840, queue_start_epoch=50.0, freeze_epochs=2.0,
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,
    # The official program's 800 epochs of 4096 images with multi-crop: a rate of 4.8, warmed up from .3, down to .0048; prototypes
    # that wait for 313 steps, an epoch; no queue, which at 256 images has 3840 places from epoch 15 on.
    "paper@imagenet2012": dict(
        learning_rate=0.3, warmup_learning_rate=0.3, min_learning_rate=4.8e-3, queue_size=4096, queue_start_epoch=1e6,
        freeze_epochs=1.0, epochs=800, local_crops=6, transforms="swav",
    ),
    "solo": {**_SHARED, "transforms": "solo_sym"},
    "solo@imagenet100": {},
    "digits": dict(temperature=0.1, prototypes=64, queue_size=512, queue_start_epoch=2.0),
}  # fmt: skip


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """SwAV for one run; see `ssljax.methods.base.Method`.

    Raises:
      UserError: the queue is smaller than the batch.
    """
    if config.queue_size < config.batch_size:
        raise UserError(f"--queue_size: {config.queue_size} is less than --batch_size={config.batch_size}")
    net = network(backbone, MLP((config.hidden_dim, config.output_dim), dtype=precision(config)))

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        network_key, prototype_key = jax.random.split(key)
        params, stats = net.init(network_key, views[0])
        params["prototypes"] = losses.normalize(prototypes(prototype_key, config.prototypes, config.output_dim))
        return params, stats, {"queue": jnp.zeros((2, config.queue_size, config.output_dim))}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        z, stats = net.project(params, stats, batch.views, key)
        logits = scores(z, params["prototypes"])
        queue = jax.lax.stop_gradient(memory["queue"])
        # Every place of the queue has been written by then, unless it is longer than the epochs before: then not yet.
        filled = step * config.batch_size >= config.queue_size
        started = filled & (step >= hyper["queue_start_epoch"] * course.steps_per_epoch)
        queued = scores(queue, params["prototypes"])
        codes = [codes_of(logits[view], queued[view], started, hyper["sinkhorn"]) for view in (0, 1)]
        pairs = cross_view_pairs(len(logits))
        terms = [losses.soft_cross_entropy(logits[b], codes[a], hyper["temperature"]) for a, b in pairs]
        newest = jax.lax.stop_gradient(losses.normalize(z[:2]))
        queue = jnp.concatenate([newest, queue], axis=1)[:, : config.queue_size]
        return sum(terms, jnp.float32(0)) / len(terms), (stats, {"queue": queue}, {})

    def codes_of(logits: jax.Array, queued: jax.Array, started: jax.Array, sinkhorn: Tree) -> jax.Array:
        """Sinkhorn's codes of a view's images, alone or among the queue's."""
        logits, queued = jax.lax.stop_gradient((logits, queued))
        epsilon, iterations = sinkhorn["epsilon"], sinkhorn["iterations"].astype(jnp.int32)
        codes: jax.Array = jax.lax.cond(
            started,
            lambda: assign.sinkhorn_knopp(jnp.concatenate([logits, queued]), epsilon, iterations)[: len(logits)],
            lambda: assign.sinkhorn_knopp(logits, epsilon, iterations),
        )
        return codes

    def constrain(params: Tree) -> Tree:
        return {**params, "prototypes": losses.normalize(params["prototypes"])}

    def cosines(params: Tree, stats: Tree, memory: Tree, images: jax.Array) -> jax.Array:
        del memory
        return scores(net.embed(params, stats, images), params["prototypes"])

    trainable = partial(freeze_prototypes, steps_per_epoch=course.steps_per_epoch)
    return Method(
        VIEWS(config), init, loss, no_update, net.encode, trainable=trainable, constrain=constrain, scores=cosines
    )
