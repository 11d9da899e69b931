"""VICReg (Bardes et al., 2022): views agree, every dimension varies, no two dimensions say the same.

Loss: invariance x mean (z1 - z2)^2 + variance x [h(z1) + h(z2)] + covariance x [c(z1) + c(z2)], h the mean over
dimensions of max(0, 1 - sqrt(var + 1e-4)), c the sum of squared off-diagonal covariances over D (equations 1 to 6).
Memory: none.
What people get wrong: eps stands inside the root, the variance is unbiased, the covariance divides by N - 1. The
paper's code and lightly halve h(z1) + h(z2), solo-learn does not; solo-learn's form is ours, since the papers' runs
used it: `--set=variance=12.5` is the official one.
"""

from typing import Any

import jax
from flax import linen as nn

from ssljax import losses
from ssljax.methods.base import Course, Method, Traced, Tree, two_global_views
from ssljax.methods.networks import memoryless, network, precision
from ssljax.models import MLP

VIEWS = two_global_views

HYPER = {  # Bardes et al., section 4.2
    "invariance": Traced("weight of the invariance term (the paper's lambda)", 25.0),
    "variance": Traced("weight of the variance term (mu)", 25.0),
    "covariance": Traced("weight of the covariance term (nu)", 1.0),
}

_SHARED = dict(learning_rate=0.3, weight_decay=1e-4, hidden_dim=2048, output_dim=2048)

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {**_SHARED, "batch_size": 256},
    "paper@bbbc021": {},
    "paper@crops": {},
    "paper@imagenet100": {},
    # Bardes et al., 2022, section 4.2, and the official program: half of our variance term, and a thousandth of the rate left at
    # the end.
    "paper@imagenet2012": dict(
        learning_rate=0.2, weight_decay=1e-6, variance=12.5, hidden_dim=8192, output_dim=8192, batch_size=2048, epochs=1000,
        min_learning_rate=1.6e-3, transforms="byol",
    ),
    "solo": {**_SHARED, "transforms": "solo_vicreg"},
    # The covariance term is a sum over D^2 divided by D: with 64 outputs it takes 32 times the weight of 2048 to be as strong.
    "digits": dict(covariance=32.0),
}  # fmt: skip


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """VICReg for one run; see `ssljax.methods.base.Method`."""
    del course
    widths = (config.hidden_dim, config.hidden_dim, config.output_dim)
    net = network(backbone, MLP(widths, dtype=precision(config)))

    def value(z1: jax.Array, z2: jax.Array, hyper: Tree) -> jax.Array:
        return losses.vicreg(z1, z2, **{name: hyper[name] for name in HYPER})

    return memoryless(VIEWS(config), net, value)
