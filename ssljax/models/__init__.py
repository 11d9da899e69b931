"""Networks in flax.linen: backbones by name and the heads that methods put on them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.errors import unknown
from ssljax.models.heads import MLP, gelu
from ssljax.models.layers import BN_MOMENTUM, CONVOLUTIONS, Linear
from ssljax.models.resnet import ResNet
from ssljax.models.vgg import PLANS, VGG

__all__ = ["BACKBONES", "MLP", "PRECISIONS", "VGG", "Linear", "ResNet", "apply_views", "backbone", "gelu"]


def _vgg(depth: int, normalise: bool = False) -> Callable[..., nn.Module]:
    def make(*, stem: str, stem_padding: int, **common: Any) -> nn.Module:
        del stem, stem_padding  # a VGG has one stem
        return VGG(plan=PLANS[depth], normalise=normalise, **common)

    return make


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "vgg11": _vgg(11),
    "vgg11_bn": _vgg(11, normalise=True),
    "vgg13": _vgg(13),
    "vgg13_bn": _vgg(13, normalise=True),
    "resnet18": partial(ResNet, blocks=(2, 2, 2, 2)),
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
) -> nn.Module:
    """A backbone by name: a module from images [batch, h, w, c] and `train` to float32 features [batch, dim].

    Args:
      name: a key of `BACKBONES`.
      width: multiplies every channel count.
      stem, stem_padding: see `ResNet`; a VGG has one stem only and ignores them.
      precision: compute type, "float32" or "bfloat16"; parameters and batch statistics are float32 always.
      convolution: "lax", "matmul" or "auto": "matmul" on CPU, where it is the faster one under `vmap` over runs.

    Raises:
      UserError: unknown name.
    """
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES, "--backbone")
    if convolution == "auto":
        convolution = "matmul" if jax.default_backend() == "cpu" else "lax"
    return BACKBONES[name](
        width=width, stem=stem, stem_padding=stem_padding, dtype=PRECISIONS[precision], conv=CONVOLUTIONS[convolution]
    )


def apply_views(
    apply: Callable[[Any, jax.Array], tuple[jax.Array, Any]], stats: Any, views: jax.Array
) -> tuple[jax.Array, Any]:
    """Applies a network in train mode to each view on its own, as one batched computation.

    Batch statistics are taken per view, and the running averages come out as if the views had been passed one after
    another: with r_i = m r + (1 - m) s_i from the shared start r, the sequential average is
    m^n r + sum_i m^(n-1-i) (r_i - m r).

    Args:
      apply: (stats, images) -> (output, new stats).
      stats: running batch statistics (a pytree, possibly empty).
      views: [views, batch, height, width, channels], all of one size.

    Returns:
      outputs [views, batch, ...] and the new statistics.
    """
    outputs, updated = jax.vmap(apply, in_axes=(None, 0))(stats, views)
    n = views.shape[0]
    weights = BN_MOMENTUM ** jnp.arange(n - 1, -1, -1)

    def merge(old: jax.Array, new: jax.Array) -> jax.Array:
        return BN_MOMENTUM**n * old + jnp.tensordot(
            weights, new - BN_MOMENTUM * old, axes=1, precision=jax.lax.Precision.HIGHEST
        )

    return outputs, jax.tree.map(merge, stats, updated)
