"""Barlow Twins (Zbontar et al., 2021): the cross-correlation of two views' projections should be the identity.

Loss: scale x [sum_i (C_ii - 1)^2 + lambda sum_{i != j} C_ij^2], C the correlation of z1's and z2's dimensions over
the batch (equations 1, 2).
Memory: none.
What people get wrong: z is standardised with the biased variance (eps 1e-5) and C divided by N, so that its
diagonal can reach 1; N is the whole batch; scale is .1 on CIFAR (solo-learn's), where the paper writes 1: under SGD
that is a tenth of the gradient.
"""

from typing import Any

import jax
from flax import linen as nn

from ssljax import losses
from ssljax.methods.base import Course, Method, Traced, Tree, two_global_views
from ssljax.methods.networks import memoryless, network, precision
from ssljax.models import MLP

VIEWS = two_global_views

HYPER = {
    "lambda": Traced("weight of the off-diagonal terms", 0.0051),  # Zbontar et al., section 2.2
    "scale": Traced("factor of the whole loss", 0.1),  # solo-learn's on CIFAR
}

_SHARED = dict(learning_rate=0.3, weight_decay=1e-4, hidden_dim=2048, output_dim=2048)

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,
    # The official program: biases and norms have a rate of .0048 there, .024 of the weights'. LARS does not see the scale of the
    # loss, they do: a scale of .024 is the same. A thousandth of the rate is left at the end.
    "paper@imagenet2012": dict(
        learning_rate=0.2, weight_decay=1e-6, scale=0.024, hidden_dim=8192, output_dim=8192, batch_size=2048, epochs=1000,
        min_learning_rate=1.6e-3, transforms="byol",
    ),
    "solo": {**_SHARED, "transforms": "solo_asym"},
    "solo@imagenet100": dict(transforms="byol"),
    # D terms are held against D^2: with 64 outputs the second kind takes 32 times the weight of 2048 to be as strong.
    "digits": {"lambda": 0.163},
}  # fmt: skip


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """Barlow Twins for one run; see `ssljax.methods.base.Method`."""
    del course
    widths = (config.hidden_dim, config.hidden_dim, config.output_dim)
    net = network(backbone, MLP(widths, dtype=precision(config)))

    def value(z1: jax.Array, z2: jax.Array, hyper: Tree) -> jax.Array:
        return losses.barlow_twins(z1, z2, lambda_=hyper["lambda"], scale=hyper["scale"])

    return memoryless(VIEWS(config), net, value)
