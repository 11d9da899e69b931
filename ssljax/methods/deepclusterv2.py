"""DeepCluster v2 (Caron et al., 2018, 2020): k-means on last epoch's projections gives this epoch's labels.

Loss: the cross entropy of softmax(p / T) with the image's cluster, p the cosines of a view's projection with the
centroids; the mean over views and over the heads' clusterings (Caron et al., 2020, appendix).
Memory: `bank`, every image's last projections [2, images, dim], one bank a global view; `prototypes`, the centroids
[heads, prototypes, dim]; `assignment`, each image's cluster [heads, images], -1 for an image not seen yet.
What people get wrong: nothing trains the prototypes: spherical k-means (10 iterations) overwrites them at each
epoch's start from the bank that the last epoch wrote; head h clusters bank h mod 2; the bank is filled by a pass
before the first epoch, or that epoch learns nothing.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax import assign, losses
from ssljax.errors import UserError
from ssljax.methods.base import TEMPERATURE, Batch, Course, Method, Traced, Tree, multi_crop_views, no_update
from ssljax.methods.networks import network, precision, prototypes, scores
from ssljax.models import MLP

VIEWS = multi_crop_views

HYPER = {
    **TEMPERATURE,
    "kmeans.iterations": Traced("iterations of k-means an epoch", 10.0, low=1.0, whole=True),  # Caron et al., 2020
}

_SHARED: dict[str, Any] = dict(
    learning_rate=0.6, weight_decay=1e-6, temperature=0.1, hidden_dim=2048, output_dim=128, prototypes=3000,
    prototype_heads=3, warmup_epochs=11,
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,
    # The official program's 800 epochs of 4096 images with multi-crop: a rate of 4.8, warmed up from .3, down to .0048.
    "paper@imagenet2012": dict(
        learning_rate=0.3, warmup_epochs=10, warmup_learning_rate=0.3, min_learning_rate=4.8e-3, epochs=800, local_crops=6,
        transforms="swav",
    ),
    "solo": {**_SHARED, "transforms": "solo_sym", "warmup_learning_rate": 0.0, "min_learning_rate": 6e-4},
    "solo@imagenet100": {},
    "digits": dict(temperature=0.1, prototypes=64, prototype_heads=3),
}  # fmt: skip


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """DeepCluster v2 for one run; see `ssljax.methods.base.Method`.

    Raises:
      UserError: more prototypes than images.
    """
    if config.prototypes > course.images:
        raise UserError(f"--prototypes: {config.prototypes} clusters are more than the {course.images} training images")
    net = network(backbone, MLP((config.hidden_dim, config.output_dim), dtype=precision(config)))
    heads = config.prototype_heads

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        network_key, prototype_key = jax.random.split(key)
        start = losses.normalize(prototypes(prototype_key, heads * config.prototypes, config.output_dim))
        memory = {
            "bank": jnp.zeros((2, course.images, config.output_dim)),
            "prototypes": start.reshape(heads, config.prototypes, config.output_dim),
            "assignment": jnp.full((heads, course.images), -1, jnp.int32),
        }
        return *net.init(network_key, views[0]), memory

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        del step
        z, stats = net.project(params, stats, batch.views, key)
        memory = jax.lax.stop_gradient(memory)
        terms = []
        for head in range(heads):
            logits = scores(z, memory["prototypes"][head])
            labels = memory["assignment"][head, batch.index]
            terms += [losses.deepcluster(view, labels, hyper["temperature"]) for view in logits]
        newest = jax.lax.stop_gradient(losses.normalize(z[:2]))
        memory = {**memory, "bank": memory["bank"].at[:, batch.index].set(newest)}
        return sum(terms, jnp.float32(0)) / len(terms), (stats, memory, {})

    def on_epoch(params: Tree, memory: Tree, hyper: Tree, key: jax.Array) -> Tree:
        del params
        iterations = hyper["kmeans"]["iterations"].astype(jnp.int32)
        found = [
            assign.spherical_kmeans(memory["bank"][head % 2], config.prototypes, own, iterations)
            for head, own in enumerate(jax.random.split(key, heads))
        ]
        return {
            **memory,
            "prototypes": jnp.stack([each.centroids for each in found]),
            "assignment": jnp.stack([each.assignment for each in found]),
        }

    def fill(*args: Any) -> Tree:
        return loss(*args)[1][1]

    return Method(VIEWS(config), init, loss, no_update, net.encode, on_epoch=on_epoch, fill=fill)
