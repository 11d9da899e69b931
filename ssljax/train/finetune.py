"""Fine-tuning: the whole network with a new linear head, trained on all labels or a part of them, for all runs at once.

SGD with momentum .9 and no weight decay, the last epoch counts, batch statistics move, nothing is chosen on test labels. On all
labels: `whole`, of our choice, for the papers give no protocol. On a part of them: `semi`, SwAV's, whose table MIRA's paper takes
up.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ssljax import augment, losses
from ssljax.config import Config
from ssljax.train import execution, memory
from ssljax.train.loop import Trained, feeding, progress_bar, sweep_epoch
from ssljax.train.mesh import laid_out, mesh_of
from ssljax.train.probe import linear_start
from ssljax.train.scratch import keep_scratch
from ssljax.train.step import (
    FINETUNE_INIT,
    FINETUNE_LOSS,
    FINETUNE_ORDER,
    FINETUNE_VIEWS,
    Chunk,
    Data,
    Program,
    State,
    Tree,
    derive,
    encoder_network,
    over_runs,
    remat,
    spread,
    taken,
    to_unit,
)
from ssljax.train.stream import chunk_shape

MOMENTUM = 0.9


class Protocol(NamedTuple):
    """How long and how fast a network is fine-tuned.

    Attributes:
      epochs: passes over the labelled images.
      backbone, head: learning rates at the first step.
      fall: total steps -> what both rates are multiplied by at each step.
    """

    epochs: int
    backbone: float
    head: float
    fall: Callable[[int], optax.Schedule]


def whole(config: Config, n_images: int) -> Protocol:
    """On all labels: .05 x batch/256 for network and head, half a cosine to 0 over 30 epochs, unless the config says otherwise."""
    peak = config.finetune_learning_rate * min(config.finetune_batch_size, n_images) / 256
    return Protocol(config.finetune_epochs, peak, peak, lambda total: optax.cosine_decay_schedule(1.0, total))


# Learning rates of backbone and head on 1 % and on 10 % of ImageNet's labels, for a batch of 256: SwAV (M. Caron et al., 2020),
# official code, README and eval_semisup.py. Where one ends and the other begins is our choice.
_RATES = {1: (0.02, 5.0), 10: (0.01, 0.2)}
_FEW = 5  # percent


def semi(config: Config, percent: float) -> Protocol:
    """On so many percent of the labels: SwAV's 20 epochs and two rates, x .2 at 60 and 80 %, unless the config says otherwise."""
    backbone, head = _RATES[1 if percent < _FEW else 10]
    return Protocol(
        config.semi_epochs,
        config.semi_learning_rate or backbone,
        config.semi_head_learning_rate or head,
        lambda total: optax.piecewise_constant_schedule(1.0, {total * 3 // 5: 0.2, total * 4 // 5: 0.2}),
    )


def make_program(config: Config, n_images: int, channels: int, n_classes: int, protocol: Protocol) -> Program:
    """The fine-tuning of one run as pure functions.

    They are a `Program`'s, but for these: `init` takes (hyper, the encoder's {"params", "batch_stats"}) and gives a state whose
    params are {"backbone", "head"}; hyper is {"seed"}; `forward` gives the batch statistics beside loss and backward pass;
    `encode` gives class scores [batch, n_classes].

    Args:
      config: resolved; its network and its `finetune_*` settings are used. A batch larger than the set is the set.
      n_images: in the training set.
      channels: that the network takes.
      n_classes: outputs of the head.
      protocol: its epochs and rates.
    """
    network = encoder_network(config)
    batch_size = min(config.finetune_batch_size, n_images)
    steps_per_epoch = n_images // batch_size
    total_steps = protocol.epochs * steps_per_epoch
    fall, momentum = protocol.fall(total_steps), optax.trace(MOMENTUM)
    parsed = augment.parse(config.finetune_transforms)
    view, values = parsed.views[0], augment.hyper(parsed)["view1"]

    def init(hyper: Tree, encoder: Tree) -> State:
        blank = jnp.zeros((1, config.image_size, config.image_size, channels))
        dim = jax.eval_shape(lambda: network.apply(encoder, blank, train=False)).shape[-1]
        head = linear_start(derive(hyper["seed"], 0, FINETUNE_INIT), dim, n_classes)
        params = {"backbone": encoder["params"], "head": head}
        return State(params, {"backbone": encoder["batch_stats"]}, (), momentum.init(params), jnp.array(True))

    def order(hyper: Tree, epoch: jax.Array) -> jax.Array:
        return jax.random.permutation(derive(hyper["seed"], epoch, FINETUNE_ORDER), n_images)

    def forward(
        state: State, hyper: Tree, data: Data, order: jax.Array | Chunk, step: jax.Array
    ) -> tuple[jax.Array, Any, Tree]:
        index, pixels = taken(data, order, step, batch_size, steps_per_epoch)
        key = derive(hyper["seed"], step, FINETUNE_VIEWS)
        traced = jax.tree.map(jnp.float32, values)
        drawn = augment.apply_view(view, key, to_unit(pixels), traced, image_size=config.image_size)
        x, y = spread((drawn - data.mean) / data.std), data.labels[index]

        def loss(params: Tree) -> tuple[jax.Array, Tree]:
            variables = {"params": params["backbone"], "batch_stats": state.stats["backbone"]}
            rngs = {"dropout": derive(hyper["seed"], step, FINETUNE_LOSS)}  # of stochastic depth
            features, changed = network.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)
            value = losses.cross_entropy(scores(params["head"], features), y)
            return value, {"backbone": changed.get("batch_stats", {})}

        return jax.vjp(remat(config, loss), state.params, has_aux=True)

    def step(
        state: State, hyper: Tree, data: Data, order: jax.Array | Chunk, step: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        loss, backward, stats = forward(state, hyper, data, order, step)
        (gradients,) = backward(jnp.ones_like(loss))
        direction, moments = momentum.update(gradients, state.optimizer)
        params = {
            part: jax.tree.map(lambda p, d, rate=rate: p - rate * fall(step) * d, state.params[part], direction[part])
            for part, rate in (("backbone", protocol.backbone), ("head", protocol.head))
        }
        alive = state.alive & jnp.isfinite(loss)
        return State(params, stats, (), moments, alive), {"loss": loss}

    def encode(state: State, images: jax.Array, data: Data) -> jax.Array:
        variables = {"params": state.params["backbone"], "batch_stats": state.stats["backbone"]}
        features = network.apply(variables, (images - data.mean) / data.std, train=False)
        return scores(state.params["head"], features)

    unused: Any = None
    return Program(init, order, forward, step, unused, None, encode, steps_per_epoch, total_steps)


def scores(head: Tree, features: Any) -> jax.Array:
    """Class scores [n, n_classes] of features [n, dim]."""
    return features @ head["kernel"] + head["bias"]


def fit(
    config: Config,
    trained: Trained,
    labels: np.ndarray,
    *,
    n_classes: int,
    protocol: Protocol | None = None,
    name: str = "",
    progress: bool = True,
) -> Trained:
    """Fine-tunes every run: trained, untrained or from a file, whose weights become each run's own.

    Runs that do not fit into the memory together are tuned in parts, one after another.

    Args:
      config: resolved.
      trained: the runs, with the training images; it is left as it is.
      labels: [n] of the training images, whole numbers below n_classes.
      n_classes: outputs of the head.
      protocol: its epochs and rates; None for those of all labels.
      name: the program's, in the progress.
      progress: whether to draw a progress bar on standard error.

    Returns:
      The runs after the last epoch; what their program's `encode` gives are class scores, so that `extract` of
      `ssljax.evaluate.features` gives them for any images. A run that diverged is not `alive`, or its scores are not finite.

    Raises:
      UserError: not even one run fits into the memory.
    """
    keep_scratch()
    data = trained.data._replace(shared=(), labels=jnp.asarray(labels, jnp.int32))
    protocol = protocol or whole(config, len(labels))
    program = make_program(config, len(labels), len(data.mean), n_classes, protocol)
    shared = trained.data.shared
    axis = None if shared else 0
    encoder = shared or {"params": trained.state.params["backbone"], "batch_stats": trained.state.stats["backbone"]}
    leaves, tree = jax.tree.flatten(encoder)
    seeds = np.array([run.seed for run in trained.runs], np.uint32)

    one = {"seed": seeds[0]}, jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf if shared else leaf[0], encoder))
    batch_size = min(config.finetune_batch_size, len(labels))
    chunk = None if trained.images is None else chunk_shape(trained.images, batch_size, 1)
    need = memory.needed(program, jax.eval_shape(program.init, *one), one[0], data, chunk)
    config = dataclasses.replace(
        config,
        batch_size=batch_size,
        run_axis=execution.run_axis(config, need.activations),
        mesh="",  # what is asked for is for the training, and these runs may be others
    )
    devices = jax.local_devices()
    sizes = memory.split(config, need, len(seeds), "--finetune_batch_size", devices=len(devices))
    tuned: list[State] = []
    with progress_bar(f"{name}: fine-tuning", len(seeds), program.total_steps * len(sizes), progress) as bar:
        for end, size in zip(itertools.accumulate(sizes), sizes):
            part = slice(end - size, end)
            mesh = mesh_of(config, size, devices)
            laid, everywhere = NamedSharding(mesh, PartitionSpec("run")), NamedSharding(mesh, PartitionSpec())
            hyper = jax.device_put({"seed": seeds[part]}, laid)
            data = jax.device_put(data, everywhere)
            init = laid_out(over_runs(program.init, (0, axis)), (0, axis), mesh)
            # Copies: the steps donate their state, and the runs as they were are still asked for.
            own = (jnp.array(leaf if shared else leaf[part]) for leaf in leaves)
            state = init(hyper, jax.device_put(jax.tree.unflatten(tree, own), everywhere if shared else laid))
            with feeding(config, Trained(program, (), state, hyper, data, 0, trained.images)) as feed:
                steps_of = sweep_epoch(config, program, mesh, feed)
                for epoch in range(protocol.epochs):
                    began = time.perf_counter()
                    state, values = steps_of(state, hyper, data, epoch, bar)
                    speed = config.batch_size * size * program.steps_per_epoch / (time.perf_counter() - began)
                    shown = f"epoch {epoch + 1}/{protocol.epochs}, loss {np.mean(values['loss']):.3f}"
                    bar.set_postfix_str(f"{shown}, {speed:,.0f} images/s", refresh=False)
            state = state._replace(optimizer=())
            tuned.append(state if len(sizes) == 1 else jax.device_get(state))  # the next part needs the room
    if len(tuned) > 1:
        state = jax.tree.map(lambda *parts: jnp.concatenate(parts), *tuned)
    return trained._replace(program=program, state=state, data=data)
