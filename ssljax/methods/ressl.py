"""ReSSL (Zheng et al., 2021): how a strong view relates to a queue should be how a weak view of the same image does.

Loss: CE(softmax(k Q^T / T_t), q Q^T / T), q the student's projection of view 1, k the target's of view 2, Q the
queue (equations 4 to 6).
Memory: `target`, the EMA copy of backbone and projector with batch statistics of its own train-mode forwards;
`queue`, the target's unit projections [queue size, dim].
What people get wrong: it is one-sided: the student sees the strong view, the target the weak one, which is the
set's second side where that differs (`A|B`, solo_ressl), else the first side's geometry without its colours; the
target's temperature is the sharper one; the loss is taken on the old queue.
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
    Traced,
    Tree,
    check_queue,
    enqueue,
    move_target,
    noise_queue,
    of_target,
    strong_and_weak_views,
    target_of,
)
from ssljax.methods.networks import network, precision
from ssljax.models import MLP

VIEWS = strong_and_weak_views

HYPER = {
    **TEMPERATURE,
    "target_temperature": Traced("T_t, of the target's relations", 0.04, low=1e-6),  # Zheng et al., section 4.1
    **TAU,
}

# Temperatures, widths, queue and final tau are solo-learn's everywhere: the papers do not give them.
_SHARED = dict(
    learning_rate=0.05, weight_decay=1e-4, temperature=0.1, hidden_dim=4096, output_dim=256, queue_size=65536,
    tau_base=0.99, tau_final=1.0,
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,
    "solo": {**_SHARED, "optimizer": "sgd", "transforms": "solo_ressl"},
    "digits": dict(temperature=0.1, queue_size=1024, tau_base=0.99, tau_final=1.0),
}


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """ReSSL for one run; see `ssljax.methods.base.Method`.

    Raises:
      UserError: the queue is no multiple of the batch.
    """
    check_queue(config)
    net = network(backbone, MLP((config.hidden_dim, config.output_dim), normalise=False, dtype=precision(config)))

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        network_key, queue_key = jax.random.split(key)
        params, stats = net.init(network_key, views[0])
        queue = noise_queue(queue_key, (config.queue_size, config.output_dim))
        return params, stats, {"target": target_of(params, stats, "backbone", "projector"), "queue": queue}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        strong, weak = batch.views
        (q,), stats = net.project(params, stats, (strong,), key)
        memory = jax.lax.stop_gradient(memory)
        target, queue = memory["target"], memory["queue"]
        (k,), target_stats = net.project(target["params"], target["stats"], (weak,), of_target(key))
        k = losses.normalize(k)
        value = losses.ressl(q, k, queue, hyper["temperature"], hyper["target_temperature"])
        memory = {"target": {**target, "stats": target_stats}, "queue": enqueue(queue, k, step)}
        return value, (stats, memory, {})

    update = partial(move_target, total_steps=course.total_steps)
    return Method(VIEWS(config), init, loss, update, net.encode)
