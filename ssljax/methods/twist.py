"""TWIST (Feng et al., 2021): two views give one class distribution, sure of each image and even over the images.

Loss: the symmetric Kullback-Leibler divergence of two views' softmaxes + the mean entropy of their rows - the entropy
of their mean row, the mean over pairs of a global view and a later view (equations 1 to 3). From
`self_labelling.epoch` on instead: the cross entropy of the other views with the argmax of the surer global view, for the
surest share of the batch's images; the share grows from `fraction.base` to `fraction.final` by half a cosine.
Memory: none.
What people get wrong: no gradient stops and no target network; the logits are batch-normalised without scale and
offset before the softmax, with statistics over all views of 256 images at a time; 1e-5 stands inside every logarithm.
The self-labelling stage has a learning rate and warm-up of its own: the first stage's cosine ends where it begins, and
it is as if trained after it, but for the optimiser's momentum, which goes on.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax import losses
from ssljax.errors import UserError
from ssljax.methods.base import (
    Batch,
    Course,
    Method,
    Stage,
    Traced,
    Tree,
    cosine_schedule,
    multi_crop_views,
    no_update,
)
from ssljax.methods.networks import information, network, precision
from ssljax.models import MLP

VIEWS = multi_crop_views

HYPER = {  # the official program's values
    "self_labelling.epoch": Traced("first epoch, from 0, of the self-labelling stage; --epochs or more: none", 1e6),
    "self_labelling.learning_rate": Traced("peak learning rate of the stage, scaled as learning_rate is", 0.05),
    "self_labelling.warmup_epochs": Traced("epochs of linear warm-up at the stage's start", 5.0),
    "self_labelling.fraction.base": Traced("share of images labelled at the stage's first step", 0.5, high=1.0),
    "self_labelling.fraction.final": Traced("share of images labelled at the stage's last step", 0.6, high=1.0),
}

_GROUP = 256  # images whose logits are normalised together (the official program's)

# The official program's for ResNet-50 on ImageNet, its only ones; 4096 outputs are multi-crop's, without it has 32768.
_SHARED: dict[str, Any] = dict(
    learning_rate=0.5, weight_decay=1.5e-6, optimizer="lars", lr_scaling="linear", hidden_dim=4096, output_dim=4096,
)  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,
    # With its second stage: the last 50 epochs, here after 400 (MIRA's Table 2), there after 800.
    "paper@imagenet2012": {
        **dict(batch_size=2048, epochs=450, local_crops=12, transforms="twist"),
        "self_labelling.epoch": 400.0,
    },
    "solo": {**_SHARED, "transforms": "solo_asym"},
    # A tenth of the first stage's rate, as the official program's; half its warm-up.
    "digits": {"self_labelling.learning_rate": 1e-4, "self_labelling.warmup_epochs": 1.0},
}


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """TWIST for one run; see `ssljax.methods.base.Method`.

    Raises:
      UserError: a batch that does not divide into groups.
    """
    size = min(config.batch_size, _GROUP)
    if config.batch_size % size:
        raise UserError(f"--batch_size: twist normalises groups of {_GROUP} images, given {config.batch_size}")
    net = network(backbone, MLP((config.hidden_dim, config.hidden_dim, config.output_dim), dtype=precision(config)))

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        return *net.init(key, views[0]), {}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        z, stats = net.project(params, stats, batch.views, key)
        logits = normalize_groups(z, size)
        values = hyper["self_labelling"]
        since = step - values["epoch"] * course.steps_per_epoch
        left = course.total_steps - values["epoch"] * course.steps_per_epoch
        fraction = cosine_schedule(values["fraction"]["base"], values["fraction"]["final"], since, left)
        value: jax.Array = jax.lax.cond(since >= 0, lambda: labelled(logits, fraction), lambda: twins(logits))
        return value, (stats, memory, information("student", jax.nn.softmax(logits[:2])))

    def stage(hyper: Tree, step: jax.Array) -> Stage:
        values = hyper["self_labelling"]
        start = jnp.minimum(values["epoch"] * course.steps_per_epoch, course.total_steps)
        first = Stage(hyper["learning_rate"], hyper["warmup_epochs"], jnp.zeros_like(start), start)
        second = Stage(values["learning_rate"], values["warmup_epochs"], start, course.total_steps - start)
        return jax.tree.map(lambda a, b: jnp.where(step < start, a, b), first, second)

    return Method(VIEWS(config), init, loss, no_update, net.encode, stage=stage)


def check(config: Any, values: Tree, flag: str) -> None:
    """Raises `UserError` if a stage is over before its warm-up.

    Args:
      config: its epochs.
      values: the traced numbers of a run.
      flag: where they are from.
    """
    begin, end = min(values["self_labelling"]["epoch"], config.epochs), config.epochs
    own = values["self_labelling"]["warmup_epochs"]
    if begin < end and own >= end - begin:
        raise UserError(
            f"{flag}: self_labelling.warmup_epochs: {own:g} is not below the {end - begin:g} epochs of the stage: the rate would "
            "never fall"
        )
    if 0 < begin <= values["warmup_epochs"]:
        raise UserError(
            f"{flag}: self_labelling.epoch: the {begin:g} epochs before it are no more than "
            f"--warmup_epochs={values['warmup_epochs']:g}"
        )


def normalize_groups(logits: jax.Array, size: int) -> jax.Array:
    """Logits [views, batch, classes], of mean 0 and deviation 1 over all views of each `size` images (eps 1e-5)."""
    views, batch, classes = logits.shape
    groups = logits.reshape(views, batch // size, size, classes)
    centred = groups - groups.mean((0, 2), keepdims=True)
    variance = jnp.mean(centred**2, axis=(0, 2), keepdims=True)
    return (centred * jax.lax.rsqrt(variance + 1e-5)).reshape(logits.shape)  # eps: batch normalisation's


def twins(logits: jax.Array) -> jax.Array:
    """The mean TWIST loss of each global view with each later view, of logits [views, batch, classes]."""
    terms = [losses.twist(logits[a], logits[b]) for a in (0, 1) for b in range(a + 1, len(logits))]
    return sum(terms, jnp.float32(0)) / len(terms)


def labelled(logits: jax.Array, fraction: jax.Array) -> jax.Array:
    """The mean over the other views of the cross entropy with labels from the surer global view of the surest images.

    Args:
      logits: [views, batch, classes].
      fraction: share of the batch's images that are labelled, rounded down to whole images.
    """
    sure = jnp.max(jax.nn.softmax(jax.lax.stop_gradient(logits[:2])), axis=-1)
    first = (sure[0] > sure[1])[:, None]  # whether the first view labels the image and the second learns it
    teacher = jax.lax.stop_gradient(jnp.where(first, logits[0], logits[1]))
    pupil = jnp.where(first, logits[1], logits[0])
    rank = jnp.argsort(jnp.argsort(-jnp.max(sure, axis=0)))
    labels = jnp.where(rank < jnp.floor(fraction * len(rank)), jnp.argmax(teacher, axis=-1), -1)
    terms = [losses.deepcluster(view, labels, 1.0) for view in (pupil, *logits[2:])]
    return sum(terms, jnp.float32(0)) / len(terms)
