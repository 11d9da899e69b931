"""One step of one run as a pure function, and the same step with a leading run axis.

No random state is stored: keys are derived from seed, step and purpose, so a resumed run is the uninterrupted run.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssljax import augment
from ssljax.config import Config
from ssljax.methods import METHODS, Batch, Method
from ssljax.models import backbone
from ssljax.train import optimizers

Tree = Any

# Purposes of derived keys. Their order is part of what a seed means: append, never insert.
INIT, ORDER, VIEWS, LOSS, EPOCH, PROBE_INIT, PROBE_ORDER, PROBE_VIEWS = range(8)


class State(NamedTuple):
    """What a run carries from step to step.

    Attributes:
      params, stats, memory: the method's (see `ssljax.methods.base.Method`).
      optimizer: optax state.
      alive: False from the first step whose loss, gradient or new weights are not finite; nothing of the run changes from then on.
    """

    params: Tree
    stats: Tree
    memory: Tree
    optimizer: Tree
    alive: jax.Array


class Data(NamedTuple):
    """The resident data set that all runs of a program share.

    Attributes:
      images: uint8 or uint16 [n, height, width, channels].
      mean, std: [channels], of the training images scaled to [0, 1].
    """

    images: jax.Array
    mean: jax.Array
    std: jax.Array


class Program(NamedTuple):
    """The functions of one run, all pure and without a run axis.

    Attributes:
      init: hyper -> State.
      order: (hyper, epoch) -> the permutation of the images' indices for that epoch.
      step: (state, hyper, data, order, step) -> (state, metrics).
      on_epoch: (state, hyper, epoch) -> state.
      encode: (state, images in [0, 1] of the network's size, data) -> features.
    """

    init: Callable[..., State]
    order: Callable[..., jax.Array]
    step: Callable[..., tuple[State, dict[str, jax.Array]]]
    on_epoch: Callable[..., State]
    encode: Callable[..., jax.Array]
    steps_per_epoch: int
    total_steps: int


def to_unit(images: jax.Array) -> jax.Array:
    """Integer images as float32 in [0, 1]."""
    return images.astype(jnp.float32) / jnp.iinfo(images.dtype).max


def derive(seed: jax.Array, step: jax.Array | int, purpose: int) -> jax.Array:
    """The key of a seed, a step (or epoch) and a purpose."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), purpose)


def make_program(config: Config, n_images: int, channels: int) -> Program:
    """The pure functions of one run of a resolved config on a set of `n_images`.

    Raises:
      UserError: a transform that is not defined for this channel count, or settings that the method refuses.
    """
    steps_per_epoch = n_images // config.batch_size
    total_steps = steps_per_epoch * config.epochs
    network = backbone(
        config.backbone,
        width=config.width,
        stem=config.stem,
        stem_padding=config.stem_padding,
        precision=config.precision,
        convolution=config.convolution,
    )
    method: Method = METHODS[config.method].make(config, network, total_steps)
    transforms = augment.parse(config.transforms)
    for view in transforms.views:
        augment.check(view, channels)
    sides = {f"view{i + 1}": view for i, view in enumerate(transforms.views)}
    scale = config.batch_size / 256 if config.lr_scaling == "linear" else 1.0

    def rate(hyper: Tree, step: jax.Array) -> jax.Array:
        return optimizers.learning_rate(
            hyper["learning_rate"] * scale,
            step,
            total_steps=total_steps,
            warmup_steps=config.warmup_epochs * steps_per_epoch,
        )

    def init(hyper: Tree) -> State:
        blank = tuple(jnp.zeros((1, view.size, view.size, channels)) for view in method.views)
        params, stats, memory = method.init(derive(hyper["seed"], 0, INIT), blank)
        optimizer = optimizers.rule(config.optimizer, hyper, jnp.float32(0)).init(params)
        return State(params, stats, memory, optimizer, jnp.array(True))

    def order(hyper: Tree, epoch: jax.Array) -> jax.Array:
        return jax.random.permutation(derive(hyper["seed"], epoch, ORDER), n_images)

    def draw(hyper: Tree, data: Data, index: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
        images = to_unit(data.images[index])
        key = derive(hyper["seed"], step, VIEWS)
        return tuple(
            (
                augment.apply_view(
                    sides[view.source],
                    jax.random.fold_in(key, i),
                    images,
                    hyper["transforms"][view.source],
                    image_size=view.size,
                )
                - data.mean
            )
            / data.std
            for i, view in enumerate(method.views)
        )

    def step(
        state: State, hyper: Tree, data: Data, order: jax.Array, step: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        index = jax.lax.dynamic_slice(order, (step % steps_per_epoch * config.batch_size,), (config.batch_size,))
        batch = Batch(draw(hyper, data, index, step), index)
        loss_key = derive(hyper["seed"], step, LOSS)
        (loss, (stats, memory, metrics)), gradients = jax.value_and_grad(method.loss, has_aux=True)(
            state.params, state.stats, state.memory, batch, hyper, step, loss_key
        )
        lr = rate(hyper, step)
        direction, optimizer = optimizers.rule(config.optimizer, hyper, lr).update(
            gradients, state.optimizer, state.params
        )
        updates = jax.tree.map(lambda d: -lr * d, direction)
        if method.trainable is not None:
            updates = jax.tree.map(jnp.multiply, updates, method.trainable(state.params, step, hyper))
        params = optax.apply_updates(state.params, updates)
        memory = method.update(params, memory, hyper, step)
        norm = optax.global_norm(gradients)
        # A finite gradient times a huge rate may still throw the weights out of range.
        sound = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(optax.global_norm(params))
        alive = state.alive & sound
        new = State(params, stats, memory, optimizer, alive)
        kept = jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, state._replace(alive=alive))
        return kept, {"loss": loss, "learning_rate": lr, "gradient_norm": norm, **metrics}

    def on_epoch(state: State, hyper: Tree, epoch: jax.Array) -> State:
        if method.on_epoch is None:
            return state
        memory = method.on_epoch(state.params, state.memory, derive(hyper["seed"], epoch, EPOCH))
        return state._replace(memory=jax.tree.map(lambda a, b: jnp.where(state.alive, a, b), memory, state.memory))

    def encode(state: State, images: jax.Array, data: Data) -> jax.Array:
        return method.encode(state.params, state.stats, (images - data.mean) / data.std)

    return Program(init, order, step, on_epoch, encode, steps_per_epoch, total_steps)


def over_runs(function: Callable[..., Any], axes: tuple[int | None, ...], how: str = "vmap") -> Callable[..., Any]:
    """A function of one run as a function of many.

    Args:
      function: of one run.
      axes: 0 for each argument that has a run axis, None for what the runs share.
      how: "vmap" batches every operation; "map" runs them one after another in one program (slow on CPU, where
        convolutions leave their fast path inside a loop); "unroll" writes the program out once a run, which compiles longer.
    """
    if how == "vmap":
        return jax.vmap(function, in_axes=axes)

    def split(args: tuple) -> tuple[tuple, Callable[[Any], tuple]]:
        batched = tuple(a for a, axis in zip(args, axes) if axis == 0)

        def join(own: Any) -> tuple:
            own = iter(own)
            return tuple(next(own) if axis == 0 else a for a, axis in zip(args, axes))

        return batched, join

    def mapped(*args: Any) -> Any:
        batched, join = split(args)
        return jax.lax.map(lambda own: function(*join(own)), batched)

    def unrolled(*args: Any) -> Any:
        batched, join = split(args)
        count = len(jax.tree.leaves(batched)[0])
        results = [function(*join(jax.tree.map(itemgetter(i), batched))) for i in range(count)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    return mapped if how == "map" else unrolled
