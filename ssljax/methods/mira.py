"""MIRA (Lee et al., 2022): labels of greatest mutual information with the images, near to what the model says of them.

Loss: the sum over the two global views of the mean cross entropy between that view's labels and softmax(s / T) of
every other view (equation 8); s are cosines of projections with prototypes, the labels the solution of equation 4 for
softmax(s / T_t) of that view's images alone. The official program takes the mean over the two: half this loss.
Memory: `target`, the EMA copy of backbone and projector with batch statistics of its own train-mode forwards; nothing
with --target_network=self, where the network's own outputs are labelled.
What people get wrong: nothing makes the clusters equal, and T_t must stay above T. What all images share of the logits
comes back in the labels multiplied by T / T_t, what tells them apart by T / (T_t (1 - beta)): the first must be below 1,
or one cluster takes all; the second above 1 / (correlation of the two views' logits), or all labels become alike. The
prototypes are the trained ones for both networks, not averaged, and do not move at all in the first epoch. The official
program moves the target before its forward; here it moves after the optimiser's step, so that every forward sees the
same target, but for tau, which is one step of its schedule behind.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax import assign, losses
from ssljax.methods.base import (
    TAU,
    TEMPERATURE,
    Batch,
    Course,
    Method,
    Traced,
    Tree,
    cosine_schedule,
    cross_view_pairs,
    freeze_prototypes,
    move_target,
    multi_crop_views,
    no_update,
    of_target,
    target_of,
)
from ssljax.methods.networks import information, network, precision, prototypes, scores
from ssljax.models import MLP

VIEWS = multi_crop_views

HYPER = {
    **TEMPERATURE,
    "target_temperature": Traced("T_t of the probabilities that are labelled", 0.225, low=1e-6),  # section 4.1
    # Section 4.1; the official program goes from .75 to 2/3. At 1 the problem has no unique solution.
    "beta.base": Traced("weight of the labels' mutual information at the first step", 2 / 3, high=0.99),
    "beta.final": Traced("weight of the labels' mutual information at the last step", 2 / 3, high=0.99),
    "solver.tolerance": Traced("residual at which the accelerated solver stops", 1e-5),
    "solver.max_iter": Traced(
        "steps of the plain solver, and the most of the accelerated one", 50.0, low=1.0, whole=True
    ),
    "freeze_epochs": Traced("epochs in which the prototypes do not move", 1.0),  # as SwAV and DINO
    **TAU,
}

# Section 4.1, but for the decay, which is that of its small batch (section 4.3): SGD's. Table 7's own values are unpublished.
_SHARED: dict[str, Any] = dict(
    weight_decay=1e-4, temperature=0.1, hidden_dim=2048, output_dim=256, prototypes=3000, tau_base=0.99, tau_final=1.0,
    target_network="ema", solver="accelerated",
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {**_SHARED, "learning_rate": 0.6},  # .3 x 512/256, written out as the other methods' are
    "paper@imagenet2012": dict(learning_rate=0.3, weight_decay=1e-6, local_crops=6, transforms="mira"),
    "solo": {**_SHARED, "learning_rate": 0.3, "optimizer": "sgd", "transforms": "mira_cifar"},
    "solo@imagenet100": dict(transforms="mira"),  # Table 7's own values are unpublished: our choice
    # Chosen on validation images: with the paper's beta the labels of digits, whose views are less alike than those of photographs,
    # become all alike within ten epochs; .9 keeps them apart.
    "digits": {
        **dict(
            temperature=0.1, prototypes=64, tau_base=0.99, tau_final=1.0, target_network="ema", solver="accelerated"
        ),
        **{"target_temperature": 0.15, "beta.base": 0.9, "beta.final": 0.9},
    },
}


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """MIRA for one run; see `ssljax.methods.base.Method`."""
    head = MLP((config.hidden_dim, config.hidden_dim, config.output_dim), dtype=precision(config))
    net = network(backbone, head)
    averaged = config.target_network == "ema"

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        network_key, prototype_key = jax.random.split(key)
        params, stats = net.init(network_key, views[0])
        memory = {"target": target_of(params, stats, "backbone", "projector")} if averaged else {}
        params["prototypes"] = prototypes(prototype_key, config.prototypes, config.output_dim)
        return params, stats, memory

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        directions = losses.normalize(params["prototypes"])  # weight-normalised, with the gain fixed at 1
        z, stats = net.project(params, stats, batch.views, key)
        student = scores(z, directions)
        logits = student[:2]
        if averaged:
            target = jax.lax.stop_gradient(memory["target"])
            z_target, target_stats = net.project(target["params"], target["stats"], batch.views[:2], of_target(key))
            memory = {"target": {**target, "stats": target_stats}}
            logits = scores(z_target, directions)
        logits = jax.lax.stop_gradient(logits)
        beta = cosine_schedule(hyper["beta"]["base"], hyper["beta"]["final"], step, course.total_steps)
        solver = hyper["solver"]
        most = solver["max_iter"].astype(jnp.int32)
        solved = jax.vmap(
            lambda view: assign.mira(
                view,
                temperature=hyper["target_temperature"],
                beta=beta,
                tol=solver["tolerance"],
                max_iter=most,
                steps=most if config.solver == "plain" else None,
            )
        )(logits)
        pairs = cross_view_pairs(len(student))
        terms = [losses.soft_cross_entropy(student[b], solved.labels[a], hyper["temperature"]) for a, b in pairs]
        metrics = {
            **information("student", jax.nn.softmax(student[:2] / hyper["temperature"])),
            **information("target", jax.nn.softmax(logits / hyper["target_temperature"])),
            **information("labels", solved.labels),
            "solver.steps": jnp.max(solved.steps),
            "solver.residual": jnp.max(solved.residual),
        }
        return 2 * sum(terms, jnp.float32(0)) / len(terms), (stats, memory, metrics)

    def cosines(params: Tree, stats: Tree, memory: Tree, images: jax.Array) -> jax.Array:
        labelled = memory["target"] if averaged else {"params": params, "stats": stats}
        return scores(net.embed(labelled["params"], labelled["stats"], images), losses.normalize(params["prototypes"]))

    trainable = partial(freeze_prototypes, steps_per_epoch=course.steps_per_epoch)
    update = partial(move_target, total_steps=course.total_steps) if averaged else no_update
    return Method(VIEWS(config), init, loss, update, net.encode, trainable=trainable, scores=cosines)
