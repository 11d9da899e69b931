"""Runs spread over devices, and batches spread over devices, give what one device gives, for every method."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from ssljax import config as config_lib
from ssljax.errors import UserError
from ssljax.methods import METHODS
from ssljax.train import execution

# Walks methods and meshes in one process of simulated devices: the runs' losses, gradients and weights after two steps on each
# mesh, and how far they are from those on one device. Dense layers, so that compiling is cheap; one convolutional network more.
SCRIPT = """
import dataclasses, sys
sys.path.insert(0, "tests")
import jax, numpy as np
from jax import numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from conftest import TINY, OneLayer
import ssljax
from ssljax import config as config_lib
from ssljax import pipeline
from ssljax.methods import OF_METHODS, reads
from ssljax.models import BACKBONES
from ssljax.train import loop
from ssljax.train.mesh import laid_out, mesh_of
from ssljax.train.step import over_runs

BACKBONES["one_layer"] = lambda dtype, **_: OneLayer(dtype)
cases, meshes = sys.argv[1].split(), sys.argv[2].split()

def config_of(case):
    method, _, network = case.partition("/")
    fitting = {k: v for k, v in TINY.items() if k not in OF_METHODS or k in reads(method)}
    fitting |= dict(backbone="one_layer", optimizer="sgd", learning_rate=0.05, warmup_epochs=0, batch_size=64)
    if network:
        fitting |= dict(backbone=network, batch_size=16)
    else:  # the transforms of one set are enough
        fitting |= dict(transforms="color_inversion")
    return ssljax.Config(**fitting, method=method, seeds=tuple(range(1, 9)), run_axis="vmap")

def two_steps(program, trained, order):
    functions, mesh = trained.program, trained.mesh
    step = loop.sweep_step(program.config, functions, 1, mesh)
    state, order = jax.tree.map(jnp.copy, trained.state), jax.device_put(order, trained.hyper["seed"].sharding)
    if functions.fill is not None:
        fill = laid_out(over_runs(functions.fill, (0, 0, None, 0, None)), (0, 0, None, 0, None), mesh)
        state = fill(state, trained.hyper, trained.data, order, 0)
    told = []
    for i in (0, 1):
        state, metrics = step(state, trained.hyper, trained.data, order, i)
        told.append(np.concatenate([np.asarray(metrics["loss"]), np.asarray(metrics["gradient_norm"])]))
    return state, np.stack(told)

for case in cases:
    program = pipeline.plan([config_of(case)])[0]
    found, first = {}, None
    for name in ["run:1,data:1", *meshes]:
        config, sizes = dataclasses.replace(program.config, mesh=name), config_lib.mesh_sizes(name)
        if case == cases[0] or first is None:
            trained = pipeline.untrained(program._replace(config=config))
            order = laid_out(over_runs(trained.program.order, (0, None)), (0, None), trained.mesh)(trained.hyper, 0)
            first = first or trained
        else:  # to compile no more than the steps
            mesh = mesh_of(config, 8)
            laid, everywhere = NamedSharding(mesh, PartitionSpec("run")), NamedSharding(mesh, PartitionSpec())
            state, hyper = jax.device_put((first.state, first.hyper), laid)
            trained = first._replace(state=state, hyper=hyper, data=jax.device_put(first.data, everywhere))
        assert dict(trained.mesh.shape) == sizes
        state, told = two_steps(program._replace(config=config), trained, order)
        devices = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)}
        assert devices == {sizes["run"] * sizes["data"]}, devices
        for leaf in jax.tree.leaves(state):  # each device holds its runs whole
            assert leaf.sharding.shard_shape(leaf.shape) == (8 // sizes["run"], *leaf.shape[1:])
        found[name] = told, [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.stats, state.memory))]
    losses, state = found.pop("run:1,data:1")
    for name, (other, leaves) in found.items():
        apart = max(float(np.max(np.abs(a - b) / (1 + np.abs(a)))) for a, b in zip(state, leaves) if a.size)
        print(case, name, float(np.max(np.abs(losses - other) / (1 + np.abs(losses)))), apart, float(np.ptp(losses[0, 0])))
"""

# Sums over a batch in another order: errors of about 1e-6, which steep losses and small denominators raise. Statistics of a part
# of the batch instead of all of it are off by 1e-2 and more.
TOLERANCE = 1e-3


def walk(count, cases, meshes):
    """{(case, mesh): (how far losses and gradients are apart, how far the states are, the spread of the runs' losses)}."""
    environment = {
        **os.environ,
        # Unoptimised: compiling is what costs.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, " ".join(cases), " ".join(meshes)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    return {(case, mesh): tuple(map(float, values)) for case, mesh, *values in lines}


def check(found, cases, meshes):
    assert set(found) == {(case, mesh) for case in cases for mesh in meshes}
    for losses, state, spread in found.values():
        assert losses < TOLERANCE and state < TOLERANCE
        assert spread > TOLERANCE  # eight runs, eight seeds: what is compared differs


@pytest.mark.slow
def test_every_method_on_every_mesh_equals_one_device():
    cases, meshes = [*METHODS, "simclr/vgg11_bn"], ["run:8", "run:4,data:2", "run:1,data:8"]
    check(walk(8, cases, meshes), cases, meshes)


def test_a_batch_on_two_devices_equals_one():
    cases, meshes = ["simclr", "swav", "mira"], ["data:2"]
    check(walk(2, cases, meshes), cases, meshes)
