"""Features of images under trained encoders, and how far apart a run's views look: the one file of `evaluate` that touches JAX."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import augment
from ssljax.config import Config
from ssljax.models.lpips import Weights, lpips
from ssljax.train.loop import Trained
from ssljax.train.step import (
    MEASURED_VIEWS,
    SCORED_ORDER,
    SCORED_VIEWS,
    derive,
    over_runs,
    sizes,
    sources,
    to_unit,
    transform_values,
)

log = logging.getLogger("ssljax")

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
    return extractor(trained, image_size=image_size, batch_size=batch_size)(images)


def extractor(trained: Trained, *, image_size: int, batch_size: int = 256) -> Callable[[np.ndarray], np.ndarray]:
    """`extract` of some runs as a function of images, which compiles once for all images of one size."""
    resize = augment.parse("none").views[0]
    encode = over_runs(trained.program.encode, (0, None, None))

    @jax.jit
    def features(state: Any, batch: jax.Array) -> jax.Array:
        unit = augment.apply_view(resize, jax.random.key(0), to_unit(batch), {}, image_size=image_size)
        return encode(state, unit, trained.data)

    def of(images: np.ndarray) -> np.ndarray:
        most = min(batch_size, len(images))
        parts = []
        for start in range(0, len(images), most):
            # The last batch reaches back so that all have one shape and one compilation serves them.
            first = min(start, len(images) - most)
            part = np.asarray(features(trained.state, jnp.asarray(images[first : first + most])))
            parts.append(part[:, start - first :])
        return np.concatenate(parts, axis=1)

    return of


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


def random_scores(config: Config, trained: Trained, *, batches: int, batch_size: int) -> Iterator[np.ndarray]:
    """Cosines with the prototypes of random batches of training images, each image transformed as view 1 in training.

    Batches, images and transforms follow from each run's seed and its traced values.

    Args:
      config: resolved; its sets and its plan of views are used.
      trained: runs of a method with `scores`, with the training images.
      batches: how many.
      batch_size: images in each, all different; at most the training images.

    Yields:
      float32 [runs, batch_size, prototypes].
    """
    view, size = sources(config)["view1"], sizes(config)["view1"]
    score = trained.program.scores
    assert score is not None
    count = len(trained.data.images)

    def one(state: Any, hyper: Any, number: jax.Array, data: Any) -> jax.Array:
        key = derive(hyper["seed"], number, SCORED_ORDER)
        index = jax.random.choice(key, count, (min(batch_size, count),), replace=False)
        key, values = derive(hyper["seed"], number, SCORED_VIEWS), transform_values(hyper, "view1")
        drawn = augment.apply_view(view, key, to_unit(data.images[index]), values, image_size=size)
        return score(state, drawn, data)

    many = jax.jit(over_runs(one, (0, 0, None, None)))
    for number in range(batches):
        yield np.asarray(many(trained.state, trained.hyper, number, trained.data))


def view_distances(
    config: Config, trained: Trained, weights: Weights, *, loss: str = "", pairs: int = 256
) -> np.ndarray:
    """LPIPS between two views of every training image, drawn as each run draws them: with its seed and its traced values.

    The views are the first two of the method's plan, the global ones, or its one view drawn twice. What is drawn for an
    image hangs on the run's seed, the image's place and the view alone.

    Args:
      config: resolved; its sets and its plan of views are used.
      trained: the runs, with the training images; their weights do not matter.
      weights: of LPIPS.
      loss: "" for the first set of transforms, "second" for the second loss's.
      pairs: pairs of views at a time, over all runs; it bounds memory and changes nothing else.

    Returns:
      float32 [runs, n].
    """
    side = sizes(config)
    plan = [(name, view) for name, view in sources(config).items() if name.rpartition(".")[0] == loss]
    plan = (plan * 2)[:2]

    def one(hyper: Any, index: jax.Array, images: jax.Array, weights: Weights) -> jax.Array:
        keys = jax.vmap(lambda place: derive(hyper["seed"], place, MEASURED_VIEWS))(index)

        def draw(number: int, source: str, view: augment.View) -> jax.Array:
            values = transform_values(hyper, source)

            def of_image(key: jax.Array, image: jax.Array) -> jax.Array:
                key = jax.random.fold_in(key, number)
                return augment.apply_view(view, key, image[None], values, image_size=side[source])[0]

            return jax.vmap(of_image)(keys, to_unit(images[index]))

        x, y = (draw(number, *each) for number, each in enumerate(plan))
        return lpips(weights, x, y)

    many = jax.jit(over_runs(one, (0, None, None, None)))
    count, runs = len(trained.data.images), len(trained.runs)
    batch_size = min(max(1, pairs // runs), count)
    parts: list[np.ndarray] = []
    told = time.monotonic()
    for start in range(0, count, batch_size):
        if time.monotonic() - told > 15:
            log.info("LPIPS: %d of %d images", start, count)
            told = time.monotonic()
        first = min(start, count - batch_size)  # the last batch reaches back, as in `extract`
        index = jnp.arange(first, first + batch_size)
        parts.append(np.asarray(many(trained.hyper, index, trained.data.images, weights))[:, start - first :])
    return np.concatenate(parts, axis=1)
