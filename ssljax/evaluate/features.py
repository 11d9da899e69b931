"""Features of images under trained encoders: the one file of `evaluate` that touches JAX."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import augment
from ssljax.train.loop import Trained
from ssljax.train.step import over_runs, to_unit

LAYER = "the backbone's last layer after global average pooling, before the projector, batch statistics frozen"


def extract(trained: Trained, images: np.ndarray, *, image_size: int, batch_size: int = 256) -> np.ndarray:
    """Features of every image under every run.

    Images are only resized: no other transform. The layer is `LAYER`.

    Args:
      trained: the runs.
      images: integers [n, height, width, channels].
      image_size: side in pixels that the network sees.
      batch_size: images at a time; it bounds memory and changes nothing else.

    Returns:
      float32 [runs, n, dim].
    """
    resize = augment.parse("none").views[0]
    encode = over_runs(trained.program.encode, (0, None, None))

    @jax.jit
    def features(state: Any, batch: jax.Array) -> jax.Array:
        unit = augment.apply_view(resize, jax.random.key(0), to_unit(batch), {}, image_size=image_size)
        return encode(state, unit, trained.data)

    batch_size = min(batch_size, len(images))
    parts = []
    for start in range(0, len(images), batch_size):
        # The last batch reaches back so that all have one shape and one compilation serves them.
        first = min(start, len(images) - batch_size)
        part = np.asarray(features(trained.state, jnp.asarray(images[first : first + batch_size])))
        parts.append(part[:, start - first :])
    return np.concatenate(parts, axis=1)


def transformed(trained: Trained, transforms: str, image_size: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Features of freshly transformed training images: (indices [runs, batch], keys [runs]) -> [runs, batch, dim].

    Args:
      trained: the runs, with the training images that the indices name.
      transforms: a transform set; its first view is used.
      image_size: side in pixels that the network sees.
    """
    parsed = augment.parse(transforms)
    view, hyper = parsed.views[0], augment.hyper(parsed)["view1"]

    def one(state: Any, index: jax.Array, key: jax.Array, data: Any) -> jax.Array:
        images = to_unit(data.images[index])
        drawn = augment.apply_view(view, key, images, jax.tree.map(jnp.float32, hyper), image_size=image_size)
        return trained.program.encode(state, drawn, data)

    many = jax.jit(over_runs(one, (0, 0, 0, None)))
    return lambda index, keys: many(trained.state, index, keys, trained.data)
