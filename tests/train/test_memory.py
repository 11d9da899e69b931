"""The estimate of memory against XLA's own account, the split of a sweep that does not fit, and what is kept for a resume."""

import dataclasses
import json
import types

import jax
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
    functions = loop.program_of(program.config, len(images), images.shape[-1])
    return program, memory.estimate(functions, program.config, images)


def test_estimate_against_the_arrays_and_xlas_account(tiny):
    program, found = estimate_of(tiny(method="mocov2plus", batch_size=64, image_size=16, queue_size=640))
    trained = pipeline.untrained(program)
    carried = sum(leaf.nbytes for leaf in jax.tree.leaves(trained.state))
    assert found.memory == trained.state.memory["queue"].nbytes
    assert found.weights + found.memory == carried
    assert found.shared == sum(leaf.nbytes for leaf in trained.data)
    order = jax.jit(over_runs(trained.program.order, (0, None)))(trained.hyper, 0)
    step = loop.sweep_step(program.config, trained.program, 1)
    account = step.lower(trained.state, trained.hyper, trained.data, order, 0).compile().memory_analysis()
    assert 0.6 < found.activations / account.temp_size_in_bytes < 1.7


def test_activations_grow_with_the_batch_and_not_the_weights(tiny):
    _, small = estimate_of(tiny(batch_size=32))
    _, large = estimate_of(tiny(batch_size=128))
    assert large.weights == small.weights
    assert 3 < large.activations / small.activations < 4.2


def test_how_many_runs_fit():
    need = Memory(weights=10, memory=5, activations=85, shared=100)
    assert need.fits(1100, "vmap") == 10
    assert need.fits(1100, "map") == (1100 - 100 - 85) // 15
    assert need.fits(199, "vmap") == 0
    assert need.fits(50, "map") == 0


def config_with(**changes):
    return types.SimpleNamespace(**{"run_axis": "vmap", "max_runs_per_program": 0, **changes})


def test_runs_that_do_not_fit_are_split_or_refused(monkeypatch, caplog):
    need = Memory(weights=10, memory=5, activations=85, shared=100)
    monkeypatch.setattr(memory, "available", lambda: 450)
    caplog.set_level("INFO", "ssljax")
    assert memory.runs_that_fit(config_with(), need, 10) == 3
    assert "at most 3" in caplog.text
    assert memory.runs_that_fit(config_with(), need, 2) == 2
    assert memory.runs_that_fit(config_with(max_runs_per_program=2), need, 10) == 2
    with pytest.raises(UserError, match=r"--max_runs_per_program: 5 runs do not fit: .*at most 3 fit"):
        memory.runs_that_fit(config_with(max_runs_per_program=5), need, 10)
    monkeypatch.setattr(memory, "available", lambda: 150)
    with pytest.raises(UserError, match=r"one run takes about .* can be used"):
        memory.runs_that_fit(config_with(), need, 10)


def test_a_sweep_that_does_not_fit_is_trained_in_parts_of_one_size_and_resumed_so(tiny, tmp_path, monkeypatch):
    config = tiny(seeds=(1, 2, 3, 4), epochs=1, run_axis="unroll")
    _, need = estimate_of(config)
    monkeypatch.setattr(memory, "available", lambda: need.shared + 3 * need.run)
    ssljax.run(config, tmp_path, stages=("pretrain",), progress=False)
    parts = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()}
    assert len(parts) == 2 and all("~" in part for part in parts)
    (kept,) = json.loads((tmp_path / "checkpoints" / execution.FILE).read_text()).values()
    assert kept == {"run_axis": "unroll", "runs_per_program": 2}
    # With all the memory in the world, checkpoints that exist stay what they are.
    monkeypatch.setattr(memory, "available", lambda: 10**15)
    ssljax.run(dataclasses.replace(config, keep=1), tmp_path, stages=("pretrain",), progress=False)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()} == parts


def test_execution_file_that_is_not_ours_is_one_line(tmp_path):
    (tmp_path / execution.FILE).write_text("[1]")
    with pytest.raises(UserError, match="cannot be read"):
        execution.read(tmp_path)
    (tmp_path / execution.FILE).write_text(execution.to_json({"byol": Execution("map", 7)}))
    assert execution.read(tmp_path) == {"byol": Execution("map", 7)}


@pytest.mark.parametrize(
    ("steps_per_epoch", "asked", "convolution", "expected"),
    [(22, 0, "auto", 11), (48, 0, "matmul", 16), (97, 0, "auto", 16), (3, 0, "auto", 3), (22, 0, "lax", 1), (22, 5, "lax", 5)],
)
def test_steps_in_one_call(steps_per_epoch, asked, convolution, expected):
    config = types.SimpleNamespace(steps_per_dispatch=asked, convolution=convolution)
    assert execution.steps_per_dispatch(config, steps_per_epoch) == expected
