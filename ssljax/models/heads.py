"""Heads: the small networks between a backbone's features and a method's loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.models.layers import Linear, batch_norm


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, as PyTorch's default; flax's own default is the tanh approximation."""
    return nn.gelu(x, approximate=False)


class MLP(nn.Module):
    """Linear layers with an activation between: every projector and predictor of the table of methods.

    Attributes:
      widths: of each layer; the last is the output.
      normalise: batch normalisation after every layer but the last.
      output_norm: after the last layer: "" for nothing, "affine" or "plain" (no scale, no offset) batch normalisation.
      hidden_bias, output_bias: whether the layers have one.
      activation: between the layers.
      kernel_init, bias_init: of every layer; None for PyTorch's default.
      dtype: compute type; parameters, batch statistics and outputs are float32.
    """

    widths: tuple[int, ...]
    normalise: bool = True
    output_norm: str = ""
    hidden_bias: bool = True
    output_bias: bool = True
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: Any = None
    bias_init: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[batch, dim] -> [batch, widths[-1]] in float32."""
        inits = {"kernel_init": self.kernel_init, "bias_init": self.bias_init, "dtype": self.dtype}
        for i, width in enumerate(self.widths[:-1], 1):
            x = Linear(width, use_bias=self.hidden_bias, name=f"linear{i}", **inits)(x)
            if self.normalise:
                x = batch_norm(train, self.dtype, f"bn{i}")(x)
            x = self.activation(x)
        last = len(self.widths)
        x = Linear(self.widths[-1], use_bias=self.output_bias, name=f"linear{last}", **inits)(x)
        if self.output_norm:
            affine = self.output_norm == "affine"
            x = batch_norm(train, self.dtype, f"bn{last}", use_scale=affine, use_bias=affine)(x)
        return x.astype(jnp.float32)
