"""SimSiam (Chen and He, 2021): predict the other view, with a stop-gradient in place of negatives, queue and target.

Loss: -1/2 [cos(p1, stop(z2)) + cos(p2, stop(z1))] (equations 1 to 4).
Memory: none.
What people get wrong: the projector's last batch normalisation has no scale and no offset, and the layer before it
no bias; the predictor is a bottleneck whose learning rate stays at its peak through warm-up and cosine; the
residual blocks of a ResNet start at zero.
"""

from typing import Any

import jax
from flax import linen as nn

from ssljax import losses
from ssljax.methods.base import Batch, Course, Method, Traced, Tree, no_update, two_global_views
from ssljax.methods.networks import network, precision
from ssljax.models import MLP

VIEWS = two_global_views

HYPER: dict[str, Traced] = {}

_SHARED = dict(learning_rate=0.5, weight_decay=1e-5, hidden_dim=2048, output_dim=2048, predictor_dim=512)

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,
    # Chen and He, 2021, section 4, "Baseline settings"; the batch is the official program's, whose longest run has 800 epochs.
    "paper@imagenet2012": dict(
        learning_rate=0.05, weight_decay=1e-4, optimizer="sgd", batch_size=512, epochs=800, warmup_epochs=0,
        transforms="mocov2",
    ),
    "solo": {**_SHARED, "optimizer": "sgd", "transforms": "solo_sym_weak"},
    "digits": dict(predictor_dim=32),  # a bottleneck of the output's width by two, ours
}  # fmt: skip


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """SimSiam for one run; see `ssljax.methods.base.Method`."""
    del course
    if hasattr(backbone, "zero_init_residual"):
        backbone = backbone.clone(zero_init_residual=True)
    dtype = precision(config)
    widths = (config.hidden_dim, config.hidden_dim, config.output_dim)
    net = network(
        backbone,
        MLP(widths, hidden_bias=False, output_bias=False, output_norm="plain", dtype=dtype),
        MLP((config.predictor_dim, config.output_dim), hidden_bias=False, dtype=dtype),
    )

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        return *net.init(key, views[0]), {}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        del hyper, step
        z, stats = net.project(params, stats, batch.views, key)
        (p1, p2), stats = net.predict(params, stats, z)
        z1, z2 = z
        return (losses.simsiam(p1, z2) + losses.simsiam(p2, z1)) / 2, (stats, memory, {})

    def rates(params: Tree, rate: jax.Array, peak: jax.Array) -> Tree:
        scheduled = jax.tree.map(lambda _: rate, params)
        return {**scheduled, "predictor": jax.tree.map(lambda _: peak, params["predictor"])}

    return Method(VIEWS(config), init, loss, no_update, net.encode, rates=rates)
