"""MoCo v3 (Chen, Xie and He, 2021): contrast predictions with a slowly moving target's keys of the same batch, without a queue.

Loss: 2T [CE(p1 k2^T / T) + CE(p2 k1^T / T)] (algorithm 1), rows of both on the unit sphere: p the prediction from one view,
k the target's projection of the other; an image's own key is its positive, the other images' keys are its negatives.
Memory: `target`, the EMA copy of backbone and projector with batch statistics of its own train-mode forwards.
What people get wrong: the two directions are summed and multiplied by 2T, so that the gradient does not grow as T falls; all
layers of projector and predictor are without offsets and batch-normalised, the last ones with neither scale nor offset; keys
are another view's, never of the same one. The official program moves the target right before its forward pass. Moved right
after the optimiser, as here, it is the same target, since between the two nothing changes; its coefficient is counted from
the first step that moves it.
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
    move_target,
    of_target,
    target_of,
    two_global_views,
)
from ssljax.methods.networks import network, precision
from ssljax.models import MLP

VIEWS = two_global_views

HYPER = {**TEMPERATURE, **TAU}

_SHARED = dict(
    learning_rate=0.3, weight_decay=1e-6, temperature=0.2, hidden_dim=4096, output_dim=256, predictor_dim=4096,
    tau_base=0.99, tau_final=1.0,
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,  # not among the papers' methods: solo-learn's values for CIFAR under what they share, our choice
    # The official program's for ResNet-50 and 1000 epochs. For 300: decay 1e-6 and a first tau of .99; for 100 also a rate of .6.
    "paper@imagenet2012": dict(weight_decay=1.5e-6, temperature=1.0, tau_base=0.996, epochs=1000, transforms="mocov3"),
    "solo": {**_SHARED, "transforms": "solo_asym"},
    "digits": dict(temperature=0.2, predictor_dim=128, tau_base=0.99, tau_final=1.0),
}


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """MoCo v3, as it is for convolutional networks, for one run; see `ssljax.methods.base.Method`."""

    def head(hidden: int) -> MLP:
        return MLP(
            (hidden, config.output_dim),
            hidden_bias=False,
            output_bias=False,
            output_norm="plain",
            dtype=precision(config),
        )

    net = network(backbone, head(config.hidden_dim), head(config.predictor_dim))

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        params, stats = net.init(key, views[0])
        return params, stats, {"target": target_of(params, stats, "backbone", "projector")}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        del step
        z, stats = net.project(params, stats, batch.views, key)
        (p1, p2), stats = net.predict(params, stats, z)
        target = jax.lax.stop_gradient(memory["target"])
        (k1, k2), target_stats = net.project(target["params"], target["stats"], batch.views, of_target(key))
        temperature = hyper["temperature"]
        value = losses.mocov3(p1, k2, temperature) + losses.mocov3(p2, k1, temperature)
        return value, (stats, {"target": {**target, "stats": target_stats}}, {})

    update = partial(move_target, total_steps=course.total_steps)
    return Method(VIEWS(config), init, loss, update, net.encode)
