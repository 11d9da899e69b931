"""VGG (Simonyan and Zisserman, 2015), configurations A, B, D and E, ending in a global average pool, not the classifier."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.models.convolution import ConvGeneralDilated
from ssljax.models.layers import batch_norm, between_blocks, kaiming_fan_out, max_pool, scaled

# Table 1 of the VGG paper: 3x3 convolutions in each block before its 2x2 max-pool, and the channels of the blocks.
PLANS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Convolutional part of VGG.

    The maps after the ReLUs are sown as relu1_1, relu1_2, relu2_1 ..., by block and convolution.

    Attributes:
      plan: convolutions in each of the five blocks.
      width: multiplies every channel count.
      normalise: batch normalisation after each convolution (torchvision's `_bn` variants).
    """

    plan: tuple[int, ...]
    width: float = 1.0
    normalise: bool = False
    conv: ConvGeneralDilated = jax.lax.conv_general_dilated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """[batch, height, width, channels] -> features [batch, 512 x width] in float32."""
        x, layer = images, 0
        for block, (count, channels) in enumerate(zip(self.plan, CHANNELS, strict=True), 1):
            for convolution in range(1, count + 1):
                x = nn.Conv(
                    scaled(channels, self.width),
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
                self.sow("intermediates", f"relu{block}_{convolution}", x)
            # Five halvings need 32 px; a smaller image leaves out the pools that it has no pixels for.
            if min(x.shape[1:3]) > 1:
                x = max_pool(x, 2, 2)
            x = between_blocks(x)
        return x.mean(axis=(1, 2)).astype(jnp.float32)
