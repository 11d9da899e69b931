"""MoCo v2+ (He et al., 2020; Chen et al., 2020b): InfoNCE against a queue of keys from a slowly moving target.

Loss: the mean of two InfoNCE terms, (q1, k2) and (q2, k1) (equation 1, both ways round: the "+" of solo-learn).
Memory: `target` (EMA copy of backbone and projector, with batch statistics of its own train-mode forwards) and `queue`, unit
keys [2, queue size, dim], one queue a view; the write position follows from the step.
What people get wrong: one queue per view; the loss is taken on the old queue and the keys are enqueued after it; no batch
normalisation in the head; the queue starts as normalised Gaussian noise; the target moves after the optimiser.
Swept names: learning_rate, weight_decay, momentum (SGD, LARS), temperature, tau.base, tau.final, every transform's parameters.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax import losses
from ssljax.errors import UserError
from ssljax.methods.base import Batch, Method, Tree, cosine_tau, ema, two_global_views
from ssljax.methods.networks import encoder_with_head
from ssljax.models import PRECISIONS, Projector

HYPER = ("temperature", "tau.base", "tau.final")

_SOLO = dict(learning_rate=0.3, weight_decay=1e-4, temperature=0.2, hidden_dim=2048, output_dim=256, queue_size=32768)

# Hidden width and final tau are solo-learn's everywhere: the papers do not give them.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {**_SOLO, "tau_base": 0.99, "tau_final": 0.999},
    "solo": {**_SOLO, "tau_base": 0.99, "tau_final": 0.999, "optimizer": "sgd", "transforms": "solo_sym_weak"},
    "digits": dict(temperature=0.2, hidden_dim=128, output_dim=64, queue_size=1024, tau_base=0.99, tau_final=0.999),
}


def make(config: Any, backbone: nn.Module, total_steps: int) -> Method:
    """MoCo v2+ for one run; see `ssljax.methods.base.Method`.

    Raises:
      UserError: the queue is no multiple of the batch.
    """
    if config.queue_size % config.batch_size:
        raise UserError(
            f"--queue_size: {config.queue_size} is not a multiple of --batch_size={config.batch_size}; "
            "a step replaces a whole batch of keys"
        )
    network = encoder_with_head(backbone, Projector(config.hidden_dim, config.output_dim, PRECISIONS[config.precision]))

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        network_key, queue_key = jax.random.split(key)
        params, stats = network.init(network_key, views[0])
        queue = losses.normalize(jax.random.normal(queue_key, (2, config.queue_size, config.output_dim)))
        target = {"params": jax.tree.map(jnp.copy, params), "stats": jax.tree.map(jnp.copy, stats)}
        return params, stats, {"target": target, "queue": queue}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        del key
        (q1, q2), stats = network.project(params, stats, batch.views)
        target, queue = memory["target"], memory["queue"]
        keys, target_stats = jax.lax.stop_gradient(network.project(target["params"], target["stats"], batch.views))
        k1, k2 = keys = losses.normalize(keys)
        temperature = hyper["temperature"]
        value = (losses.info_nce(q1, k2, queue[1], temperature) + losses.info_nce(q2, k1, queue[0], temperature)) / 2
        start = (step * config.batch_size) % config.queue_size
        queue = jax.lax.dynamic_update_slice(queue, keys, (0, start, 0))
        return value, (stats, {"target": {**target, "stats": target_stats}, "queue": queue}, {})

    def update(params: Tree, memory: Tree, hyper: Tree, step: jax.Array) -> Tree:
        tau = cosine_tau(hyper["tau"]["base"], hyper["tau"]["final"], step, total_steps)
        return {**memory, "target": {**memory["target"], "params": ema(memory["target"]["params"], params, tau)}}

    return Method(two_global_views(config.image_size), init, loss, update, network.encode)
