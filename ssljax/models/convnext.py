"""ConvNeXt (Liu et al., 2022) as torchvision lays it out: layer scale, stochastic depth, a norm after the global pool."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax.models.convolution import ConvGeneralDilated
from ssljax.models.heads import gelu
from ssljax.models.layers import between_blocks, scaled

TINY = (3, 3, 9, 3)  # blocks in each stage, and their channels (section 3 of the paper)
CHANNELS = (96, 192, 384, 768)
STEMS = {"cifar": 2, "imagenet": 4}  # side of the first kernel
LAYER_SCALE = 1e-6  # where every residual branch starts (appendix A.1)

# Standard deviation .02 (appendix A.1). The paper's truncation is at +-2, a hundred deviations: none.
start = nn.initializers.normal(0.02)


def layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
    """Normalisation over channels, eps 1e-6; the variance is taken in two passes, as one pass does not resolve this eps."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name)


def patches(x: jax.Array, features: int, side: int, conv: ConvGeneralDilated, dtype: Any, name: str) -> jax.Array:
    """A linear map of patches that do not overlap; an image smaller than one patch is padded with zeros to one."""
    return nn.Conv(
        features,
        (side, side),
        strides=(side, side),
        padding=[(0, max(0, side - size)) for size in x.shape[1:3]],
        kernel_init=start,
        dtype=dtype,
        conv_general_dilated=conv,
        name=name,
    )(x)


class Block(nn.Module):
    """x + layer scale * (7x7 depthwise convolution, norm, two dense layers with a GELU between).

    Attributes:
      drop: probability that an image of a training batch passes by the branch; those that take it have it scaled by
        1 / (1 - drop). Draws from the rng "dropout" when above 0.
    """

    drop: float
    conv: ConvGeneralDilated
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        dense = partial(nn.Dense, kernel_init=start, dtype=self.dtype)
        y = nn.Conv(
            channels,
            (7, 7),
            padding=3,
            feature_group_count=channels,
            kernel_init=start,
            dtype=self.dtype,
            conv_general_dilated=self.conv,
            name="depthwise",
        )(x)
        y = layer_norm(self.dtype, "norm")(y)
        y = gelu(dense(4 * channels, name="pointwise1")(y))
        y = dense(channels, name="pointwise2")(y)
        y *= self.param("layer_scale", nn.initializers.constant(LAYER_SCALE), (channels,)).astype(y.dtype)
        if train and self.drop > 0:
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.drop, (len(x), 1, 1, 1))
            y = jnp.where(kept, y / (1 - self.drop), 0)
        return x + y


class ConvNeXt(nn.Module):
    """Convolutional part of a ConvNeXt, with the norm that follows the global pool.

    The maps after the four stages are sown as stage1 ... stage4.

    Attributes:
      blocks: in each of the four stages.
      width: multiplies every channel count.
      stem: "imagenet" (patches of 4x4) or "cifar" (2x2: stages of 16, 8, 4 and 2 pixels at 32, our choice).
      stochastic_depth: probability of passing by the last block in training; it grows linearly from 0 at the first. .1
        is the paper's for ConvNeXt-T (table 5). Above 0, training needs the rng "dropout".
    """

    blocks: tuple[int, ...] = TINY
    width: float = 1.0
    stem: str = "cifar"
    stochastic_depth: float = 0.1
    conv: ConvGeneralDilated = jax.lax.conv_general_dilated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """[batch, height, width, channels] -> features [batch, 768 x width] in float32."""
        channels = [scaled(count, self.width) for count in CHANNELS]
        x = patches(images, channels[0], STEMS[self.stem], self.conv, self.dtype, "stem")
        x = layer_norm(self.dtype, "stem_norm")(x)
        growth = self.stochastic_depth / (sum(self.blocks) - 1)
        for stage, count in enumerate(self.blocks):
            if stage > 0:
                x = layer_norm(self.dtype, f"downsample{stage + 1}_norm")(x)
                x = patches(x, channels[stage], 2, self.conv, self.dtype, f"downsample{stage + 1}")
            for block in range(count):
                drop = growth * (sum(self.blocks[:stage]) + block)
                x = between_blocks(Block(drop, self.conv, self.dtype, name=f"stage{stage + 1}_{block}")(x, train))
            self.sow("intermediates", f"stage{stage + 1}", x)
        return layer_norm(jnp.float32, "norm")(x.mean(axis=(1, 2)))
