"""SimCLR (Chen et al., 2020): views of one image attract, all other views of the batch repel.

Loss: NT-Xent over the 2N views of a batch, every other of the 2N - 1 views in the denominator (equation 1).
Memory: none.
What people get wrong: the head has no batch normalisation; the positive belongs in the denominator; log-sum-exp, not exp.
Swept names: learning_rate, weight_decay, momentum (SGD, LARS), temperature, every transform's parameters.
"""

from typing import Any

import jax
from flax import linen as nn

from ssljax import losses
from ssljax.methods.base import Batch, Method, Tree, keep, two_global_views
from ssljax.methods.networks import encoder_with_head
from ssljax.models import PRECISIONS, Projector

HYPER = ("temperature",)

# Hidden widths are solo-learn's everywhere: the papers do not give them.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": dict(learning_rate=0.4, weight_decay=1e-5, temperature=0.2, hidden_dim=2048, output_dim=256),
    "solo": dict(
        optimizer="lars_solo", learning_rate=0.4, weight_decay=1e-4, temperature=0.2, hidden_dim=2048, output_dim=256,
        transforms="solo_sym",
    ),
    "digits": dict(temperature=0.2, hidden_dim=128, output_dim=64),
}  # fmt: skip


def make(config: Any, backbone: nn.Module, total_steps: int) -> Method:
    """SimCLR for one run; see `ssljax.methods.base.Method`."""
    del total_steps
    network = encoder_with_head(backbone, Projector(config.hidden_dim, config.output_dim, PRECISIONS[config.precision]))

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        params, stats = network.init(key, views[0])
        return params, stats, {}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        del step, key
        (z1, z2), stats = network.project(params, stats, batch.views)
        return losses.nt_xent(z1, z2, hyper["temperature"]), (stats, memory, {})

    return Method(two_global_views(config.image_size), init, loss, keep, network.encode)
