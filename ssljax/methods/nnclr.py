"""NNCLR (Dwibedi et al., 2021): the nearest neighbour of one view, out of a queue, is the positive of the other.

Loss: the mean of CE(nn(z1) p2^T / T) and CE(nn(z2) p1^T / T) with the diagonal as labels; rows are neighbours,
columns predictions (equations 2 to 4).
Memory: `queue`, unit projections of view 1 [queue size, dim]: the paper's support set.
What people get wrong: the look-up uses the normalised z and takes no gradient, but the predictor is fed z as it is;
the projector ends in batch normalisation with scale and offset; only z1 is enqueued, after the look-up.
"""

from typing import Any

import jax
from flax import linen as nn

from ssljax import assign, losses
from ssljax.methods.base import (
    TEMPERATURE,
    Batch,
    Course,
    Method,
    Tree,
    check_queue,
    enqueue,
    no_update,
    noise_queue,
    two_global_views,
)
from ssljax.methods.networks import network, precision
from ssljax.models import MLP

VIEWS = two_global_views

HYPER = {**TEMPERATURE}

_SHARED = dict(
    learning_rate=0.4, weight_decay=1e-5, temperature=0.2, hidden_dim=2048, output_dim=256, predictor_dim=4096,
    queue_size=65536,
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,
    "solo": {**_SHARED, "transforms": "solo_asym"},
    "digits": dict(temperature=0.2, predictor_dim=128, queue_size=1024),
}


def candidates(config: Any) -> int:
    """The images of a batch."""
    return config.batch_size


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """NNCLR for one run; see `ssljax.methods.base.Method`.

    Raises:
      UserError: the queue is no multiple of the batch.
    """
    del course
    check_queue(config)
    dtype = precision(config)
    widths = (config.hidden_dim, config.hidden_dim, config.output_dim)
    net = network(
        backbone,
        MLP(widths, output_norm="affine", dtype=dtype),
        MLP((config.predictor_dim, config.output_dim), dtype=dtype),
    )

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        network_key, queue_key = jax.random.split(key)
        queue = noise_queue(queue_key, (config.queue_size, config.output_dim))
        return *net.init(network_key, views[0]), {"queue": queue}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        z, stats = net.project(params, stats, batch.views, key)
        (p1, p2), stats = net.predict(params, stats, z)
        z1, z2 = jax.lax.stop_gradient(losses.normalize(z))
        queue = jax.lax.stop_gradient(memory["queue"])
        neighbor1, _ = assign.nearest(z1, queue)
        neighbor2, _ = assign.nearest(z2, queue)
        t = hyper["temperature"]
        value = (losses.nnclr(neighbor1, p2, t) + losses.nnclr(neighbor2, p1, t)) / 2
        return value, (stats, {"queue": enqueue(queue, z1, step)}, {})

    return Method(VIEWS(config), init, loss, no_update, net.encode)
