"""Several processes that train as one: as one process with one device, through signals, kills and another mesh."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ssljax import flags, pipeline
from ssljax.evaluate.results import read_results
from ssljax.train import loop

ROOT = Path(__file__).parents[1]

# The command line, with the tests' backbone.
COMMAND = """
import sys
sys.path.insert(0, "tests")
from conftest import OneLayer
from ssljax import cli
from ssljax.models import BACKBONES
BACKBONES["one_layer"] = lambda dtype, **_: OneLayer(dtype)
sys.exit(cli.main(["run.py", *sys.argv[1:]]))
"""

# Of JAX's CPU collectives, in pieces: several threads say at once "[Gloo] Rank 0 is connected to 1 peer ranks. Expected number of
# connected peer ranks is : 1".
GREETING = re.compile(r"\[Gloo\]|Rank|is|connected|to|peer|ranks\b\.?|Expected|number|of|:|\d+|\s")


def start(arguments, devices, process=None, port=None):
    """One process; of two where it is given which and where process 0 listens."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
    }
    several = [f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={process}"] if port else []
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments, *several],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def two(arguments):
    """Two processes of two devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [start(arguments, 2, process, port) for process in (0, 1)]


def until(metrics, epoch, processes):
    """Waits until an epoch has been logged."""
    deadline = time.monotonic() + 300
    while not metrics.exists() or f'"epoch": {epoch},' not in metrics.read_text():
        if time.monotonic() > deadline or any(p.poll() is not None for p in processes):
            for p in processes:
                p.kill()
            raise AssertionError([p.communicate() for p in processes])
        time.sleep(0.01)


def ended(processes):
    """What all of them left: (exit code, standard output, standard error) of each."""

    def own(text):
        return "".join(line for line in text.splitlines(keepends=True) if GREETING.sub("", line))

    told = [map(own, p.communicate(timeout=300)) for p in processes]
    return [(p.returncode, *each) for p, each in zip(processes, told)]


def outcome(config, workdir):
    (program,) = pipeline.plan([config])
    trained = loop.restore(pipeline.untrained(program), workdir / "checkpoints" / program.name, 2)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trained.state.params)], rows


@pytest.mark.slow
def test_two_processes_stopped_killed_and_gone_on_by_one(tiny, one_layer, tmp_path):
    config = tiny(
        method="simclr", backbone=one_layer, epochs=40, seeds=(1, 2), checkpoint_every=5, transforms="color_inversion",
        optimizer="sgd", learning_rate=0.003, warmup_epochs=0, evaluations=("knn",),
    )  # fmt: skip
    file = tmp_path / "study.cfg"
    file.write_text(flags.to_flagfile([config]))
    workdir, alone = tmp_path / "W", tmp_path / "alone"
    arguments = [f"--flagfile={file}", f"--workdir={workdir}", "--stages=pretrain,evaluate"]

    pair = two([*arguments, "--mesh=run:2,data:2", "--steps_per_dispatch=1"])
    until(workdir / "metrics.jsonl", 3, pair)
    pair[1].send_signal(signal.SIGTERM)  # one of them is enough; they stop about a second later
    (code, _, error), (other_code, other_out, _) = ended(pair)
    assert code == other_code == 143, error
    assert "terminated" in error.splitlines()[-1] and other_out == ""

    pair = two([*arguments, "--mesh=run:1,data:4", "--steps_per_dispatch=1"])
    until(workdir / "metrics.jsonl", 22, pair)
    pair[1].kill()
    pair[0].kill()
    ended(pair)

    assert [code for code, *_ in ended([start([*arguments, "--mesh=data:2"], 2)])] == [0]
    study = pipeline.run(config, alone, stages=("pretrain", "evaluate"), progress=False)
    (parts, rows), (whole, expected) = outcome(config, workdir), outcome(config, alone)
    assert [(r["run"], r["epoch"]) for r in rows] == [(r["run"], r["epoch"]) for r in expected]
    # The sums of four devices, of two and of one are in other orders; training takes the difference along.
    np.testing.assert_allclose([r["loss"] for r in rows], [r["loss"] for r in expected], rtol=1e-3)
    for a, b in zip(parts, whole):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3)
    table = read_results(workdir / "results.csv")
    assert [row["run"] for row in table] == [row["run"] for row in study.results]


@pytest.mark.slow
def test_two_processes_write_one_table(tiny, one_layer, tmp_path):
    config = tiny(
        method="barlow_twins", backbone=one_layer, epochs=2, seeds=(1, 2), transforms="color_inversion",
        optimizer="sgd", learning_rate=0.003, warmup_epochs=0, evaluations=("knn",),
    )  # fmt: skip
    file = tmp_path / "study.cfg"
    file.write_text(flags.to_flagfile([config]))
    workdir, alone = tmp_path / "W", tmp_path / "alone"
    pair = two([f"--flagfile={file}", f"--workdir={workdir}", "--stages=pretrain,evaluate"])
    (code, out, error), (other_code, other_out, other_error) = ended(pair)
    assert code == other_code == 0, error + other_error
    assert "k-NN top-1" in out and other_out == other_error == ""  # process 0 alone speaks
    study = pipeline.run(config, alone, stages=("pretrain", "evaluate"), progress=False)
    table = read_results(workdir / "results.csv")
    assert [row["run"] for row in table] == [row["run"] for row in study.results]
    np.testing.assert_allclose([row["value"] for row in table], [row["value"] for row in study.results], atol=0.02)

    pair = two([f"--flagfile={file}", f"--workdir={tmp_path / 'other'}", "--batch_size=63"])
    for code, out, error in ended(pair):
        assert code == 2 and out == "", error
        assert error.splitlines()[-1].startswith("error: --mesh: 2 runs in batches of 63 cannot be laid over all 4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator=localhost:1"], "--coordinator, --num_processes and --process_id: give all three"),
        (["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"], "--process_id: expected 0 to 1"),
        (["--distributed"], "--distributed: the processes could not be joined"),
    ],
)
def test_processes_that_cannot_be_joined_are_one_line(arguments, message, tmp_path, capsys):
    from ssljax import cli

    assert cli.main(["run.py", f"--workdir={tmp_path}/W", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
