"""SIGTERM: the step in flight is finished, the state is kept, and the same command goes on to the same bits."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from ssljax import cli, flags, pipeline
from ssljax.train import loop


def outcome(config, workdir):
    """The leaves of the last checkpoint, and the metrics of each run and epoch but their speed."""
    (program,) = pipeline.plan([config])
    trained = loop.restore(pipeline.untrained(program), workdir / "checkpoints" / program.name, 2)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    told = [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]
    return trained.epoch, jax.tree.map(np.asarray, trained.state), told


@pytest.fixture
def config(tiny, one_layer):
    # 22 steps an epoch, in two calls. Its memory is filled before the first epoch and clustered at the start of each.
    return tiny(
        method="deepclusterv2", backbone=one_layer, epochs=3, seeds=(1, 2), checkpoint_every=10, steps_per_dispatch=11,
        transforms="color_inversion", prototype_heads=1, warmup_epochs=0,
    )  # fmt: skip


def terminated_after(monkeypatch, calls):
    """Lets SIGTERM come while the call of that number, from 1, is executed."""
    real, done = loop.sweep_step, []

    def sweep_step(*args):
        step = real(*args)

        def counted(*values):
            executed = not isinstance(jax.tree.leaves(values)[0], jax.core.Tracer)  # not only its shapes asked for
            done.extend([None] * executed)
            if executed and len(done) == calls:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(*values)

        return counted

    monkeypatch.setattr(loop, "sweep_step", sweep_step)


def test_a_terminated_command_goes_on_to_the_same_bits(config, tmp_path, monkeypatch, capsys):
    file = tmp_path / "study.cfg"
    file.write_text(flags.to_flagfile([config]))

    def command(workdir):
        return cli.main(["run.py", f"--flagfile={file}", f"--workdir={workdir}", "--stages=pretrain"])

    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert command(whole) == 0
    before = signal.getsignal(signal.SIGTERM)
    said = []
    for calls in (1, 2, 2):  # in the middle of each epoch
        capsys.readouterr()
        with monkeypatch.context() as patch:
            terminated_after(patch, calls)
            assert command(parted) == 143
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert said == [
        "terminated in epoch 1; the same command goes on after step 11 of 66",
        "terminated in epoch 2; the same command goes on after step 33 of 66",
        "terminated in epoch 3; the same command goes on after step 55 of 66",
    ]
    assert signal.getsignal(signal.SIGTERM) is before
    assert command(parted) == 0
    (epoch, state, told), (other_epoch, other_state, other_told) = (outcome(config, w) for w in (whole, parted))
    assert epoch == other_epoch == 3 and told == other_told
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    assert not list(parted.rglob("halted"))


def test_at_the_end_of_an_epoch_its_state_is_a_checkpoint(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        terminated_after(patch, 4)
        with pytest.raises(SystemExit) as ended:
            pipeline.run(config, tmp_path, stages=("pretrain",), progress=False)
    assert ended.value.code == 143
    assert str(ended.value) == "terminated; the same command goes on after epoch 2 of 3"
    epoch, _, told = outcome(config, tmp_path)
    assert epoch == 2 and max(line["epoch"] for line in told) == 2


def test_outside_training_it_ends_the_command_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "run", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(["run.py", f"--workdir={tmp_path}/W"]) == 143
    assert capsys.readouterr().err == "terminated; the same command goes on from what is finished\n"
