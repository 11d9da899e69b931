"""What a method is: a NamedTuple of pure functions over explicit state, in the shape of optax's gradient transformations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssljax import augment
from ssljax.errors import UserError

Tree = Any
"""A pytree of arrays."""


class View(NamedTuple):
    """One view that a method asks for: which of the set's views draws it, and the side of the image in pixels."""

    source: str  # "view1", "view2", "weak" or "local"; "second." before it where a second set draws it
    size: int


class Batch(NamedTuple):
    """What a loss sees.

    Attributes:
      views: in the order of the plan, each [batch, size, size, channels].
      index: of the images in the set, [batch].
      labels: of the images, int32 [batch], for a method that learns from them; () for every other.
    """

    views: tuple[jax.Array, ...]
    index: jax.Array  # type: ignore[assignment]  # also a method of tuple, which nobody calls on a batch
    labels: Tree = ()


class Course(NamedTuple):
    """How long a training is, and on what.

    Attributes:
      images: in the set.
      steps_per_epoch, total_steps: of the training.
      classes: that the images are labelled with; 0 where they have no labels.
    """

    images: int
    steps_per_epoch: int
    total_steps: int
    classes: int = 0


class Traced(NamedTuple):
    """A number of a method that may differ between the runs of a program.

    Attributes:
      help: what it is, for `--help_method`.
      default: where the preset is silent; None for a field of `Config` of that name.
      low, high: its range, ends included.
      whole: whether only whole numbers make sense.
    """

    help: str
    default: float | None = None
    low: float = 0.0
    high: float | None = None
    whole: bool = False


class Stage(NamedTuple):
    """A part of a training with a learning-rate schedule of its own: linear warm-up, then half a cosine.

    Attributes:
      learning_rate: the peak, before any scaling by the batch.
      warmup_epochs: of the stage.
      start: its first step.
      steps: how many it has.
    """

    learning_rate: jax.Array
    warmup_epochs: jax.Array
    start: jax.Array | float
    steps: jax.Array | float


# Names that several methods share; each is a flag too.
TEMPERATURE = {"temperature": Traced("T of the softmax", low=1e-6)}
TAU = {
    "tau.base": Traced("EMA coefficient of the target at the first step", high=1.0),
    "tau.final": Traced("EMA coefficient of the target at the last step", high=1.0),
}


class Method(NamedTuple):
    """A self-supervised method for one run.

    Attributes:
      views: the plan: which views a step draws.
      init: (key, views) -> (params, stats, memory). `params` and `stats` (batch statistics) are dicts by part of the
        network, one of them "backbone"; memory is what else the method carries from step to step: queue, target, centre,
        bank. A target is `memory["target"]`, as `target_of` makes it.
      loss: (params, stats, memory, batch, hyper, step, key) -> (scalar, (stats, memory, metrics)); differentiable in params.
      update: (params, memory, hyper, step) -> memory, after the optimiser: EMA targets and the like.
      encode: (params, stats, images) -> features [batch, dim] of the backbone in evaluation mode, before any head.
      trainable: (params, step, hyper) -> tree of 0/1 like params: what may move now. What may not is left alone by the
        gradient, by decay and by momentum.
      stage: (hyper, step) -> the `Stage` that a step belongs to (default: the whole training is one).
      rates: (params, rate, peak) -> tree like params: each array's learning rate, from this step's and the stage's highest.
      constrain: params -> params, right after the optimiser: unit norms and the like.
      on_epoch: (params, memory, hyper, key) -> memory, at the start of each epoch.
      fill: (params, stats, memory, batch, hyper, step, key) -> memory, in a pass over the images before the first epoch.
      scores: (params, stats, memory, images) -> cosines [batch, prototypes] of the network whose outputs become pseudo-labels, in
        evaluation mode; of methods whose labels a solver makes of such cosines.
      labels: whether its batches are to hold the images' labels.
    """

    views: tuple[View, ...]
    init: Callable[[jax.Array, tuple[jax.Array, ...]], tuple[Tree, Tree, Tree]]
    loss: Callable[..., tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]]
    update: Callable[[Tree, Tree, Tree, jax.Array], Tree]
    encode: Callable[[Tree, Tree, jax.Array], jax.Array]
    trainable: Callable[[Tree, jax.Array, Tree], Tree] | None = None
    stage: Callable[[Tree, jax.Array], Stage] | None = None
    rates: Callable[[Tree, jax.Array, jax.Array], Tree] | None = None
    constrain: Callable[[Tree], Tree] | None = None
    on_epoch: Callable[[Tree, Tree, Tree, jax.Array], Tree] | None = None
    fill: Callable[..., Tree] | None = None
    scores: Callable[[Tree, Tree, Tree, jax.Array], jax.Array] | None = None
    labels: bool = False


# What photographs are classified under: the transforms of supervised training, and of the probes of the papers' code.
CROP_AND_FLIP = "random_resized_crop(area_low=0.08,area_high=1.0)+horizontal_flip(probability=0.5)"


def two_global_views(config: Any) -> tuple[View, ...]:
    """The plan of most methods: one full-size view from each side of the transform set."""
    return View("view1", config.image_size), View("view2", config.image_size)


def one_view(config: Any) -> tuple[View, ...]:
    """The plan of a method that compares no views: one full-size view from the first side of the transform set."""
    return (View("view1", config.image_size),)


def strong_and_weak_views(config: Any) -> tuple[View, ...]:
    """A view of the set and a weaker one: its second side where that is another, else the first's geometry alone."""
    first, second = augment.parse(config.transforms).views
    return View("view1", config.image_size), View("weak" if first == second else "view2", config.image_size)


LOCAL_SIDE = 96 / 224  # of a local crop beside a global one: SwAV's and DINO's pixels on ImageNet


def multi_crop_views(config: Any) -> tuple[View, ...]:
    """Two global views and `config.local_crops` small ones (Caron et al., 2020, section 3.4).

    Batch statistics are each view's own, as in solo-learn; the official SwAV and DINO share them among crops of one size.

    Raises:
      UserError: a size that no crop can have.
    """
    if not config.local_crops:
        return two_global_views(config)
    size = config.local_size or max(8, round(config.image_size * LOCAL_SIDE))
    if not 8 <= size <= config.image_size:
        raise UserError(f"--local_size: expected 8 to --image_size={config.image_size}, given {size}")
    return (*two_global_views(config), *(View("local", size),) * config.local_crops)


def cross_view_pairs(count: int) -> list[tuple[int, int]]:
    """(target's view, predicted view) of `count` views: each of the two global ones is a target for all others."""
    return [(target, view) for target in (0, 1) for view in range(count) if view != target]


def cosine_schedule(base: jax.Array, final: jax.Array, step: jax.Array, total_steps: jax.Array | int) -> jax.Array:
    """A value that goes from base at step 0 to final at the last step by half a cosine (tau in BYOL, section 3.2)."""
    progress = jnp.clip(step / jnp.maximum(total_steps - 1, 1), 0.0, 1.0)
    return final - (final - base) * (1 + jnp.cos(jnp.pi * progress)) / 2


def ema(target: Tree, params: Tree, tau: jax.Array) -> Tree:
    """tau x target + (1 - tau) x params, leaf by leaf."""
    return jax.tree.map(lambda t, p: tau * t + (1 - tau) * p, target, params)


def target_of(params: Tree, stats: Tree, *parts: str) -> Tree:
    """A target network at its start: a copy of some parts, with batch statistics of its own."""
    return jax.tree.map(jnp.copy, {"params": _parts(params, parts), "stats": _parts(stats, parts)})


def retarget(memory: Tree, params: Tree, stats: Tree) -> Tree:
    """Memory whose target, if it has one, starts again as a copy of these weights."""
    if "target" not in memory:
        return memory
    return {**memory, "target": target_of(params, stats, *memory["target"]["params"])}


def begin_from(params: Tree, stats: Tree, memory: Tree, encoder: Tree) -> tuple[Tree, Tree, Tree]:
    """Parameters, batch statistics and memory at the start, with a trained encoder in the place of every backbone: the trained
    one and the targets'. Heads, queues and prototypes stay as they are.

    Args:
      params, stats, memory: of a method's `init`.
      encoder: {"params": ..., "stats": ...} of the backbone.
    """

    def within(memory: Tree) -> Tree:
        if "target" in memory:
            target = memory["target"]
            return {**memory, "target": {part: {**target[part], "backbone": encoder[part]} for part in target}}
        # Of two losses each has its own.
        return {name: within(own) if isinstance(own, dict) else own for name, own in memory.items()}

    return {**params, "backbone": encoder["params"]}, {**stats, "backbone": encoder["stats"]}, within(memory)


def move_target(params: Tree, memory: Tree, hyper: Tree, step: jax.Array, total_steps: int) -> Tree:
    """Memory with its target's parameters moved towards `params`; the batch statistics are the target's own affair."""
    tau = cosine_schedule(hyper["tau"]["base"], hyper["tau"]["final"], step, total_steps)
    target = memory["target"]
    moved = ema(target["params"], _parts(params, tuple(target["params"])), tau)
    return {**memory, "target": {**target, "params": moved}}


def _parts(tree: Tree, parts: tuple[str, ...]) -> Tree:
    return {part: tree[part] for part in parts}


def no_update(params: Tree, memory: Tree, hyper: Tree, step: jax.Array) -> Tree:
    """The `update` of a method that carries nothing besides its weights, or nothing that follows them."""
    del params, hyper, step
    return memory


def freeze_prototypes(params: Tree, step: jax.Array, hyper: Tree, steps_per_epoch: int) -> Tree:
    """A `trainable` tree: everything moves but the prototypes, which wait for `freeze_epochs`."""
    moves = jax.tree.map(lambda _: 1.0, params)
    return {**moves, "prototypes": step >= hyper["freeze_epochs"] * steps_per_epoch}


def of_target(key: jax.Array) -> jax.Array:
    """A step's key for the target's pass: it drops other layers (stochastic depth) than the trained network."""
    return jax.random.fold_in(key, 1)


def of_second_loss(key: jax.Array) -> jax.Array:
    """A step's key for the second of two losses, whose own target folds it once more."""
    return jax.random.fold_in(key, 2)


def noise_queue(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A queue before its first key: Gaussian noise on the unit sphere."""
    noise = jax.random.normal(key, shape)
    return noise / jnp.linalg.norm(noise, axis=-1, keepdims=True)


def enqueue(queue: jax.Array, keys: jax.Array, step: jax.Array) -> jax.Array:
    """Keys [..., batch, dim] over the oldest of a queue [..., size, dim]; the place to write follows from the step."""
    batch, size = keys.shape[-2], queue.shape[-2]
    start = (step * batch) % size
    return jax.lax.dynamic_update_slice_in_dim(queue, keys, start, axis=-2)


def check_queue(config: Any) -> None:
    """Raises `UserError` unless whole batches fill the queue."""
    if config.queue_size % config.batch_size:
        raise UserError(
            f"--queue_size: {config.queue_size} is not a multiple of --batch_size={config.batch_size}; "
            "a step replaces a whole batch of keys"
        )
