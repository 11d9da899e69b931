"""Features of images under trained encoders, and how far apart a run's views look: the one file of `evaluate` that touches JAX."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ssljax import augment
from ssljax.config import Config
from ssljax.data.batches import order
from ssljax.data.files import Decoded
from ssljax.models.lpips import Weights, lpips
from ssljax.train.loop import Trained
from ssljax.train.mesh import laid_out
from ssljax.train.step import (
    MEASURED_VIEWS,
    SCORED_ORDER,
    SCORED_VIEWS,
    Data,
    Program,
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
    in_pieces = pieces(trained, image_size=image_size, batch_size=batch_size)
    return lambda images: np.concatenate(list(in_pieces(images)), axis=1)


def pieces(trained: Trained, *, image_size: int, batch_size: int = 256) -> Callable[[np.ndarray], Iterator[np.ndarray]]:
    """As `extractor`, but what comes is [runs, at most batch_size, dim] at a time, in the images' order.

    Images are read by slices, the next ones while the device works on those before.
    """
    resize = augment.parse("none").views[0]
    encode = over_runs(trained.program.encode, (0, None, None))

    @jax.jit
    def features(state: Any, batch: jax.Array) -> jax.Array:
        unit = augment.apply_view(resize, jax.random.key(0), to_unit(batch), {}, image_size=image_size)
        return encode(state, unit, trained.data)

    def of(images: np.ndarray) -> Iterator[np.ndarray]:
        most = min(batch_size, len(images))
        running: tuple[jax.Array, int] | None = None
        for start in range(0, len(images), most):
            # The last batch reaches back so that all have one shape and one compilation serves them.
            first = min(start, len(images) - most)
            batch = features(trained.state, jnp.asarray(images[first : first + most]))
            if running is not None:
                yield np.asarray(running[0])[:, running[1] :]
            running = batch, start - first
        if running is not None:
            yield np.asarray(running[0])[:, running[1] :]
        if isinstance(images, Decoded):
            images.tell()

    return of


def transformed(trained: Trained, transforms: str, image_size: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Features of freshly transformed training images: (indices [runs, batch], keys [runs]) -> [runs, batch, dim].

    Where the images are not resident, those of the first run's indices are read, and all runs see them.

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
    if trained.images is None:
        return lambda index, keys: many(trained.state, index, keys, trained.data)

    def read(index: jax.Array, keys: jax.Array) -> jax.Array:
        data = trained.data._replace(images=trained.some(index[0]))
        places = jnp.broadcast_to(jnp.arange(index.shape[1]), index.shape)
        return many(trained.state, places, keys, data)

    return read


Encode = Callable[[Trained, np.ndarray, np.ndarray], np.ndarray]
"""A function of runs, integer images [n, height, width, channels] and their places in the set [n]."""


def watching(
    config: Config, program: Program, count: int, *, how: str = "vmap", mesh: Mesh | None = None
) -> tuple[Encode, Encode]:
    """Features of a few images while a program's runs are trained: (of images as they are, of `count` views of each).

    Both compile once, whatever the state of the runs is by then, and encode no more images at a time than a step has views.
    Views are the global ones of the first loss's plan in turn, so that each two are a pair as training compares them. What is drawn
    hangs on the run's seed, its traced values, the image's place and the number of the view alone.

    Args:
      config: resolved.
      program: whose `encode` is used.
      count: views of each image.
      how: as for `over_runs`.
      mesh: the devices that the runs are laid over; None for those that they are on.

    Returns:
      Functions that give float32 [runs, n, dim] and [runs, n, count, dim].
    """
    resize = augment.parse("none").views[0]
    axes = (0, 0, None, None, None)

    def whole(state: Any, hyper: Any, places: jax.Array, images: jax.Array, data: Any) -> jax.Array:
        del hyper, places
        unit = augment.apply_view(resize, jax.random.key(0), to_unit(images), {}, image_size=config.image_size)
        return program.encode(state, unit, data)

    def drawn(state: Any, hyper: Any, places: jax.Array, images: jax.Array, data: Any) -> jax.Array:
        pair = _global_views(config)
        views = _drawn([pair[number % 2] for number in range(count)], hyper, places, to_unit(images))
        features = program.encode(state, jnp.concatenate(views), data)
        return features.reshape(count, len(images), -1).swapaxes(0, 1)

    def encoder(one: Callable[..., jax.Array], at_once: int) -> Encode:
        many = laid_out(over_runs(one, axes, how), axes, mesh)

        def encode(trained: Trained, images: np.ndarray, places: np.ndarray) -> np.ndarray:
            data, most, parts = without_images(trained.data), min(at_once, len(images)), []
            for start in range(0, len(images), most):
                first = min(start, len(images) - most)  # the last batch reaches back, as in `extract`
                part = slice(first, first + most)
                found = np.asarray(many(trained.state, trained.hyper, places[part], images[part], data))
                parts.append(found[:, start - first :])
            return np.concatenate(parts, axis=1)

        return encode

    at_once = min(512, 2 * config.batch_size)
    return encoder(whole, at_once), encoder(drawn, max(1, at_once // count))


def without_images(data: Data) -> Data:
    """What an encoder reads of the data: neither images nor labels."""
    return data._replace(images=jnp.zeros((0, *data.images.shape[1:]), data.images.dtype), labels=())


def random_scores(config: Config, trained: Trained, *, batches: int, batch_size: int) -> Iterator[np.ndarray]:
    """Cosines with the prototypes of random batches of training images, each image transformed as view 1 in training.

    Batches, images and transforms follow from each run's seed and its traced values; where images are not resident, batches are
    the same for all runs.

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
    count = trained.n_images

    def one(state: Any, hyper: Any, number: jax.Array, data: Any) -> jax.Array:
        key = derive(hyper["seed"], number, SCORED_ORDER)
        if trained.images is None:
            index = jax.random.choice(key, count, (min(batch_size, count),), replace=False)
        else:
            index = jnp.arange(len(data.images))
        key, values = derive(hyper["seed"], number, SCORED_VIEWS), transform_values(hyper, "view1")
        drawn = augment.apply_view(view, key, to_unit(data.images[index]), values, image_size=size)
        return score(state, drawn, data)

    many = jax.jit(over_runs(one, (0, 0, None, None)))
    data = trained.data
    for number in range(batches):
        if trained.images is not None:
            data = data._replace(images=trained.some(order(number, count)[:batch_size]))
        yield np.asarray(many(trained.state, trained.hyper, number, data))


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
    plan = _global_views(config, loss)

    def one(hyper: Any, index: jax.Array, images: jax.Array, weights: Weights) -> jax.Array:
        x, y = _drawn(plan, hyper, index, to_unit(images))
        return lpips(weights, x, y)

    many = jax.jit(over_runs(one, (0, None, None, None)))
    count, runs = trained.n_images, len(trained.runs)
    batch_size = min(max(1, pairs // runs), count)
    parts: list[np.ndarray] = []
    told = time.monotonic()
    for start in range(0, count, batch_size):
        if time.monotonic() - told > 15:
            log.info("LPIPS: %d of %d images", start, count)
            told = time.monotonic()
        first = min(start, count - batch_size)  # the last batch reaches back, as in `extract`
        index = jnp.arange(first, first + batch_size)
        parts.append(np.asarray(many(trained.hyper, index, trained.some(index), weights))[:, start - first :])
    return np.concatenate(parts, axis=1)


class _Source(NamedTuple):
    """What draws a view: its name among the traced values, its transforms, and the side in pixels of what it draws."""

    name: str
    view: augment.View
    side: int


def _global_views(config: Config, loss: str = "") -> list[_Source]:
    """The two global views of a resolved config's first loss ("") or "second"; the one view of a method of one, twice."""
    side = sizes(config)
    plan = [
        _Source(name, view, side[name]) for name, view in sources(config).items() if name.rpartition(".")[0] == loss
    ]
    return (plan * 2)[:2]


def _drawn(plan: Sequence[_Source], hyper: Any, places: jax.Array, images: jax.Array) -> list[jax.Array]:
    """A batch of each view of a plan of images in [0, 1], drawn by a run's seed and values and the images' places alone."""
    keys = jax.vmap(lambda place: derive(hyper["seed"], place, MEASURED_VIEWS))(places)

    def draw(number: int, source: _Source) -> jax.Array:
        values = transform_values(hyper, source.name)

        def of_image(key: jax.Array, image: jax.Array) -> jax.Array:
            key = jax.random.fold_in(key, number)
            return augment.apply_view(source.view, key, image[None], values, image_size=source.side)[0]

        return jax.vmap(of_image)(keys, images)

    return [draw(number, each) for number, each in enumerate(plan)]
