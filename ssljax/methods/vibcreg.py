"""VIbCReg (Lee and Aune, 2021): VICReg with a whitened projection and a covariance that knows no scale.

Loss: invariance x mean (z1 - z2)^2 + variance x [h(z1) + h(z2)] + covariance x [c(z1) + c(z2)]; h as VICReg's, c
the mean over D^2 of the squared off-diagonal inner products of dimensions that are centred and brought to unit
length over the batch (section 3).
Memory: none.
What people get wrong: the projector has GELU and ends in IterNorm (groups of 32 dimensions, 5 Newton steps, eps
1e-5, then a scale and an offset); the covariance is a mean over D^2, hence its weight of 200; solo-learn's LARS has
no clip here.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax import losses
from ssljax.errors import UserError
from ssljax.methods.base import Course, Method, Traced, Tree, two_global_views
from ssljax.methods.networks import memoryless, network, precision
from ssljax.models import MLP, gelu
from ssljax.models.layers import iterative_normalization

VIEWS = two_global_views

HYPER = {
    "invariance": Traced("weight of the invariance term", 25.0),
    "variance": Traced("weight of the variance term", 25.0),
    "covariance": Traced("weight of the covariance term", 200.0),
}

_SHARED = dict(learning_rate=0.3, weight_decay=1e-4, hidden_dim=2048, output_dim=2048)

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,
    "solo": {**_SHARED, "optimizer": "lars_solo_unclipped", "transforms": "solo_vicreg"},
    "digits": {},
}

GROUP = 32  # dimensions that are whitened together: 64 groups in 2048


class _WhiteningProjector(nn.Module):
    """Three layers with GELU, then IterNorm with a scale and an offset."""

    hidden: int
    out: int
    dtype: Any

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        """[batch, dim] -> [batch, out] in float32."""
        widths = (self.hidden, self.hidden, self.out)
        z = MLP(widths, activation=gelu, dtype=self.dtype, name="mlp")(features, train)
        whitened = iterative_normalization(z, group_size=min(GROUP, self.out))
        scale = self.param("scale", nn.initializers.ones, (self.out,), jnp.float32)
        offset = self.param("bias", nn.initializers.zeros, (self.out,), jnp.float32)
        return whitened * scale + offset


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """VIbCReg for one run; see `ssljax.methods.base.Method`.

    Raises:
      UserError: the output is no multiple of the groups that are whitened together.
    """
    del course
    if config.output_dim > GROUP and config.output_dim % GROUP:
        raise UserError(f"--output_dim: vibcreg whitens groups of {GROUP} dimensions, given {config.output_dim}")
    net = network(backbone, _WhiteningProjector(config.hidden_dim, config.output_dim, precision(config)))

    def value(z1: jax.Array, z2: jax.Array, hyper: Tree) -> jax.Array:
        return losses.vibcreg(z1, z2, **{name: hyper[name] for name in HYPER})

    return memoryless(VIEWS(config), net, value)
