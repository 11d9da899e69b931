"""Networks in flax.linen: backbones by name and the heads that methods put on them."""

import dataclasses
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.errors import UserError, unknown
from ssljax.models import resnet, vgg
from ssljax.models.alexnet import AlexNet
from ssljax.models.convnext import ConvNeXt
from ssljax.models.convolution import CONVOLUTIONS
from ssljax.models.heads import MLP, gelu
from ssljax.models.layers import BN_MOMENTUM, Linear
from ssljax.models.resnet import ResNet
from ssljax.models.vgg import VGG

__all__ = [
    "BACKBONES",
    "MLP",
    "PRECISIONS",
    "VGG",
    "AlexNet",
    "ConvNeXt",
    "Linear",
    "ResNet",
    "apply_views",
    "backbone",
    "gelu",
    "inner_features",
]


def _row(module: type[nn.Module], **fixed: Any) -> Callable[..., nn.Module]:
    """A function from the options of `backbone` to a module, which takes those that it has."""
    own = {field.name for field in dataclasses.fields(module)}
    return lambda **options: module(**fixed, **{name: value for name, value in options.items() if name in own})


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "alexnet": _row(AlexNet),
    "convnext_tiny": _row(ConvNeXt),
    **{f"resnet{depth}": _row(ResNet, blocks=plan, bottleneck=deep) for depth, (plan, deep) in resnet.PLANS.items()},
    **{f"vgg{depth}": _row(VGG, plan=plan) for depth, plan in vgg.PLANS.items()},
    **{f"vgg{depth}_bn": _row(VGG, plan=plan, normalise=True) for depth, plan in vgg.PLANS.items()},
}

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def backbone(
    name: str,
    *,
    width: float = 1.0,
    stem: str = "cifar",
    stem_padding: int = 1,
    precision: str = "float32",
    convolution: str = "auto",
    stochastic_depth: float = 0.1,
) -> nn.Module:
    """A backbone by name: a module from images [batch, h, w, c] and `train` to float32 features [batch, dim].

    Args:
      name: a key of `BACKBONES`.
      width: multiplies every channel count.
      stem, stem_padding: see `ResNet` and `ConvNeXt`; VGG and AlexNet have one stem and ignore them.
      precision: compute type, "float32" or "bfloat16"; parameters and batch statistics are float32 always.
      convolution: "lax", "matmul" or "auto": "matmul" on CPU, where it is the faster one under `vmap` over runs.
      stochastic_depth: see `ConvNeXt`; the others ignore it. In [0, 1).

    Raises:
      UserError: unknown name, or a `stochastic_depth` outside its range.
    """
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES, "--backbone")
    if not 0 <= stochastic_depth < 1:
        raise UserError(f"--stochastic_depth: a probability of at least 0 and below 1, given {stochastic_depth}")
    if convolution == "auto":
        convolution = "matmul" if jax.default_backend() == "cpu" else "lax"
    return BACKBONES[name](
        width=width,
        stem=stem,
        stem_padding=stem_padding,
        stochastic_depth=stochastic_depth,
        dtype=PRECISIONS[precision],
        conv=CONVOLUTIONS[convolution],
    )


def inner_features(module: nn.Module, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    """What a backbone's layers see in evaluation mode: those that it sows, by name in order, then "pooled", its features.

    Args:
      module: from `backbone`.
      variables: {"params": ..., "batch_stats": ...}.
      images: [batch, height, width, channels].

    Returns:
      [batch, height', width', channels'] each, and "pooled" [batch, dim].
    """
    pooled, state = module.apply(variables, images, train=False, mutable=["intermediates"])
    return {name: value for name, (value,) in state["intermediates"].items()} | {"pooled": pooled}


def apply_views(apply: Callable[[Any, Any], tuple[jax.Array, Any]], stats: Any, views: Any) -> tuple[jax.Array, Any]:
    """Applies a network in train mode to each view on its own, as one batched computation or, where batches are spread over
    devices, one by one.

    Batch statistics are taken per view, and the running averages come out as if the views had been passed one after
    another: with r_i = m r + (1 - m) s_i from the shared start r, the sequential average is
    m^n r + sum_i m^(n-1-i) (r_i - m r).

    Args:
      apply: (stats, view) -> (output, new stats).
      stats: running batch statistics (a pytree, possibly empty).
      views: a pytree of arrays whose leading axis is the views': images [views, batch, height, width, channels], say.

    Returns:
      outputs [views, batch, ...] and the new statistics.
    """
    n = len(jax.tree.leaves(views)[0])
    if jax.sharding.get_abstract_mesh().shape.get("data", 1) > 1:
        # A batched convolution merges views and images into one axis, of which no sharding can give each device its share of every
        # view: the compiler would gather the whole batch to all of them.
        each = [apply(stats, jax.tree.map(itemgetter(i), views)) for i in range(n)]
        outputs, updated = jax.tree.map(lambda *of_views: jnp.stack(of_views), *each)
    else:
        outputs, updated = jax.vmap(apply, in_axes=(None, 0))(stats, views)
    weights = BN_MOMENTUM ** jnp.arange(n - 1, -1, -1)

    def merge(old: jax.Array, new: jax.Array) -> jax.Array:
        return BN_MOMENTUM**n * old + jnp.tensordot(
            weights, new - BN_MOMENTUM * old, axes=1, precision=jax.lax.Precision.HIGHEST
        )

    return outputs, jax.tree.map(merge, stats, updated)
