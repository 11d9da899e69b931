"""A backbone and a projector as pure functions over explicit parameters: the part that every method shares."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.methods.base import Tree
from ssljax.models import apply_views


class Network(NamedTuple):
    """Pure functions of an encoder with a head.

    Attributes:
      init: (key, images) -> (params, stats), params = {"backbone": ..., "projector": ...}.
      project: (params, stats, views) -> (outputs [views, batch, out], stats), train mode, each view on its own.
      encode: (params, stats, images) -> features [batch, dim], evaluation mode.
    """

    init: Callable[[jax.Array, jax.Array], tuple[Tree, Tree]]
    project: Callable[[Tree, Tree, tuple[jax.Array, ...]], tuple[jax.Array, Tree]]
    encode: Callable[[Tree, Tree, jax.Array], jax.Array]


def encoder_with_head(backbone: nn.Module, head: nn.Module) -> Network:
    """The functions of `head(backbone(images))`; the backbone may hold batch statistics, this head holds none."""

    def init(key: jax.Array, images: jax.Array) -> tuple[Tree, Tree]:
        backbone_key, head_key = jax.random.split(key)
        variables = backbone.init(backbone_key, images[:1], train=False)
        features = backbone.apply(variables, images[:1], train=False)
        params = {"backbone": variables["params"], "projector": head.init(head_key, features)["params"]}
        return params, variables.get("batch_stats", {})

    def project(params: Tree, stats: Tree, views: tuple[jax.Array, ...]) -> tuple[jax.Array, Tree]:
        def one(stats: Tree, images: jax.Array) -> tuple[Any, Tree]:
            variables = {"params": params["backbone"], "batch_stats": stats}
            features, updated = backbone.apply(variables, images, train=True, mutable=["batch_stats"])
            return head.apply({"params": params["projector"]}, features), updated.get("batch_stats", {})

        return apply_views(one, stats, jnp.stack(views))

    def encode(params: Tree, stats: Tree, images: jax.Array) -> jax.Array:
        features: Any = backbone.apply({"params": params["backbone"], "batch_stats": stats}, images, train=False)
        return features

    return Network(init, project, encode)
