"""Heads: the small networks between a backbone's features and a method's loss."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.models.layers import Linear


class Projector(nn.Module):
    """Two linear layers with a ReLU between, without normalisation: the head of SimCLR and of MoCo v2."""

    hidden: int
    out: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """[batch, dim] -> [batch, out] in float32."""
        x = nn.relu(Linear(self.hidden, dtype=self.dtype, name="linear1")(features))
        return Linear(self.out, dtype=self.dtype, name="linear2")(x).astype(jnp.float32)
