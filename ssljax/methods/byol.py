"""BYOL (Grill et al., 2020): predict what a slowly moving target makes of the other view.

Loss: the sum over both directions of 2 - 2 cos(p, stop(k)), in [0, 8] (equation 2, made symmetric): p the
prediction from one view, k the target's projection of the other.
Memory: `target`, the EMA copy of backbone and projector with batch statistics of its own train-mode forwards.
What people get wrong: a sum, where other libraries average (half the gradient, or a quarter with 1 - cos: under SGD
another learning rate); no batch normalisation after the last layers; the target has no predictor and moves after
the optimiser.
"""

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from ssljax import losses
from ssljax.methods.base import TAU, Batch, Course, Method, Tree, move_target, of_target, target_of, two_global_views
from ssljax.methods.networks import network, precision
from ssljax.models import MLP

VIEWS = two_global_views

HYPER = {**TAU}

# Widths and final tau are solo-learn's everywhere: the papers do not give them.
_SHARED = dict(
    learning_rate=1.0, weight_decay=1e-5, hidden_dim=4096, output_dim=256, predictor_dim=4096, tau_base=0.99,
    tau_final=1.0,
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,
    "paper@bbbc021": {},
    "paper@crops": {},
    "paper@imagenet100": dict(learning_rate=0.45),
    # Grill et al., 2020, section 3.3, of 1000 epochs. The official program has for 300 a rate of .3 and for 100 one of .45, both
    # with a decay of 1e-6 and a first tau of .99.
    "paper@imagenet2012": dict(learning_rate=0.2, weight_decay=1.5e-6, tau_base=0.996, epochs=1000, transforms="byol"),
    "paper@mnist": dict(learning_rate=0.01, weight_decay=1e-5),
    "solo": {**_SHARED, "transforms": "solo_asym"},
    "solo@imagenet100": dict(learning_rate=0.5, weight_decay=1e-6, predictor_dim=8192, transforms="byol"),
    "digits": dict(predictor_dim=128, tau_base=0.99, tau_final=1.0),
}


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """BYOL for one run; see `ssljax.methods.base.Method`."""
    dtype = precision(config)
    net = network(
        backbone,
        MLP((config.hidden_dim, config.output_dim), dtype=dtype),
        MLP((config.predictor_dim, config.output_dim), dtype=dtype),
    )

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        params, stats = net.init(key, views[0])
        return params, stats, {"target": target_of(params, stats, "backbone", "projector")}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        del hyper, step
        z, stats = net.project(params, stats, batch.views, key)
        (p1, p2), stats = net.predict(params, stats, z)
        target = jax.lax.stop_gradient(memory["target"])
        (k1, k2), target_stats = net.project(target["params"], target["stats"], batch.views, of_target(key))
        memory = {"target": {**target, "stats": target_stats}}
        return losses.byol(p1, k2) + losses.byol(p2, k1), (stats, memory, {})

    update = partial(move_target, total_steps=course.total_steps)
    return Method(VIEWS(config), init, loss, update, net.encode)
