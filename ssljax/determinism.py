"""`--deterministic`: the same bits whenever a command is repeated or gone on with, on a GPU too.

On a CPU that is so anyway. On a GPU XLA chooses kernels by timing them, and some of them add in the order in which threads happen
to finish. One of its flags excludes both, at a price in speed. It is read once a process: when JAX first looks for devices.
"""

import os

from ssljax.errors import UserError

# The wider of XLA's two: it implies xla_gpu_exclude_nondeterministic_ops, and keeps from choosing kernels by time besides
# (https://openxla.org/xla/determinism, openxla/xla pull request 12520). What cannot be had so, select-and-scatter, no network
# here contains: see `ssljax.models.layers.max_pool`.
FLAG = "--xla_gpu_deterministic_ops"


def ask() -> None:
    """Asks XLA for deterministic operations, for this process; before anything asks JAX for a device.

    Raises:
      UserError: JAX has started on a GPU without them.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if f"{FLAG}=true" in given.split():
        return
    from jax._src import xla_bridge  # JAX has no public way to ask whether it has looked for devices

    if not xla_bridge.backends_are_initialized():
        os.environ["XLA_FLAGS"] = f"{given} {FLAG}=true".strip()
        return
    import jax

    if jax.default_backend() == "gpu":
        raise UserError(
            f"--deterministic: JAX has started without it; set XLA_FLAGS={FLAG}=true before the first use of JAX"
        )
