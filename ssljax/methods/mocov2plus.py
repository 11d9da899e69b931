"""MoCo v2+ (He et al., 2020; Chen et al., 2020b): InfoNCE against a queue of keys from a slowly moving target.

Loss: the mean of two InfoNCE terms, (q1, k2) and (q2, k1), each -log exp(q.k/T) / (exp(q.k/T) + sum_j exp(q.n_j/T))
over the keys n_j of a queue (equation 1, both ways round: the "+" of solo-learn).
Memory: `target`, the EMA copy of backbone and projector with batch statistics of its own train-mode forwards;
`queue`, unit keys [2, queue size, dim], one queue a view.
What people get wrong: one queue per view; the loss is taken on the old queue and the keys are enqueued after it; no
batch normalisation in the head; the queue starts as normalised Gaussian noise; the target moves after the
optimiser.
"""

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from ssljax import losses
from ssljax.methods.base import (
    TAU,
    TEMPERATURE,
    Batch,
    Course,
    Method,
    Tree,
    check_queue,
    enqueue,
    move_target,
    noise_queue,
    of_target,
    target_of,
    two_global_views,
)
from ssljax.methods.networks import network, precision
from ssljax.models import MLP

VIEWS = two_global_views

HYPER = {**TEMPERATURE, **TAU}

# Hidden width and final tau are solo-learn's everywhere: the papers do not give them.
_SHARED = dict(
    learning_rate=0.3, weight_decay=1e-4, temperature=0.2, hidden_dim=2048, output_dim=256, queue_size=32768,
    tau_base=0.99, tau_final=0.999,
)  # fmt: skip

# Sections D.4 / B.4; the output is that of MNIST, whose other values these are too: our choice.
_CELLS: dict[str, Any] = dict(temperature=0.07, output_dim=128, queue_size=1024)

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,
    "paper@bbbc021": _CELLS,
    "paper@crops": _CELLS,
    "paper@imagenet100": {},
    # MoCo v2's official program, with its 800 epochs. Its loss is of one direction with one queue; ours of both with two.
    "paper@imagenet2012": dict(
        learning_rate=0.03, weight_decay=1e-4, optimizer="sgd", batch_size=256, epochs=800, warmup_epochs=0,
        temperature=0.2, output_dim=128, queue_size=65536, tau_base=0.999, tau_final=0.999, transforms="mocov2",
    ),
    "paper@mnist": dict(learning_rate=1e-3, weight_decay=1e-4, temperature=0.07, output_dim=128, queue_size=1024),
    "solo": {**_SHARED, "optimizer": "sgd", "transforms": "solo_sym_weak"},
    "digits": dict(temperature=0.2, queue_size=1024, tau_base=0.99, tau_final=0.999),
}  # fmt: skip


def candidates(config: Any) -> int:
    """The queue and the other view."""
    return config.queue_size + 1


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """MoCo v2+ for one run; see `ssljax.methods.base.Method`.

    Raises:
      UserError: the queue is no multiple of the batch.
    """
    check_queue(config)
    net = network(backbone, MLP((config.hidden_dim, config.output_dim), normalise=False, dtype=precision(config)))

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        network_key, queue_key = jax.random.split(key)
        params, stats = net.init(network_key, views[0])
        queue = noise_queue(queue_key, (2, config.queue_size, config.output_dim))
        return params, stats, {"target": target_of(params, stats, "backbone", "projector"), "queue": queue}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        (q1, q2), stats = net.project(params, stats, batch.views, key)
        memory = jax.lax.stop_gradient(memory)
        target, queue, temperature = memory["target"], memory["queue"], hyper["temperature"]
        keys, target_stats = net.project(target["params"], target["stats"], batch.views, of_target(key))
        k1, k2 = keys = losses.normalize(keys)
        value = (losses.info_nce(q1, k2, queue[1], temperature) + losses.info_nce(q2, k1, queue[0], temperature)) / 2
        memory = {"target": {**target, "stats": target_stats}, "queue": enqueue(queue, keys, step)}
        return value, (stats, memory, {})

    update = partial(move_target, total_steps=course.total_steps)
    return Method(VIEWS(config), init, loss, update, net.encode)
