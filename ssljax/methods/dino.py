"""DINO (Caron et al., 2021): the student matches the centred, sharpened output of a slowly moving target on other
views.

Loss: CE(softmax((t - c) / T_t), log_softmax(s / T)), the mean over pairs of a target's global view and a student's
other view; s and t are cosines with prototypes, c the centre (equation 2).
Memory: `target`, the EMA copy of backbone, projector and prototypes with batch statistics of its own train-mode
forwards; `center`, the EMA of the target's mean logits [prototypes].
What people get wrong: the centre of the step before is used, and moves after the loss; T_t warms up (.04 to .07
over 50 epochs); the head has no batch normalisation, an L2 bottleneck, and weight-normalised prototypes of fixed
gain; these do not move at all in the first epoch.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
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
    cross_view_pairs,
    freeze_prototypes,
    move_target,
    multi_crop_views,
    of_target,
    target_of,
)
from ssljax.methods.networks import network, precision, prototypes, scores
from ssljax.models import MLP, gelu

VIEWS = multi_crop_views

HYPER = {  # Caron et al., 2021, section 3.2 and appendix; warm-up and student's T as in solo-learn
    **TEMPERATURE,
    "target_temperature.base": Traced("T_t at the first epoch", 0.04, low=1e-6),
    "target_temperature.final": Traced("T_t after its warm-up", 0.07, low=1e-6),
    "target_temperature.warmup_epochs": Traced("epochs from the first T_t to the final one", 50.0),
    "center_momentum": Traced("share of the old centre that is kept", 0.9, high=1.0),
    "freeze_epochs": Traced("epochs in which the prototypes do not move", 1.0),
    **TAU,
}

# Widths, final tau and temperatures are solo-learn's everywhere: the papers do not give them.
_SHARED: dict[str, Any] = dict(
    learning_rate=0.3, weight_decay=1e-4, temperature=0.1, hidden_dim=2048, output_dim=256, prototypes=4096,
    tau_base=0.9995, tau_final=1.0,
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {**_SHARED, "batch_size": 256},
    # The official program's for ResNet-50: LARS, 4080 images, 800 epochs, a rate that falls to .0048. Local crops, prototypes and
    # first tau are its defaults. Its head for a ResNet is batch-normalised, this one never.
    "paper@imagenet2012": dict(
        learning_rate=0.3, weight_decay=1e-6, batch_size=4080, epochs=800, min_learning_rate=4.8e-3, prototypes=65536,
        tau_base=0.996, local_crops=8, transforms="mira",
    ),
    "solo": {**_SHARED, "weight_decay": 1e-6, "transforms": "solo_asym"},
    "solo@imagenet100": dict(transforms="byol"),
    "digits": {
        **dict(temperature=0.1, prototypes=64, tau_base=0.99, tau_final=1.0),
        "target_temperature.warmup_epochs": 5.0,
    },
}  # fmt: skip


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """DINO for one run; see `ssljax.methods.base.Method`."""
    head = MLP(
        (config.hidden_dim, config.hidden_dim, config.output_dim),
        normalise=False,
        activation=gelu,
        kernel_init=nn.initializers.normal(0.02),  # DINO cuts it at +-2, a hundred deviations away
        bias_init=nn.initializers.zeros,
        dtype=precision(config),
    )
    net = network(backbone, head)

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        network_key, prototype_key = jax.random.split(key)
        params, stats = net.init(network_key, views[0])
        params["prototypes"] = prototypes(prototype_key, config.prototypes, config.output_dim)
        stats["prototypes"] = {}
        target = target_of(params, stats, "backbone", "projector", "prototypes")
        return params, stats, {"target": target, "center": jnp.zeros(config.prototypes)}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        z, stats = net.project(params, stats, batch.views, key)
        student = scores(z, losses.normalize(params["prototypes"]))
        memory = jax.lax.stop_gradient(memory)
        target, center = memory["target"], memory["center"]
        z_target, target_stats = net.project(target["params"], target["stats"], batch.views[:2], of_target(key))
        logits = scores(z_target, losses.normalize(target["params"]["prototypes"]))
        sharp = target_temperature(hyper["target_temperature"], step)
        pairs = cross_view_pairs(len(student))
        terms = [losses.dino(student[b], logits[a], center, hyper["temperature"], sharp) for a, b in pairs]
        kept = hyper["center_momentum"]
        center = kept * center + (1 - kept) * logits.mean((0, 1))
        memory = {"target": {**target, "stats": target_stats}, "center": center}
        return sum(terms, jnp.float32(0)) / len(terms), (stats, memory, {})

    def target_temperature(values: Tree, step: jax.Array) -> jax.Array:
        """Linear by epoch, from the first value in epoch 0 to the final one in the warm-up's last epoch."""
        epoch = step // course.steps_per_epoch
        progress = jnp.minimum(epoch / jnp.maximum(values["warmup_epochs"] - 1, 1), 1.0)
        progress = jnp.where(epoch < values["warmup_epochs"], progress, 1.0)
        return values["base"] + (values["final"] - values["base"]) * progress

    trainable = partial(freeze_prototypes, steps_per_epoch=course.steps_per_epoch)
    update = partial(move_target, total_steps=course.total_steps)
    return Method(VIEWS(config), init, loss, update, net.encode, trainable=trainable)
