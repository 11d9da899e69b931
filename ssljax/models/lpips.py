"""LPIPS (Zhang et al., 2018): how far apart two images look, by AlexNet's layers and the learned heads of version 0.1.

Both files of weights are the user's: torchvision's AlexNet, and the heads that come in the `lpips` wheel.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssljax.errors import UserError
from ssljax.models.alexnet import PLAN, AlexNet

# Means and deviations of the three channels in [-1, 1]: the scaling layer of the authors' code, version 0.1.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPS = 1e-10  # added to the length of a pixel's channels; the authors' code
SMALLEST = 64  # px, the side that smaller images are brought to: AlexNet's maps of 32 px have a side of 1 (our choice)
CHANNELS = (1, 3)
LAYERS = tuple(f"relu{i}" for i in range(1, len(PLAN) + 1))
HEADS = tuple(f"lin{i}.model.1.weight" for i in range(len(PLAN)))  # the tensors' names in the wheel's file


class Weights(NamedTuple):
    """What the distance is computed with.

    Attributes:
      alexnet: parameters of `ssljax.models.alexnet.AlexNet` at width 1.
      heads: one non-negative weight a channel, for each of the five maps: [64], [192], [384], [256], [256].
    """

    alexnet: Any
    heads: tuple[jax.Array, ...]


def lpips(params: Weights, x: jax.Array, y: jax.Array) -> jax.Array:
    """Perceptual distance of each pair of images. Differentiable; symmetric; 0 for equal images, never below.

    Images whose shorter side is below 64 px are brought to that side first (bilinear); grey ones get three equal channels.

    Args:
      params: from `load`.
      x, y: [batch, height, width, 1 or 3], floats in [0, 1].

    Returns:
      [batch]: with f the maps after AlexNet's five ReLUs, each pixel's channels brought to unit length, and w >= 0 the
      heads, the sum over maps of mean over pixels of sum over channels of w (f(x) - f(y))^2.

    Raises:
      UserError: another number of channels, or images of two shapes. At trace time.

    References:
      Zhang et al., 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", equation 1, with the
      weights applied after the square as in the authors' code.

    Example:
      >>> params = load("alexnet-owt-7be5be79.pth", "lpips/weights/v0.1/alex.pth")
      >>> distance = lpips(params, images, images[:, ::-1])
    """
    if x.shape != y.shape or x.ndim != 4:
        raise UserError(f"lpips: given images of shapes {x.shape} and {y.shape}, expected one shape [batch, h, w, c]")
    check_channels(x.shape[-1], "lpips")
    total = jnp.zeros(len(x))
    # A measure must not depend on the device: at their default precision accelerators round float32 products.
    with jax.default_matmul_precision("highest"):
        for a, b, head in zip(_maps(params.alexnet, x), _maps(params.alexnet, y), params.heads, strict=True):
            total += (jnp.square(a - b) * head).sum(-1).mean((1, 2))
    return total


def _maps(alexnet: Any, images: jax.Array) -> list[jax.Array]:
    """The five maps of images in [0, 1], each pixel's channels of unit length."""
    height, width = images.shape[1:3]
    if min(height, width) < SMALLEST:
        larger = SMALLEST / min(height, width)
        shape = (len(images), round(height * larger), round(width * larger), images.shape[-1])
        images = jax.image.resize(images, shape, "linear")
    scaled = (2 * images - 1 - jnp.array(SHIFT)) / jnp.array(SCALE)  # one channel becomes three here
    # XLA's own convolution: the weights are shared by all images, so there is nothing to gain from another.
    _, state = AlexNet().apply({"params": alexnet}, scaled, mutable=["intermediates"])
    return [_unit(state["intermediates"][layer][0]) for layer in LAYERS]


def _unit(maps: jax.Array) -> jax.Array:
    squared = jnp.square(maps).sum(-1, keepdims=True)
    # The root has no finite gradient at 0; 1e-37, far below EPS squared, keeps it away from there.
    return maps / (jnp.sqrt(jnp.maximum(squared, 1e-37)) + EPS)


def check_channels(channels: int, where: str) -> None:
    """Raises `UserError` unless LPIPS is defined for images of this many channels."""
    if channels not in CHANNELS:
        raise UserError(f"{where}: LPIPS sees grey and colour images (1 or 3 channels), given {channels} channels")


def load(backbone_file: str | os.PathLike[str], heads_file: str | os.PathLike[str]) -> Weights:
    """The weights of the distance.

    Args:
      backbone_file: torchvision's AlexNet, `alexnet-owt-7be5be79.pth` or the same tensors as `.safetensors`. A `.pth` file
        that carries its hash in its name, as torchvision's do, has to have it.
      heads_file: `weights/v0.1/alex.pth` of the `lpips` wheel, or tensors of the same names as `.safetensors`.

    Raises:
      UserError: a file that cannot be read, that is not what its name says, or that holds other tensors.
    """
    from ssljax.models import weights

    _check_hash(Path(backbone_file))
    encoder = weights.load(backbone_file, backbone="alexnet", flag="--lpips_backbone")
    if (encoder.width, encoder.channels) != (1.0, 3):
        raise UserError(
            f"--lpips_backbone={backbone_file}: an AlexNet of width {encoder.width:g} for {encoder.channels} channels, "
            "expected torchvision's, of width 1 for 3"
        )
    return Weights(
        jax.tree.map(jnp.asarray, encoder.params),
        _heads(weights.read_tensors(heads_file, flag="--lpips_heads"), f"--lpips_heads={heads_file}"),
    )


def _heads(tensors: Mapping[str, np.ndarray], where: str) -> tuple[jax.Array, ...]:
    shapes = {name: (1, channels, 1, 1) for name, (channels, *_) in zip(HEADS, PLAN, strict=True)}
    if missing := [name for name in shapes if name not in tensors]:
        raise UserError(
            f"{where}: {missing[0]} is missing; expected the five heads of LPIPS, weights/v0.1/alex.pth of the lpips wheel"
        )
    for name, shape in shapes.items():
        found = tensors[name]
        if found.shape != shape:
            raise UserError(f"{where}: {name} has shape {found.shape}, expected {shape}: the heads of another network")
        if not (np.isfinite(found).all() and (found >= 0).all()):
            raise UserError(f"{where}: {name} has weights below 0 or not finite; heads of LPIPS have none")
    return tuple(jnp.asarray(tensors[name].reshape(-1), jnp.float32) for name in HEADS)


def _check_hash(file: Path) -> None:
    """Raises unless a file named NAME-<first 8 digits of its sha256>.pth holds what was hashed."""
    named = re.fullmatch(r".+-([0-9a-f]{8})\.pth", file.name)
    if named is None:
        return
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"--lpips_backbone={file}: cannot be read ({error.strerror})") from None
    if not digest.startswith(named[1]):
        raise UserError(
            f"--lpips_backbone={file}: its sha256 begins with {digest[:8]}, its name says {named[1]}: damaged, or another "
            "file; fetch it again"
        )
