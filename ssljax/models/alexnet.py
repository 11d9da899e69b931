"""AlexNet (Krizhevsky, 2014, "One weird trick") as torchvision lays it out, without the classifier: LPIPS reads its layers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.models.convolution import ConvGeneralDilated
from ssljax.models.layers import max_pool, scaled, torch_bias

# Channels, kernel side, stride and padding of each convolution of torchvision's `alexnet().features`.
PLAN = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
POOLED = (1, 2, 5)  # a max-pool follows these, counted from 1
POOL, POOL_STRIDE = 3, 2


class AlexNet(nn.Module):
    """Convolutional part of AlexNet.

    The five maps after the ReLUs are sown as relu1 ... relu5.

    Attributes:
      width: multiplies every channel count.
    """

    width: float = 1.0
    conv: ConvGeneralDilated = jax.lax.conv_general_dilated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """[batch, height, width, channels] -> features [batch, 256 x width] in float32, the mean over the last map."""
        del train  # nothing in it differs in training: the dropout of the original sits in the classifier
        x = images
        for layer, (channels, side, stride, padding) in enumerate(PLAN):
            x = nn.Conv(
                scaled(channels, self.width),
                (side, side),
                strides=(stride, stride),
                padding=padding,
                # torchvision leaves AlexNet with PyTorch's default start.
                kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
                bias_init=torch_bias(side * side * x.shape[-1]),
                dtype=self.dtype,
                conv_general_dilated=self.conv,
                name=f"conv{layer}",
            )(x)
            x = nn.relu(x)
            self.sow("intermediates", f"relu{layer + 1}", x)
            # A small image leaves out the pools that it has no pixels for.
            if layer + 1 in POOLED and min(x.shape[1:3]) >= POOL:
                x = max_pool(x, POOL, POOL_STRIDE)
        return x.mean(axis=(1, 2)).astype(jnp.float32)
