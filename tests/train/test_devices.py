"""Runs spread over devices, and batches spread over devices, give what one device gives, for every method."""

import dataclasses
import os
import subprocess
import sys

import jax
import pytest

from ssljax import config as config_lib
from ssljax.errors import UserError
from ssljax.methods import METHODS
from ssljax.train import execution

# Walks methods and meshes in one process of simulated devices: the runs' losses, gradients and weights of two steps on each
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

def steps(program, trained, order, count):
    functions, mesh = trained.program, trained.mesh
    step = loop.sweep_step(program.config, functions, 1, mesh)
    state, order = jax.tree.map(jnp.copy, trained.state), jax.device_put(order, trained.hyper["seed"].sharding)
    if functions.fill is not None:
        fill = laid_out(over_runs(functions.fill, (0, 0, None, 0, None)), (0, 0, None, 0, None), mesh)
        for i in range(functions.steps_per_epoch):
            state = fill(state, trained.hyper, trained.data, order, i)
        state = laid_out(over_runs(functions.on_epoch, (0, 0, None)), (0, 0, None), mesh)(state, trained.hyper, 0)
    told = []
    for i in range(count):
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
        # One of a deep network: in its second a last bit already moves a maximum of a pool, or a unit over its kink.
        state, told = steps(program._replace(config=config), trained, order, 1 if '/' in case else 2)
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
@pytest.mark.parametrize(
    ("cases", "meshes"),
    [
        ([*METHODS, "simclr/vgg11_bn"], ["run:4,data:2"]),
        # Of the meshes of one axis, methods whose losses see the batch in different ways: compiling all of them takes minutes.
        (["barlow_twins", "deepclusterv2", "mira"], ["run:8", "run:1,data:8"]),
    ],
    ids=["both axes", "one axis"],
)
def test_every_method_on_a_mesh_equals_one_device(cases, meshes):
    check(walk(8, cases, meshes), cases, meshes)


def test_a_batch_on_two_devices_equals_one():
    cases, meshes = ["swav"], ["data:2"]
    check(walk(2, cases, meshes), cases, meshes)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("runs:2", r"--mesh: unknown axis 'runs'; did you mean 'run'"),
        ("run:2,run:2", r"--mesh: expected each axis once .* given 'run:2,run:2'"),
        ("run:0", r"--mesh: expected each axis once with a number of devices"),
        ("run:x", r"--mesh: expected each axis once with a number of devices"),
        ("run:4,data:4", r"--mesh: run:4,data:4 is 16 devices, expected at most 8"),
        ("run:4", r"--mesh: run:4 does not divide the 6 runs"),
        ("run:2,data:3", r"--mesh: data:3 does not divide --batch_size=64"),
    ],
)
def test_a_mesh_that_cannot_be_is_one_line(tiny, monkeypatch, mesh, message):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(UserError, match=message):
        execution.layout(config_lib.resolve(tiny(mesh=mesh)), 6)


def test_what_a_program_is_laid_over_unless_asked(tiny, monkeypatch):
    config = config_lib.resolve(tiny(batch_size=60))
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    found = {runs: tuple(execution.layout(config, runs)) for runs in (1, 2, 3, 5, 8, 100)}
    # Runs first; of what is left as many devices as divide 60.
    assert found == {1: (1, 6), 2: (2, 4), 3: (3, 2), 5: (5, 1), 8: (8, 1), 100: (5, 1)}
    # Several processes: every device of each, or a line.
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert execution.layout(dataclasses.replace(config, batch_size=64), 6) == (2, 4)
    with pytest.raises(UserError, match="6 runs in batches of 63 cannot be laid over all 8 devices of 2 processes"):
        execution.layout(dataclasses.replace(config, batch_size=63), 6)
    with pytest.raises(UserError, match="run:2 is 2 devices, expected all 8 devices of 2 processes"):
        execution.layout(dataclasses.replace(config, mesh="run:2"), 6)
