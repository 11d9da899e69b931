"""The estimate of memory against XLA's own account, the split of a sweep that does not fit, and what is kept for a resume."""

import dataclasses
import itertools
import json
import types

import jax
import numpy as np
import pytest

import ssljax
from ssljax import pipeline
from ssljax.errors import UserError
from ssljax.train import execution, loop, memory
from ssljax.train.execution import Execution
from ssljax.train.memory import Memory
from ssljax.train.step import over_runs


def estimate_of(config):
    program = pipeline.plan([config])[0]
    images = program.dataset.splits["train"].images
    functions = loop.program_of(program.config, len(images), images.shape[-1], program.dataset.classes)
    return program, memory.estimate(functions, program.config, images)


@pytest.mark.parametrize("axis", [pytest.param("vmap", marks=pytest.mark.slow), "map"])
def test_estimate_against_the_arrays_and_xlas_account(tiny, axis):
    runs = 4
    config = tiny(batch_size=64, image_size=16, queue_size=6400, seeds=tuple(range(runs)), run_axis=axis)
    program, found = estimate_of(config)
    trained = pipeline.untrained(program)
    carried = sum(leaf.nbytes for leaf in jax.tree.leaves(trained.state))
    assert runs * found.memory == trained.state.memory["queue"].nbytes
    assert runs * (found.weights + found.memory) == carried
    assert found.shared == sum(leaf.nbytes for leaf in jax.tree.leaves(trained.data))
    order = jax.jit(over_runs(trained.program.order, (0, None)))(trained.hyper, 0)
    step = loop.sweep_step(program.config, trained.program, 2)
    account = step.lower(trained.state, trained.hyper, trained.data, order, 0).compile().memory_analysis()
    taken = account.argument_size_in_bytes + account.output_size_in_bytes - account.alias_size_in_bytes
    taken += account.temp_size_in_bytes
    most = next(n for n in itertools.count() if found.fits(n * 1000, axis) == runs) * 1000
    assert 0.7 < most / taken < 1.5


def test_the_labels_are_counted_where_a_method_learns_from_them(tiny, one_layer):
    found = {}
    for method in ("simclr", "supervised"):
        program, need = estimate_of(tiny(method=method, backbone=one_layer))
        trained = pipeline.untrained(program)
        found[method] = need.shared
        assert need.shared == sum(leaf.nbytes for leaf in jax.tree.leaves(trained.data))
        assert need.weights + need.memory == sum(leaf.nbytes for leaf in jax.tree.leaves(trained.state))
    assert found["supervised"] - found["simclr"] == 4 * 1438  # int32 for each image


def test_activations_grow_with_the_batch_and_not_the_weights(tiny):
    _, small = estimate_of(tiny(batch_size=32))
    _, large = estimate_of(tiny(batch_size=128))
    assert large.weights == small.weights
    assert 3 < large.activations / small.activations < 4.2


def test_how_many_runs_fit():
    need = Memory(weights=10, memory=5, activations=85, shared=100)
    assert need.fits(1100, "vmap") == 10
    assert need.fits(1100, "map") == (1100 - 100 - 85) // (2 * 15)
    assert need.fits(199, "vmap") == 0
    assert need.fits(50, "map") == 0


def config_with(**changes):
    return types.SimpleNamespace(
        **{"run_axis": "vmap", "max_runs_per_program": 0, "mesh": "", "batch_size": 7, **changes}
    )


def test_runs_that_do_not_fit_are_split_or_refused(monkeypatch, caplog):
    need = Memory(weights=10, memory=5, activations=85, shared=100)
    monkeypatch.setattr(memory, "available", lambda: 450)
    caplog.set_level("INFO", "ssljax")
    assert memory.split(config_with(), need, 10) == (3, 3, 2, 2)
    assert "4 programs of at most 3" in caplog.text
    assert memory.split(config_with(), need, 2) == (2,)
    assert memory.split(config_with(max_runs_per_program=2), need, 5) == (2, 2, 1)
    with pytest.raises(UserError, match=r"--max_runs_per_program: 5 runs do not fit: .*at most 3 fit"):
        memory.split(config_with(max_runs_per_program=5), need, 10)
    monkeypatch.setattr(memory, "available", lambda: 150)
    with pytest.raises(UserError, match=r"not even one run fits: about .* can be used"):
        memory.split(config_with(), need, 10)


def test_a_program_takes_no_more_than_the_devices_that_divide_it_hold(monkeypatch):
    need = Memory(weights=10, memory=5, activations=85, shared=100)
    monkeypatch.setattr(memory, "available", lambda: 300)  # two runs on a device
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    sizes = memory.split(config_with(), need, 11)  # 11 runs would all lie on one device
    assert sum(sizes) == 11
    assert all(size <= 2 * execution.layout(config_with(), size).run for size in sizes)
    assert memory.split(config_with(), need, 16) == (16,)


@pytest.mark.slow
def test_a_sweep_that_does_not_fit_is_trained_in_parts_and_resumed_so(tiny, tmp_path, monkeypatch):
    config = tiny(seeds=(1, 2, 3), run_axis="unroll")
    _, need = estimate_of(config)
    monkeypatch.setattr(memory, "available", lambda: need.shared + 2 * need.run)
    ssljax.run(config, tmp_path, stages=("pretrain",), progress=False)

    def parts():
        return {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()}

    assert parts() == {"mocov2plus~0", "mocov2plus~1"}
    (kept,) = json.loads((tmp_path / "checkpoints" / execution.FILE).read_text()).values()
    assert kept == {
        "run_axis": "unroll",
        "programs": {"mocov2plus~0": ["seed=1", "seed=2"], "mocov2plus~1": ["seed=3"]},
        "stream": "no",
    }
    # With all the memory in the world, checkpoints that exist stay what they are, and are measured so.
    monkeypatch.setattr(memory, "available", lambda: 10**15)
    study = ssljax.run(
        dataclasses.replace(config, evaluations=("knn",)), tmp_path, stages=("pretrain", "evaluate"), progress=False
    )
    assert parts() == {"mocov2plus~0", "mocov2plus~1"}
    assert {row["seed"] for row in study.results if row["method"] == "mocov2plus"} == {1, 2, 3}


def test_a_sweep_grows_by_a_seed_and_two_values_and_trains_only_what_is_new(tiny, one_layer, tmp_path):
    common = dict(method="simclr", backbone=one_layer, evaluations=("knn",), transforms="rotation(degrees=30)")
    small = tiny(seeds=(1, 2), sweep=("rotation.degrees=0,90",), **common)
    large = tiny(seeds=(1, 2, 3), sweep=("rotation.degrees=0,45,90,180",), **common)
    folder, grown = tmp_path / "grown", ("simclr", "simclr~1")
    ssljax.run(small, folder, stages=("pretrain",), progress=False)
    before = {path: path.stat().st_mtime_ns for path in (folder / "checkpoints" / "simclr").rglob("*")}
    study = ssljax.run(large, folder, stages=("pretrain", "evaluate"), progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "checkpoints" / "simclr").rglob("*")}
    assert [len(p.runs) for p in pipeline.plan([large], checkpoints=folder / "checkpoints")] == [4, 8]

    def losses(folder):
        rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
        found = {(row["run"].partition("/")[2], row["epoch"]): row["loss"] for row in rows}
        assert len(found) == len(rows) == 12 * 2  # every run's every epoch once
        return found, {row["program"] for row in rows}

    ssljax.run(large, tmp_path / "at once", stages=("pretrain",), progress=False)
    (found, programs), (expected, _) = losses(folder), losses(tmp_path / "at once")
    assert programs == set(grown)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=1e-3)
    rows = {(r["seed"], r["rotation.degrees"]) for r in study.results if r["method"] == "simclr"}
    assert rows == {(seed, value) for seed in (1, 2, 3) for value in (0, 45, 90, 180)}
    with pytest.raises(
        UserError, match=r"holds the run rotation.degrees=0,seed=3, which --seeds and --sweep leave out"
    ):
        ssljax.run(small, folder, stages=("pretrain",), progress=False)


def test_remat_keeps_less_and_gives_the_same_gradient(tiny, monkeypatch):
    found = {}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # CPU leaves it out; what it computes is the same
    for remat in ("none", "blocks"):
        program, need = estimate_of(tiny(remat=remat, convolution="matmul"))
        trained = pipeline.untrained(program)
        state, hyper = (jax.tree.map(lambda x: x[0], tree) for tree in (trained.state, trained.hyper))
        order = trained.program.order(hyper, 0)

        def gradient(state, hyper, data, order, trained=trained):
            loss, backward, _ = trained.program.forward(state, hyper, data, order, 0)
            return loss, backward(jax.numpy.ones_like(loss))

        found[remat] = (need.activations, jax.jit(gradient)(state, hyper, trained.data, order))
    assert found["blocks"][0] < 0.5 * found["none"][0]
    for one, other in zip(*(jax.tree.leaves(found[remat][1]) for remat in found)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_what_is_left_over_of_an_epoch_is_trained_too(tiny, one_layer, tmp_path):
    losses = []
    for steps in (1, 5):  # 22 steps an epoch: four calls of five and one of two
        config = tiny(method="simclr", backbone=one_layer, seeds=(1, 2), steps_per_dispatch=steps)
        ssljax.run(config, tmp_path / str(steps), stages=("pretrain",), progress=False)
        rows = (tmp_path / str(steps) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["loss"] for row in rows])
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert len(set(losses[0])) == 4  # two epochs of two runs


def test_execution_file_that_is_not_ours_is_one_line(tmp_path):
    for text in (
        "[1]",
        '{"byol": {"run_axis": "foo", "programs": {"byol": ["seed=1"]}}}',
        '{"byol": {"run_axis": "map", "programs": {"byol": []}}}',
        '{"byol": {"run_axis": "map", "programs": {"byol": [7]}}}',
    ):
        (tmp_path / execution.FILE).write_text(text)
        with pytest.raises(UserError, match="cannot be read"):
            execution.read(tmp_path)
    chosen = {"byol": Execution("map", {"byol": ("seed=1", "seed=2"), "byol~1": ("seed=3",)})}
    (tmp_path / execution.FILE).write_text(execution.to_json(chosen))
    assert execution.read(tmp_path) == chosen


@pytest.mark.parametrize(
    ("steps_per_epoch", "asked", "convolution", "expected"),
    [
        (22, 0, "auto", 11),
        (48, 0, "matmul", 16),
        (97, 0, "auto", 16),
        (3, 0, "auto", 3),
        (22, 0, "lax", 1),
        (22, 5, "lax", 5),
    ],
)
def test_steps_in_one_call(steps_per_epoch, asked, convolution, expected):
    config = types.SimpleNamespace(steps_per_dispatch=asked, convolution=convolution, batch_size=64, image_size=16)
    assert execution.steps_per_dispatch(config, steps_per_epoch) == expected


def test_small_runs_are_executed_at_once_and_large_ones_one_after_another_on_cpu():
    auto = types.SimpleNamespace(run_axis="auto", convolution="auto")
    assert execution.run_axis(auto, activations=500_000) == "vmap"
    assert execution.run_axis(auto, activations=40_000_000) == "map"
    lax = types.SimpleNamespace(run_axis="auto", convolution="lax")
    assert execution.run_axis(lax, activations=40_000_000) == "vmap"
    assert execution.run_axis(types.SimpleNamespace(run_axis="unroll", convolution="auto"), 1) == "unroll"
