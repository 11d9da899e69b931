"""VGG (Simonyan and Zisserman, 2015), configurations A and B, ending in a global average pool instead of the classifier."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.models.layers import ConvGeneralDilated, batch_norm, kaiming_fan_out

# Table 1 of the VGG paper: output channels of each 3x3 convolution, None is a 2x2 max-pool.
PLANS: dict[int, tuple[int | None, ...]] = {
    11: (64, None, 128, None, 256, 256, None, 512, 512, None, 512, 512, None),
    13: (64, 64, None, 128, 128, None, 256, 256, None, 512, 512, None, 512, 512, None),
}


class VGG(nn.Module):
    """Convolutional part of VGG.

    Attributes:
      plan: channels of each convolution, None for a pool.
      width: multiplies every channel count.
      normalise: batch normalisation after each convolution (torchvision's `_bn` variants).
    """

    plan: tuple[int | None, ...]
    width: float = 1.0
    normalise: bool = False
    conv: ConvGeneralDilated = jax.lax.conv_general_dilated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """[batch, height, width, channels] -> features [batch, 512 x width] in float32."""
        x, layer = images, 0
        for channels in self.plan:
            if channels is None:
                # Five halvings need 32 px; a smaller image leaves out the pools that it has no pixels for.
                if min(x.shape[1:3]) > 1:
                    x = nn.max_pool(x, (2, 2), strides=(2, 2))
                continue
            x = nn.Conv(
                max(1, round(channels * self.width)),
                (3, 3),
                padding=1,
                kernel_init=kaiming_fan_out,
                dtype=self.dtype,
                conv_general_dilated=self.conv,
                name=f"conv{layer}",
            )(x)
            if self.normalise:
                x = batch_norm(train, self.dtype, f"bn{layer}")(x)
            x, layer = nn.relu(x), layer + 1
        return x.mean(axis=(1, 2)).astype(jnp.float32)
