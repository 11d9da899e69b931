"""NNBYOL (Dwibedi et al., 2021, with BYOL's loss): predict the nearest neighbour of what the target makes of the other
view.

Loss: byol(p1, nn(k2)) + byol(p2, nn(k1)), each 2 - 2 cos(p, stop(nn)); nn(k) is the row of the queue with the
largest cosine to k.
Memory: `target`, as BYOL's; `queue`, the target's unit projections of view 1 [queue size, dim].
What people get wrong: the look-up and the queue hold the target's projections, not the student's; only view 1 is
enqueued, after the look-up; it is a sum.
"""

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from ssljax import assign, losses
from ssljax.methods.base import (
    TAU,
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

HYPER = {**TAU}

# Widths, queue and final tau are solo-learn's everywhere: the papers do not give them.
_SHARED = dict(
    learning_rate=1.0, weight_decay=1e-5, hidden_dim=4096, output_dim=256, predictor_dim=4096, queue_size=65536,
    tau_base=0.99, tau_final=1.0,
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,
    "solo": {**_SHARED, "transforms": "solo_asym"},
    "digits": dict(predictor_dim=128, queue_size=1024, tau_base=0.99, tau_final=1.0),
}


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """NNBYOL for one run; see `ssljax.methods.base.Method`.

    Raises:
      UserError: the queue is no multiple of the batch.
    """
    check_queue(config)
    dtype = precision(config)
    net = network(
        backbone,
        MLP((config.hidden_dim, config.output_dim), dtype=dtype),
        MLP((config.predictor_dim, config.output_dim), dtype=dtype),
    )

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        network_key, queue_key = jax.random.split(key)
        params, stats = net.init(network_key, views[0])
        queue = noise_queue(queue_key, (config.queue_size, config.output_dim))
        return params, stats, {"target": target_of(params, stats, "backbone", "projector"), "queue": queue}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        del hyper
        z, stats = net.project(params, stats, batch.views, key)
        (p1, p2), stats = net.predict(params, stats, z)
        memory = jax.lax.stop_gradient(memory)
        target, queue = memory["target"], memory["queue"]
        keys, target_stats = net.project(target["params"], target["stats"], batch.views, of_target(key))
        k1, k2 = losses.normalize(keys)
        neighbor1, _ = assign.nearest(k1, queue)
        neighbor2, _ = assign.nearest(k2, queue)
        value = losses.byol(p1, neighbor2) + losses.byol(p2, neighbor1)
        memory = {"target": {**target, "stats": target_stats}, "queue": enqueue(queue, k1, step)}
        return value, (stats, memory, {})

    update = partial(move_target, total_steps=course.total_steps)
    return Method(VIEWS(config), init, loss, update, net.encode)
