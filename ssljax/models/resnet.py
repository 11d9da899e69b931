"""ResNet (He et al., 2016) as torchvision lays it out, with the ImageNet stem and the CIFAR stem."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.models.convolution import ConvGeneralDilated
from ssljax.models.layers import batch_norm, between_blocks, kaiming_fan_out, max_pool, scaled

# Table 1 of the paper: residual blocks in each of the four stages, and whether they are bottlenecks.
PLANS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
CHANNELS = (64, 128, 256, 512)  # of the four stages' 3x3 convolutions
EXPANSION = 4  # of a bottleneck's output over its 3x3 convolution
STEMS = {"cifar": 3, "imagenet": 7}  # side of the first kernel


class Block(nn.Module):
    """Residual block: the identity, or a 1x1 projection of it where the shape changes, plus two or three convolutions.

    Attributes:
      channels: of the 3x3 convolutions.
      stride: of the block; a bottleneck has it in its 3x3 convolution, as torchvision (ResNet v1.5), not in its first.
      bottleneck: 1x1, 3x3 and 1x1 with `EXPANSION` times the channels, instead of 3x3 and 3x3.
      zero_init_residual: the last normalisation's scale starts at 0.
    """

    channels: int
    stride: int
    bottleneck: bool
    zero_init_residual: bool
    conv: ConvGeneralDilated
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def conv_bn(
            x: jax.Array, channels: int, side: int, stride: int, names: tuple[str, str], **norm: Any
        ) -> jax.Array:
            x = nn.Conv(
                channels,
                (side, side),
                strides=(stride, stride),
                padding=side // 2,
                use_bias=False,
                kernel_init=kaiming_fan_out,
                dtype=self.dtype,
                conv_general_dilated=self.conv,
                name=names[0],
            )(x)
            return batch_norm(train, self.dtype, names[1], **norm)(x)

        # Channels, kernel side and stride of each convolution.
        if self.bottleneck:
            plan = [(self.channels, 1, 1), (self.channels, 3, self.stride), (EXPANSION * self.channels, 1, 1)]
        else:
            plan = [(self.channels, 3, self.stride), (self.channels, 3, 1)]
        y = x
        for i, layer in enumerate(plan[:-1], 1):
            y = nn.relu(conv_bn(y, *layer, names=(f"conv{i}", f"bn{i}")))
        last = len(plan)
        scale = nn.initializers.zeros if self.zero_init_residual else nn.initializers.ones
        y = conv_bn(y, *plan[-1], names=(f"conv{last}", f"bn{last}"), scale_init=scale)
        if self.stride != 1 or x.shape[-1] != y.shape[-1]:
            x = conv_bn(x, y.shape[-1], 1, self.stride, names=("downsample", "downsample_bn"))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Convolutional part of a ResNet.

    The maps after the four stages are sown as layer1 ... layer4.

    Attributes:
      blocks: residual blocks in each of the four stages.
      bottleneck: whether these are bottlenecks (ResNet50 and deeper) or basic blocks.
      width: multiplies every channel count.
      stem: "cifar" (3x3, stride 1, no pool) or "imagenet" (7x7, stride 2, then a 3x3 max-pool of stride 2).
      stem_padding: padding of the CIFAR stem; torchvision's habit is 1, solo-learn and MIRA pad by 2 (34x34 out at 32 px).
      zero_init_residual: the last scale of each block starts at 0 (SimSiam).
    """

    blocks: tuple[int, ...]
    bottleneck: bool = False
    width: float = 1.0
    stem: str = "cifar"
    stem_padding: int = 1
    zero_init_residual: bool = False
    conv: ConvGeneralDilated = jax.lax.conv_general_dilated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """[batch, height, width, channels] -> features in float32, [batch, 512 x width], of bottlenecks 2048 x width."""
        channels = [scaled(count, self.width) for count in CHANNELS]
        small, side = self.stem == "cifar", STEMS[self.stem]
        x = nn.Conv(
            channels[0],
            (side, side),
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
            x = max_pool(x, 3, 2, 1)
        block = partial(
            Block,
            bottleneck=self.bottleneck,
            zero_init_residual=self.zero_init_residual,
            conv=self.conv,
            dtype=self.dtype,
        )
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                x = between_blocks(block(channels[stage], stride, name=f"layer{stage + 1}_{i}")(x, train))
            self.sow("intermediates", f"layer{stage + 1}", x)
        return x.mean(axis=(1, 2)).astype(jnp.float32)
