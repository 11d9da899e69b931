"""Layers that networks share: pooling, the initialisers of the papers' framework, normalisation, whitening."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from ssljax.errors import UserError


def scaled(channels: int, width: float) -> int:
    """A channel count times a network's width, at least 1."""
    return max(1, round(channels * width))


# torchvision initialises the convolutions of ResNet and VGG with Kaiming's normal, fan-out, gain of ReLU.
kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


MAPS = "maps between blocks"


def between_blocks(x: jax.Array) -> jax.Array:
    """The map itself, marked as one that the gradient keeps where it computes all others again (`--remat=blocks`)."""
    return checkpoint_name(x, MAPS)


def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
    """Maximum over square windows of images [batch, height, width, channels]; the border is never the maximum.

    The maximum of strided slices: XLA's own windowed maximum has a gradient (select and scatter) that takes ten times as long
    on CPU. Pixels that tie share the gradient, where PyTorch gives it to the first of them.
    """
    for axis in (1, 2):
        if padding:
            pads = [(0, 0)] * x.ndim
            pads[axis] = (padding, padding)
            x = jnp.pad(x, pads, constant_values=-jnp.inf)
        count = (x.shape[axis] - window) // stride + 1
        slices = (
            jax.lax.slice_in_dim(x, i, i + stride * (count - 1) + 1, stride=stride, axis=axis) for i in range(window)
        )
        x = functools.reduce(jnp.maximum, slices)
    return x


def torch_bias(fan_in: int) -> Callable[..., jax.Array]:
    """PyTorch's default initialiser of biases: uniform in +-1/sqrt(fan in)."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class Linear(nn.Module):
    """A dense layer that starts as PyTorch's does, weight and bias uniform in +-1/sqrt(fan in), unless told otherwise."""

    features: int
    use_bias: bool = True
    kernel_init: Any = None
    bias_init: Any = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(
            self.features,
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=self.kernel_init or nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            bias_init=self.bias_init or torch_bias(x.shape[-1]),
            name="dense",
        )(x)


BN_MOMENTUM = 0.9  # the share of the old value that is kept; PyTorch writes the same as momentum .1


def batch_norm(train: bool, dtype: Any, name: str, **options: Any) -> nn.BatchNorm:
    """Batch normalisation with PyTorch's defaults (eps 1e-5); statistics are float32 whatever the compute type."""
    return nn.BatchNorm(
        use_running_average=not train, momentum=BN_MOMENTUM, epsilon=1e-5, dtype=dtype, name=name, **options
    )


def iterative_normalization(x: jax.Array, group_size: int = 32, iterations: int = 5, eps: float = 1e-5) -> jax.Array:
    """Whitens groups of features over the batch by Newton's iteration for the inverse root of their covariance.

    Args:
      x: [batch, dim]; group g is columns g * group_size to (g + 1) * group_size.
      group_size: features whitened together; divides dim. 32, 5 and 1e-5 are VIbCReg's values.
      iterations: Newton steps T. Directions of little variance are whitened last; a few steps leave them small.
      eps: added to the diagonal of the covariance.

    Returns:
      [batch, dim] in float32: Xc P_T / sqrt(tr S), with Xc the centred group, S = Xc^T Xc / batch + eps I,
      P_0 = I and P_t = (3 P_(t-1) - P_(t-1)^3 S / tr S) / 2. Differentiable.

    Raises:
      UserError: dim is no multiple of group_size.

    References:
      Huang et al., 2019 (Iterative Normalization), algorithm 1.
    """
    n, dim = x.shape
    if dim % group_size:
        raise UserError(f"iterative_normalization: {dim} features do not divide into groups of group_size={group_size}")
    # At their default precision accelerators round the products of float32 matrices to fewer bits.
    matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    groups = x.astype(jnp.float32).reshape(n, dim // group_size, group_size).swapaxes(0, 1)
    centred = groups - groups.mean(axis=1, keepdims=True)
    identity = jnp.eye(group_size)
    covariance = matmul(centred.mT, centred) / n + eps * identity
    trace = jnp.trace(covariance, axis1=1, axis2=2)[:, None, None]
    # Newton's iteration on its own amplifies rounding that does not commute with S. Kept beside P_t, its product with
    # S / tr S gives the same P_t at the same cost, stably (Higham, 1997, "Stable iterations for the matrix square root").
    root, product = jnp.broadcast_to(identity, covariance.shape), covariance / trace
    for _ in range(iterations):
        step = (3 * identity - matmul(root, product)) / 2
        root, product = matmul(step, root), matmul(product, step)
    return matmul(centred, root * jax.lax.rsqrt(trace)).swapaxes(0, 1).reshape(n, dim)
