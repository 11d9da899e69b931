"""SimCLR (Chen et al., 2020): views of one image attract, all other views of the batch repel.

Loss: NT-Xent over the 2N views of a batch, -log exp(s_ij/T) / sum_{k != i} exp(s_ik/T) for each view i and its
partner j, s the cosine of their projections (equation 1).
Memory: none.
What people get wrong: the head has no batch normalisation; the positive belongs in the denominator, the view itself
does not; log-sum-exp, not exp.
"""

from typing import Any

from flax import linen as nn

from ssljax import losses
from ssljax.methods.base import TEMPERATURE, Course, Method, two_global_views
from ssljax.methods.networks import memoryless, network, precision
from ssljax.models import MLP

VIEWS = two_global_views

HYPER = {**TEMPERATURE}

# Hidden widths are solo-learn's everywhere: the papers do not give them.
_SHARED = dict(learning_rate=0.4, weight_decay=1e-5, temperature=0.2, hidden_dim=2048, output_dim=256)

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _SHARED,
    "paper@imagenet100": {},
    # Chen et al., 2020, sections 2.2 and 6, and the official program: temperature .1 and 1000 epochs are of its longest runs.
    "paper@imagenet2012": dict(
        learning_rate=0.3, weight_decay=1e-6, temperature=0.1, output_dim=128, epochs=1000, transforms="solo_sym"
    ),
    "solo": {**_SHARED, "weight_decay": 1e-4, "transforms": "solo_sym"},
    "digits": dict(temperature=0.2),
}


def candidates(config: Any) -> int:
    """All views of a batch but the one that asks."""
    return 2 * config.batch_size - 1


def make(config: Any, backbone: nn.Module, course: Course) -> Method:
    """SimCLR for one run; see `ssljax.methods.base.Method`."""
    del course
    net = network(backbone, MLP((config.hidden_dim, config.output_dim), normalise=False, dtype=precision(config)))
    return memoryless(VIEWS(config), net, lambda z1, z2, hyper: losses.nt_xent(z1, z2, hyper["temperature"]))
