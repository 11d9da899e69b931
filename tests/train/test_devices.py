"""The run axis laid over several devices gives what one device gives."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import jax, numpy as np
import ssljax
from ssljax import pipeline
from ssljax.train import loop
from ssljax.train.step import over_runs
jax.config.update("jax_compilation_cache_dir", None)
config = ssljax.Config(backbone="vgg11_bn", width=1 / 32, image_size=8, batch_size=16, hidden_dim=8,
                       output_dim=4, method="simclr", transforms="color_inversion", seeds=(1, 2))
program = pipeline.plan([config])[0]
trained = pipeline.untrained(program)
step = loop.sweep_step(program.config, trained.program, 1, trained.mesh)
order = jax.jit(over_runs(trained.program.order, (0, None)))(trained.hyper, 0)
state, metrics = step(trained.state, trained.hyper, trained.data, order, 0)
spread = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state.params)}
print(jax.device_count(), spread, *np.asarray(metrics["loss"]).ravel(), *np.asarray(metrics["gradient_norm"]).ravel())
"""


@pytest.mark.slow
def test_runs_spread_over_devices_give_the_same_losses():
    results = []
    for count in (1, 2):
        environment = {
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "JAX_PLATFORMS": "cpu",
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=True
        )
        devices, spread, *values = done.stdout.split()
        assert (int(devices), spread) == (count, f"{{{count}}}")
        results.append([float(v) for v in values])
    one, two = results
    assert all(abs(a - b) < 1e-4 * abs(a) for a, b in zip(one, two))
    assert abs(one[0] - one[1]) > 1e-4  # two runs, two seeds
