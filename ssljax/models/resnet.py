"""ResNet of basic blocks (He et al., 2016) as torchvision lays it out, with the ImageNet stem and the CIFAR stem."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.models.layers import ConvGeneralDilated, batch_norm, kaiming_fan_out


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the identity, or a 1x1 projection of it where the shape changes."""

    channels: int
    stride: int
    zero_init_residual: bool
    conv: ConvGeneralDilated
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(
            nn.Conv, use_bias=False, kernel_init=kaiming_fan_out, dtype=self.dtype, conv_general_dilated=self.conv
        )
        norm = partial(batch_norm, train, self.dtype)
        strides = (self.stride, self.stride)
        y = conv(self.channels, (3, 3), strides=strides, padding=1, name="conv1")(x)
        y = nn.relu(norm("bn1")(y))
        y = conv(self.channels, (3, 3), padding=1, name="conv2")(y)
        scale = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        y = norm("bn2", scale_init=scale)(y)
        if x.shape != y.shape:
            x = norm("downsample_bn")(conv(self.channels, (1, 1), strides=strides, padding=0, name="downsample")(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Convolutional part of a ResNet.

    Attributes:
      blocks: basic blocks in each of the four stages.
      width: multiplies every channel count.
      stem: "cifar" (3x3, stride 1, no pool) or "imagenet" (7x7, stride 2, then a 3x3 max-pool of stride 2).
      stem_padding: padding of the CIFAR stem; torchvision's habit is 1, solo-learn and MIRA pad by 2 (34x34 out at 32 px).
      zero_init_residual: the last scale of each block starts at 0 (SimSiam).
    """

    blocks: tuple[int, ...]
    width: float = 1.0
    stem: str = "cifar"
    stem_padding: int = 1
    zero_init_residual: bool = False
    conv: ConvGeneralDilated = jax.lax.conv_general_dilated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """[batch, height, width, channels] -> features [batch, 512 x width] in float32."""
        channels = [max(1, round(c * self.width)) for c in (64, 128, 256, 512)]
        small = self.stem == "cifar"
        x = nn.Conv(
            channels[0],
            (3, 3) if small else (7, 7),
            strides=(1, 1) if small else (2, 2),
            padding=self.stem_padding if small else 3,
            use_bias=False,
            kernel_init=kaiming_fan_out,
            dtype=self.dtype,
            conv_general_dilated=self.conv,
            name="conv1",
        )(images)
        x = nn.relu(batch_norm(train, self.dtype, "bn1")(x))
        if not small:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                x = BasicBlock(
                    channels[stage],
                    stride=2 if stage > 0 and block == 0 else 1,
                    zero_init_residual=self.zero_init_residual,
                    conv=self.conv,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{block}",
                )(x, train)
        return x.mean(axis=(1, 2)).astype(jnp.float32)
