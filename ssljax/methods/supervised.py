"""Plain supervised training, what the others are measured against: cross entropy of a linear head with the labels.

Loss: -log softmax(scores)[label], the mean over the images of one transformed view; no smoothing, no mixing of images.
Memory: none.
What people get wrong: the features are those below the head, and they are measured as every method's, by a classifier trained
anew, so that the head's own accuracy on training views (`accuracy` among the metrics) is no result; the two sides of an
asymmetric transform set are two sets, and of them this sees view 1 alone; one view a step is half of an image's passes
through the network that a method of two views makes in as many epochs.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssljax import losses
from ssljax.errors import UserError
from ssljax.methods.base import CROP_AND_FLIP, Batch, Course, Method, Traced, Tree, no_update, one_view
from ssljax.methods.networks import network, precision
from ssljax.models import MLP

VIEWS = one_view

HYPER: dict[str, Traced] = {}

_DECAY = 1e-4  # He et al., 2016 (residual networks), section 4.2, on CIFAR; momentum .9 too

# A rate of .1 at a batch of 256: Goyal et al., 2017, section 2.1, whose rule gives .2 at the 512 of "paper". On CIFAR as
# many epochs as the other methods, our choice.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": dict(learning_rate=0.2, weight_decay=_DECAY),
    # Goyal et al., 2017, section 5.1, but for the schedule: half a cosine, as everywhere here, where theirs falls in steps.
    "paper@imagenet2012": dict(
        learning_rate=0.1, optimizer="sgd", batch_size=256, epochs=90, warmup_epochs=5, transforms=CROP_AND_FLIP
    ),
    "solo": dict(learning_rate=0.1, weight_decay=_DECAY, optimizer="sgd", transforms=CROP_AND_FLIP),
    "digits": {},
}  # fmt: skip


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """Supervised training for one run; see `ssljax.methods.base.Method`.

    Raises:
      UserError: the data set has no labels.
    """
    if not course.classes:
        raise UserError(
            f"--dataset: supervised learns from labels and the training images of {config.dataset} have none"
        )
    net = network(backbone, MLP((course.classes,), dtype=precision(config)))

    def init(key: jax.Array, views: tuple[jax.Array, ...]) -> tuple[Tree, Tree, Tree]:
        return *net.init(key, views[0]), {}

    def loss(
        params: Tree, stats: Tree, memory: Tree, batch: Batch, hyper: Tree, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, Tree, dict[str, jax.Array]]]:
        del hyper, step
        (scores,), stats = net.project(params, stats, batch.views, key)
        accuracy = jnp.mean(scores.argmax(axis=1) == batch.labels)
        return losses.cross_entropy(scores, batch.labels), (stats, memory, {"accuracy": accuracy})

    return Method(VIEWS(config), init, loss, no_update, net.encode, labels=True)
