"""A backbone with its heads as pure functions over explicit parameters: the part that every method shares."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ssljax import assign
from ssljax.losses import normalize
from ssljax.methods.base import Batch, Method, Tree, View, no_update
from ssljax.models import PRECISIONS, apply_views


class Network(NamedTuple):
    """Pure functions of an encoder with heads. Parameters and batch statistics are dicts by part of the network.

    The parts are "backbone", "projector" and, where there is one, "predictor".

    Attributes:
      init: (key, images) -> (params, stats).
      project: (params, stats, views, key) -> (z [views, batch, out], stats), train mode, each view on its own, in the order
        given; the key is for backbones that draw (stochastic depth), each view its own.
      predict: (params, stats, z [views, batch, out]) -> (p, stats), likewise.
      encode: (params, stats, images) -> features [batch, dim] of the backbone, evaluation mode.
      embed: (params, stats, images) -> z [batch, out] of the projector on the backbone, evaluation mode.
    """

    init: Callable[[jax.Array, jax.Array], tuple[Tree, Tree]]
    project: Callable[[Tree, Tree, Sequence[jax.Array], jax.Array], tuple[jax.Array, Tree]]
    predict: Callable[[Tree, Tree, jax.Array], tuple[jax.Array, Tree]]
    encode: Callable[[Tree, Tree, jax.Array], jax.Array]
    embed: Callable[[Tree, Tree, jax.Array], jax.Array]


def network(backbone: nn.Module, projector: nn.Module, predictor: nn.Module | None = None) -> Network:
    """The functions of `predictor(projector(backbone(images)))`; any part may hold batch statistics."""
    heads = {"projector": projector} | ({"predictor": predictor} if predictor is not None else {})

    def init(key: jax.Array, images: jax.Array) -> tuple[Tree, Tree]:
        params: dict[str, Tree] = {}
        stats: dict[str, Tree] = {}
        x: Any = images[:1]
        for (name, module), own in zip({"backbone": backbone, **heads}.items(), jax.random.split(key, 3)):
            variables = module.init(own, x, train=False)
            params[name], stats[name] = variables["params"], variables.get("batch_stats", {})
            x = module.apply(variables, x, train=False)
        return params, stats

    def apply(
        parts: dict[str, nn.Module], params: Tree, stats: Tree, views: jax.Array, keys: jax.Array
    ) -> tuple[jax.Array, Tree]:
        def one(own: Tree, view: tuple[Any, jax.Array]) -> tuple[Any, Tree]:
            x, key = view
            updated = {}
            for name, module in parts.items():
                variables = {"params": params[name], "batch_stats": own[name]}
                x, changed = module.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key})
                updated[name] = changed.get("batch_stats", {})
            return x, updated

        out, updated = apply_views(one, {name: stats[name] for name in parts}, (views, keys))
        return out, {**stats, **updated}

    def project(params: Tree, stats: Tree, views: Sequence[jax.Array], key: jax.Array) -> tuple[jax.Array, Tree]:
        parts = {"backbone": backbone, "projector": projector}
        outputs, keys = [], jax.random.split(key, len(views))
        for _, same in groupby(range(len(views)), key=lambda i: views[i].shape):
            chosen = np.array(list(same))  # views of one size are one batched computation
            z, stats = apply(parts, params, stats, jnp.stack([views[i] for i in chosen]), keys[chosen])
            outputs.append(z)
        return jnp.concatenate(outputs), stats

    def predict(params: Tree, stats: Tree, z: jax.Array) -> tuple[jax.Array, Tree]:
        unused = jax.random.split(jax.random.key(0), len(z))  # no predictor draws
        return apply({"predictor": heads["predictor"]}, params, stats, z, unused)

    def encode(params: Tree, stats: Tree, images: jax.Array) -> jax.Array:
        variables = {"params": params["backbone"], "batch_stats": stats["backbone"]}
        features: Any = backbone.apply(variables, images, train=False)
        return features

    def embed(params: Tree, stats: Tree, images: jax.Array) -> jax.Array:
        variables = {"params": params["projector"], "batch_stats": stats["projector"]}
        z: Any = projector.apply(variables, encode(params, stats, images), train=False)
        return z

    return Network(init, project, predict, encode, embed)


def memoryless(
    views: tuple[View, ...], net: Network, value: Callable[[jax.Array, jax.Array, Tree], jax.Array]
) -> Method:
    """The method whose loss is a function (z1, z2, hyper) of two views' projections and that carries nothing else.

    Args:
      views: its plan, of two views.
      net: what projects them.
      value: the loss; gradients flow into both projections.
    """

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        return *net.init(key, views[0]), {}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        del step
        (z1, z2), stats = net.project(params, stats, batch.views, key)
        return value(z1, z2, hyper), (stats, memory, {})

    return Method(views, init, loss, no_update, net.encode)


def precision(config: Any) -> Any:
    """The compute type of a config's networks."""
    return PRECISIONS[config.precision]


def prototypes(key: jax.Array, count: int, dim: int) -> jax.Array:
    """Prototypes [count, dim] to start from: PyTorch's linear layer without bias, uniform in +-1/sqrt(dim)."""
    return jax.random.uniform(key, (count, dim), minval=-(dim**-0.5), maxval=dim**-0.5)


def scores(z: jax.Array, prototypes: jax.Array) -> jax.Array:
    """[..., count], in float32: unit z [..., dim] times prototypes [count, dim]; cosines where these are unit rows."""
    # Full float32 on accelerators too: these are divided by temperatures of .04 and exponentiated.
    return jnp.matmul(normalize(z), prototypes.T, precision=jax.lax.Precision.HIGHEST)


def information(name: str, probabilities: jax.Array) -> dict[str, jax.Array]:
    """Metrics of probabilities [views, batch, classes]: entropies and mutual information in nats, the mean over the views."""
    each = jax.vmap(assign.mutual_information)(jax.lax.stop_gradient(probabilities))
    return {
        f"{name}.row_entropy": each.row.mean(),
        f"{name}.marginal_entropy": each.marginal.mean(),
        f"{name}.mutual_information": each.mutual.mean(),
    }
