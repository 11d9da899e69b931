"""One step of one run as a pure function, and the same step with a leading run axis.

No random state is stored: keys are derived from seed, step and purpose, so a resumed run is the uninterrupted run.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from ssljax import augment, sweeps
from ssljax.config import Config
from ssljax.errors import UserError
from ssljax.methods import METHODS, Batch, Course, Method, Stage, build
from ssljax.models import backbone
from ssljax.models.layers import MAPS
from ssljax.train import diagnosis, optimizers

Tree = Any

# Purposes of derived keys. Their order is part of what a seed means: append, never insert.
INIT, ORDER, VIEWS, LOSS, EPOCH, PROBE_INIT, PROBE_ORDER, PROBE_VIEWS, FILL, MEASURED_VIEWS = range(10)
FINETUNE_INIT, FINETUNE_ORDER, FINETUNE_VIEWS, FINETUNE_LOSS = range(10, 14)
SCORED_ORDER, SCORED_VIEWS = range(14, 16)


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
      images: uint8 or uint16 [n, height, width, channels]; [0, height, width, channels] where they come in chunks.
      mean, std: [channels], what images in [0, 1] are normalised by; as many values as the network takes channels.
      shared: weights that all runs share; () where each has its own.
      labels: int32 [n] for training that uses them, else ().
    """

    images: jax.Array
    mean: jax.Array
    std: jax.Array
    shared: Tree = ()
    labels: Tree = ()


class Chunk(NamedTuple):
    """The images of some steps, the same for all runs: what stands in the place of an order where images are not resident.

    Attributes:
      images: uint8 or uint16 [steps, batch, height, width, channels].
      numbers: int32 [steps, batch], which of the training images they are.
      first: int32, the number of its first step.
    """

    images: Any
    numbers: Any
    first: Any


class Program(NamedTuple):
    """The functions of one run, all pure and without a run axis. An order may be a `Chunk` that holds the step's images.

    Attributes:
      init: hyper -> State.
      order: (hyper, epoch) -> the permutation of the images' indices for that epoch.
      forward: (state, hyper, data, order, step) -> (loss, its backward pass, what the loss gives beside its value).
      step: (state, hyper, data, order, step) -> (state, metrics); of the metrics "alive" is the state's.
      on_epoch: (state, hyper, epoch) -> state.
      fill: (state, hyper, data, order, step) -> state whose memory has seen the step's images, weights as they were; None if
        the method has no use for it.
      encode: (state, images in [0, 1] of the network's size, data) -> features.
      labels: whether its steps read the data's labels.
      scores: as `encode` -> cosines with the prototypes [batch, prototypes] that pseudo-labels are made of; None for a method
        without.
      examine: as `step` -> whether each tensor that the step takes and makes is finite; None where nobody asks.
    """

    init: Callable[..., State]
    order: Callable[..., jax.Array]
    forward: Callable[..., tuple[jax.Array, Any, Any]]
    step: Callable[..., tuple[State, dict[str, jax.Array]]]
    on_epoch: Callable[..., State]
    fill: Callable[..., State] | None
    encode: Callable[..., jax.Array]
    steps_per_epoch: int
    total_steps: int
    labels: bool = False
    scores: Callable[..., jax.Array] | None = None
    examine: Callable[..., diagnosis.Examined] | None = None


def to_unit(images: jax.Array) -> jax.Array:
    """Integer images as float32 in [0, 1]."""
    return images.astype(jnp.float32) / jnp.iinfo(images.dtype).max


def derive(seed: jax.Array, step: jax.Array | int, purpose: int) -> jax.Array:
    """The key of a seed, a step (or epoch) and a purpose."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), purpose)


def spread(batch: jax.Array) -> jax.Array:
    """A batch, each of the mesh's devices along "data" holding its share of the images; as it is where there is no such mesh.

    The rest is the compiler's work. It keeps to the meaning of the program as written, so that a mean, a covariance or a solver's
    marginal over the batch is over all of it.
    """
    if "data" not in jax.sharding.get_abstract_mesh().axis_names:
        return batch
    return jax.lax.with_sharding_constraint(batch, PartitionSpec("data"))


def taken(
    data: Data, order: jax.Array | Chunk, step: jax.Array, batch_size: int, steps_per_epoch: int
) -> tuple[jax.Array, jax.Array]:
    """The training images of a step: their numbers [batch] and pixels [batch, height, width, channels], spread."""
    if isinstance(order, Chunk):
        at = step - order.first
        index, images = (
            jax.lax.dynamic_index_in_dim(part, at, keepdims=False) for part in (order.numbers, order.images)
        )
        return spread(index), spread(images)
    index = spread(jax.lax.dynamic_slice(order, (step % steps_per_epoch * batch_size,), (batch_size,)))
    return index, data.images[index]


def encoder_network(config: Config) -> Any:
    """The backbone, a flax module, that a resolved config asks for."""
    return backbone(
        config.backbone,
        width=config.width,
        stem=config.stem,
        stem_padding=config.stem_padding,
        precision=config.precision,
        convolution=config.convolution,
        stochastic_depth=config.stochastic_depth,
    )


def remat(config: Config, loss: Callable[..., Any]) -> Callable[..., Any]:
    """A loss whose gradient computes again what a resolved config says, instead of keeping it."""
    # XLA's CPU compiler finds the second computation equal to the first and merges them: there is nothing to gain.
    if config.remat == "blocks" and jax.default_backend() != "cpu":
        return jax.checkpoint(loss, policy=jax.checkpoint_policies.save_only_these_names(MAPS))
    return loss


def make_program(config: Config, n_images: int, channels: int, n_classes: int = 0) -> Program:
    """The pure functions of one run of a resolved config on a set of `n_images`, labelled with `n_classes` (0: no labels).

    Raises:
      UserError: a transform that is not defined for this channel count, or settings that the method refuses.
    """
    steps_per_epoch = n_images // config.batch_size
    total_steps = steps_per_epoch * config.epochs
    method: Method = build(config, encoder_network(config), Course(n_images, steps_per_epoch, total_steps, n_classes))
    sides = sources(config)
    check_channels(config, channels)
    scale = config.batch_size / 256 if config.lr_scaling == "linear" else 1.0

    def rate(hyper: Tree, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The learning rate of a step, and the highest of its stage."""
        stage = Stage(hyper["learning_rate"], hyper["warmup_epochs"], 0, total_steps)
        if method.stage is not None:
            stage = method.stage(hyper, step)
        peak = stage.learning_rate * scale
        now = optimizers.learning_rate(
            peak,
            step - stage.start,
            total_steps=stage.steps,
            warmup_steps=stage.warmup_epochs * steps_per_epoch,
            start=hyper["warmup_learning_rate"],
            end=hyper["min_learning_rate"],
        )
        return now, peak

    def init(hyper: Tree) -> State:
        blank = tuple(jnp.zeros((1, view.size, view.size, channels)) for view in method.views)
        params, stats, memory = method.init(derive(hyper["seed"], 0, INIT), blank)
        optimizer = optimizers.rule(config.optimizer, hyper, params).init(params)
        return State(params, stats, memory, optimizer, jnp.array(True))

    def order(hyper: Tree, epoch: jax.Array) -> jax.Array:
        return jax.random.permutation(derive(hyper["seed"], epoch, ORDER), n_images)

    def draw(hyper: Tree, data: Data, order: jax.Array | Chunk, step: jax.Array, purpose: int = VIEWS) -> Batch:
        index, pixels = taken(data, order, step, config.batch_size, steps_per_epoch)
        images = to_unit(pixels)
        key = derive(hyper["seed"], step, purpose)
        views = (
            augment.apply_view(
                sides[view.source],
                jax.random.fold_in(key, i),
                images,
                transform_values(hyper, view.source),
                image_size=view.size,
            )
            for i, view in enumerate(method.views)
        )
        labels = data.labels[index] if method.labels else ()
        return Batch(tuple(spread((view - data.mean) / data.std) for view in views), index, labels)

    def forward(
        state: State, hyper: Tree, data: Data, order: jax.Array | Chunk, step: jax.Array
    ) -> tuple[jax.Array, Any, Any]:
        batch = draw(hyper, data, order, step)
        key = derive(hyper["seed"], step, LOSS)

        def loss(params: Tree) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
            return method.loss(params, state.stats, state.memory, batch, hyper, step, key)

        return jax.vjp(remat(config, loss), state.params, has_aux=True)

    def step(
        state: State, hyper: Tree, data: Data, order: jax.Array | Chunk, step: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        loss, backward, (stats, memory, metrics) = forward(state, hyper, data, order, step)
        (gradients,) = backward(jnp.ones_like(loss))
        lr, peak = rate(hyper, step)
        params, optimizer = descend(state, hyper, gradients, lr, peak, step)
        memory = method.update(params, memory, hyper, step)
        norm = optax.global_norm(gradients)
        # A finite gradient times a huge rate may still throw the weights out of range.
        sound = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(optax.global_norm(params))
        alive = state.alive & sound
        new = State(params, stats, memory, optimizer, alive)
        kept = jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, state._replace(alive=alive))
        return kept, {"loss": loss, "learning_rate": lr, "gradient_norm": norm, "alive": alive, **metrics}

    def examine(state: State, hyper: Tree, data: Data, order: jax.Array | Chunk, step: jax.Array) -> diagnosis.Examined:
        views = draw(hyper, data, order, step).views
        loss, backward, (_, _, metrics) = forward(state, hyper, data, order, step)
        (gradients,) = backward(jnp.ones_like(loss))
        params, _ = descend(state, hyper, gradients, *rate(hyper, step), step)
        named = {str(i): view for i, view in enumerate(views, start=1)}
        made = diagnosis.Examined(state.params, state.memory, state.stats, named, metrics, loss, gradients, params)
        return diagnosis.finite(made)

    def descend(
        state: State, hyper: Tree, gradients: Tree, lr: jax.Array, peak: jax.Array, step: jax.Array
    ) -> tuple[Tree, Tree]:
        """Parameters and optimiser after a step down the gradients."""
        rates = method.rates(state.params, lr, peak) if method.rates else jax.tree.map(lambda _: lr, state.params)
        rule = optimizers.rule(config.optimizer, hyper, rates)
        direction, optimizer = rule.update(gradients, state.optimizer, state.params)
        updates = jax.tree.map(lambda d, rate: -rate * d, direction, rates)
        if method.trainable is not None:
            mask = method.trainable(state.params, step, hyper)
            updates = jax.tree.map(jnp.multiply, updates, mask)
            optimizer = optimizers.hold(rule, mask, optimizer, state.optimizer)
        params = optax.apply_updates(state.params, updates)
        return (method.constrain(params) if method.constrain else params), optimizer

    def on_epoch(state: State, hyper: Tree, epoch: jax.Array) -> State:
        if method.on_epoch is None:
            return state
        memory = method.on_epoch(state.params, state.memory, hyper, derive(hyper["seed"], epoch, EPOCH))
        return state._replace(memory=jax.tree.map(lambda a, b: jnp.where(state.alive, a, b), memory, state.memory))

    def fill(state: State, hyper: Tree, data: Data, order: jax.Array | Chunk, step: jax.Array) -> State:
        assert method.fill is not None
        batch = draw(hyper, data, order, step, FILL)
        key = derive(hyper["seed"], step, FILL)
        return state._replace(memory=method.fill(state.params, state.stats, state.memory, batch, hyper, step, key))

    def encode(state: State, images: jax.Array, data: Data) -> jax.Array:
        return method.encode(state.params, state.stats, (images - data.mean) / data.std)

    def scores(state: State, images: jax.Array, data: Data) -> jax.Array:
        assert method.scores is not None
        return method.scores(state.params, state.stats, state.memory, (images - data.mean) / data.std)

    return Program(
        init,
        order,
        forward,
        step,
        on_epoch,
        fill if method.fill else None,
        encode,
        steps_per_epoch,
        total_steps,
        method.labels,
        scores if method.scores else None,
        examine,
    )


def sources(config: Config) -> dict[str, augment.View]:
    """What draws each view that a method's plan can name: a resolved config's views, and its second loss's after "second."."""
    views = sweeps.views_of(config)
    if config.second is not None:
        views |= {f"second.{name}": view for name, view in sweeps.views_of(config.second).items()}
    return views


def sizes(config: Config) -> dict[str, int]:
    """The side in pixels of each of `sources` that a resolved config's plan draws."""
    found = {view.source: view.size for view in METHODS[config.method].VIEWS(config)}
    if config.second is not None:
        found |= {f"second.{name}": size for name, size in sizes(config.second).items()}
    return found


def check_channels(config: Config, channels: int) -> None:
    """Raises `UserError` if a transform of a resolved config's sets is not defined for this many channels."""
    for own, flag in ((config, "--transforms"), (config.second, "--second_transforms")):
        if own is None:
            continue
        for view in sweeps.views_of(own).values():
            try:
                augment.check(view, channels)
            except UserError as error:
                raise UserError(f"{flag}={own.transforms}: {error}; give a set for such images") from None


def transform_values(hyper: Tree, source: str) -> Tree:
    """The transforms' traced values of one of `sources`."""
    loss, _, view = source.rpartition(".")
    return (hyper[loss] if loss else hyper)["transforms"][view]


def over_runs(function: Callable[..., Any], axes: tuple[int | None, ...], how: str = "vmap") -> Callable[..., Any]:
    """A function of one run as a function of many.

    Args:
      function: of one run.
      axes: 0 for each argument that has a run axis, None for what the runs share.
      how: "vmap" batches every operation; "map" executes one run after another in one program (on CPU not for XLA's own
        convolutions, which are slow inside a loop); "unroll" writes the program out once a run, which compiles longer.
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
