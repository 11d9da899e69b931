"""What goes wrong on real machines: kills, full and read-only disks, broken checkpoints, clocks that jump, two commands at once.

After each of them the same command comes to the same bits, or one line says what to do; nothing that was finished is lost.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import multiprocessing
import os
import random
import resource
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import cli, determinism, flags, pipeline, workdir
from ssljax.errors import UserError
from ssljax.evaluate.results import read_results
from ssljax.models import BACKBONES
from ssljax.train import loop
from ssljax.train.checkpoints import Checkpoints

TABLES = ("results.csv", "per_class.csv")


@pytest.fixture(scope="module", autouse=True)
def _kept():
    """What is compiled is kept, however quickly it was: one program is trained over and over here."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_cache_compilations", lambda: None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


RATES = ("0.01", "0.02", "0.04")


@pytest.fixture(scope="module")
def config(tiny, one_layer):
    """Three runs of four epochs, a checkpoint after each."""
    return tiny(
        method="simclr", backbone=one_layer, epochs=4, seeds=(1,), transforms="color_inversion", warmup_epochs=0,
        optimizer="sgd", sweep=(f"learning_rate={','.join(RATES)}",), evaluations=("knn",),
    )  # fmt: skip


def arguments(config, folder, *more, file=None):
    """The command line of a config in a workdir: pretrain and evaluate."""
    file = file or folder.with_name(f"{folder.name}.cfg")
    file.write_text(flags.to_flagfile([config]))
    return [f"--flagfile={file}", f"--workdir={folder}", "--stages=pretrain,evaluate", *more]


def command(config, folder, *more, file=None):
    """The exit code of that command in this process."""
    return cli.main(["run.py", *arguments(config, folder, *more, file=file)])


def restored(config, folder):
    (program,) = pipeline.plan([config])
    return loop.restore(pipeline.untrained(program), folder / "checkpoints" / program.name, 2)


def metrics(folder):
    """The log of the epochs, but for what the clock tells."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name not in ("images_per_second", "waiting")} for row in rows
    ]


def outcome(config, folder):
    """What must not depend on faults: the last checkpoint's bytes, the metrics and the tables."""
    trained = restored(config, folder)
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trained.state)]
    return trained.epoch, leaves, metrics(folder), [(folder / name).read_bytes() for name in TABLES]


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A workdir that nothing happened to."""
    folder = tmp_path_factory.mktemp("finished") / "W"
    assert command(config, folder) == 0
    return folder


@pytest.fixture(scope="module")
def expected(config, finished):
    return outcome(config, finished)


@pytest.fixture
def copied(finished, tmp_path):
    """A finished workdir to damage."""
    return Path(shutil.copytree(finished, tmp_path / "W"))


def errors(capsys):
    """The lines on standard error that are neither progress nor news."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("error: ")]


def warned(caplog):
    """What was warned of, a line each."""
    said = [
        record.getMessage() for record in caplog.records if record.name == "ssljax" and record.levelname == "WARNING"
    ]
    assert not any("\n" in line for line in said)
    return said


# Checkpoints


def state_of(epoch):
    rng = np.random.default_rng(epoch)
    weights = jnp.asarray(rng.normal(size=(40, 30)), jnp.float32)
    return {"params": {"kernel": weights, "bias": jnp.zeros(30)}, "count": jnp.int32(epoch), "alive": jnp.array([True])}


def _turn(file):
    """Turns one bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


BREAK = {
    "deleted": lambda file: file.unlink(),
    "emptied": lambda file: file.write_bytes(b""),
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "turned": _turn,
    "garbled": lambda file: file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size)),
}


# Tensorstore goes on reading a checkpoint that orbax has given up, and complains of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", BREAK)
def test_whatever_file_of_a_checkpoint_is_broken_it_is_whole_or_left(tmp_path, caplog, how):
    """Each file of the newest of two in turn: what comes back is that state to the bit or, with a line, the one before."""
    store = Checkpoints(tmp_path / "whole", 2)
    for epoch in (9, 10):  # by name 10 comes before 9
        store.save(epoch, state_of(epoch))
    store.close()
    files = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole" / "10").rglob("*") if p.is_file()]
    assert len(files) > 5
    left = 0
    for file in files:
        folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / "broken"))
        BREAK[how](folder / file)
        caplog.clear()
        store = Checkpoints(folder, 2)
        with caplog.at_level(logging.WARNING, logger="ssljax"):
            epoch, state = store.restore(jax.eval_shape(lambda: state_of(0)))
        jax.tree.map(np.testing.assert_array_equal, state, state_of(epoch))
        if epoch == 9:
            left += 1
            (line,) = warned(caplog)
            assert "checkpoint of epoch 10 cannot be read" in line
            assert (folder / "unreadable-10").is_dir() and not (folder / "10").exists()
            store.save(10, state_of(10))  # its place is free
        else:
            assert epoch == 10 and not warned(caplog)
        store.close()
        shutil.rmtree(folder)
    assert left > 2


def largest(folder):
    """The file of a checkpoint that holds most of its values."""
    return max(folder.rglob("d/*"), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize(
    ("how", "which"),
    [
        ("truncated", largest),
        ("deleted", lambda folder: folder / "default" / "manifest.ocdbt"),
        ("garbled", lambda folder: folder / "default" / "_METADATA"),
        ("turned", largest),
    ],
)
def test_a_broken_checkpoint_costs_an_epoch_and_a_line(copied, config, expected, capsys, caplog, how, which):
    BREAK[how](which(copied / "checkpoints" / "simclr" / "4"))
    for table in TABLES:
        (copied / table).unlink()
    assert command(config, copied) == 0
    (line,) = warned(caplog)
    assert "checkpoint of epoch 4 cannot be read" in line and not errors(capsys)
    assert outcome(config, copied) == expected


@pytest.mark.parametrize("stages", ["pretrain", pytest.param("evaluate", marks=pytest.mark.slow)])
def test_where_no_checkpoint_can_be_read_a_line_says_what_to_do(copied, config, expected, capsys, caplog, stages):
    folder = copied / "checkpoints" / "simclr"
    for epoch in ("3", "4"):
        BREAK["truncated"](largest(folder / epoch))
    before = sorted(p.relative_to(copied) for p in copied.rglob("*"))
    for _ in range(2):  # the second time too
        assert command(config, copied, f"--stages={stages}") == 2
        (line,) = errors(capsys)
        assert not warned(caplog)
        assert line.startswith(f"error: {folder}: no checkpoint can be read: of epoch 4, 3 (")
        assert line.endswith("put the folder back from a copy, or remove it to train from the start")
        assert sorted(p.relative_to(copied) for p in copied.rglob("*")) == before
    shutil.rmtree(folder)
    assert command(config, copied) == 0
    assert outcome(config, copied) == expected


def halted_in_epoch(config, folder, number, monkeypatch):
    """Ends a run in the middle of an epoch, as SIGTERM does."""
    with monkeypatch.context() as patch:
        per_epoch = 1437 // config.batch_size  # of the digits
        stop = (number - 1) * per_epoch + 2
        patch.setattr(pipeline.loop.preemption.Termination, "__call__", lambda self, step: step >= stop)
        assert command(config, folder, "--steps_per_dispatch=2") == 143


@pytest.mark.parametrize("broken", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_state_from_the_middle_of_an_epoch_is_taken_or_left_and_its_store_closed(
    config, expected, tmp_path, monkeypatch, caplog, broken
):
    folder = tmp_path / "W"
    halted_in_epoch(config, folder, 3, monkeypatch)
    (state,) = (p for p in (folder / "checkpoints" / "simclr" / "halted").iterdir() if p.name.isdigit())
    if broken:
        BREAK["truncated"](largest(state))
    stores = []

    class Counted(Checkpoints):
        def __init__(self, *args):
            super().__init__(*args)
            stores.append(self)

        def close(self):
            super().close()
            stores.remove(self)

    monkeypatch.setattr(loop, "Checkpoints", Counted)
    assert command(config, folder) == 0
    assert not stores
    assert len(warned(caplog)) == broken
    assert outcome(config, folder) == expected


# The disk


def after_epoch(monkeypatch, number, act):
    """Lets something happen once an epoch has been logged."""
    real = loop.append

    def append(path, rows):
        real(path, rows)
        if rows[0]["epoch"] == number:
            act()

    monkeypatch.setattr(loop, "append", append)


@pytest.fixture
def mounted(tmp_path):
    """A function from options to a folder with a small disk of its own; what runs without the right to mount skips."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip(f"no right to mount: {done.stderr.decode().strip()}")
        return folder

    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


def test_no_checkpoint_larger_than_the_limit_and_the_same_bits_once_it_is_gone(
    config, expected, tmp_path, monkeypatch, capsys
):
    """RLIMIT_FSIZE falls to less than a checkpoint's largest file in the middle of training: what was written before stays."""
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = tmp_path / "W"
    with monkeypatch.context() as patch:
        after_epoch(patch, 3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard)))
        try:
            code = command(config, folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    (line,) = errors(capsys)
    assert "could not be written" in line or "the disk is full" in line
    kept = {p.name for p in (folder / "checkpoints" / "simclr").iterdir() if p.name.isdigit()}
    assert "1" in kept and "3" not in kept
    assert command(config, folder) == 0
    assert outcome(config, folder) == expected


def test_a_disk_that_fills_up_and_the_same_bits_once_there_is_room(config, expected, mounted, monkeypatch, capsys):
    disk = mounted("size=4m")
    folder, ballast = disk / "W", disk / "ballast"

    def fill():
        with ballast.open("wb", buffering=0) as file:
            for size in (2**16, 2**9):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    with monkeypatch.context() as patch:
        after_epoch(patch, 3, fill)
        assert command(config, folder, file=disk.with_name("study.cfg")) == 2
    (line,) = errors(capsys)
    assert "the disk is full" in line
    ballast.unlink()
    assert command(config, folder, file=disk.with_name("study.cfg")) == 0
    assert outcome(config, folder) == expected


def test_a_read_only_workdir_is_one_line(config, finished, mounted, capsys):
    """A real one: root may write whatever the permissions say, but not to a disk that is mounted so."""
    disk = mounted("size=4m")
    shutil.copytree(finished, disk / "W")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for folder in (disk / "W", disk / "new"):
        assert command(config, folder, file=disk.with_name("study.cfg")) == 2
        said = capsys.readouterr().err
        assert said == f"error: --workdir: {folder} cannot be written to (Read-only file system)\n"
    assert [p.name for p in disk.iterdir()] == ["W"]


@pytest.mark.parametrize("number", [errno.EROFS, pytest.param(errno.EACCES, marks=pytest.mark.slow)])
def test_a_workdir_that_becomes_read_only_is_one_line(config, expected, tmp_path, monkeypatch, capsys, number):
    folder = tmp_path / "W"

    def refuse():
        raise OSError(number, os.strerror(number), str(folder / "metrics.jsonl"))

    with monkeypatch.context() as patch:
        after_epoch(patch, 3, refuse)
        assert command(config, folder) == 2
    assert errors(capsys) == [f"error: {folder / 'metrics.jsonl'}: cannot be written ({os.strerror(number)})"]
    assert command(config, folder) == 0
    assert outcome(config, folder) == expected


# The clock


def test_a_clock_that_jumps_back_changes_nothing(config, expected, tmp_path, monkeypatch):
    """Interrupted in epoch 3, with each look at the clock an hour before the last, and gone on with in 1980."""
    folder, now = tmp_path / "W", [time.time()]

    def earlier():
        now[0] -= 3600
        return now[0]

    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", earlier)
        after_epoch(patch, 3, interrupt)
        assert command(config, folder) == 130
    kept = sorted(int(p.name) for p in (folder / "checkpoints" / "simclr").iterdir() if p.name.isdigit())
    assert kept == [1, 2]
    for age, epoch in enumerate(kept):  # the newest is the oldest by date
        for path in [
            folder / "checkpoints" / "simclr" / str(epoch),
            *(folder / "checkpoints").rglob(f"simclr/{epoch}/**/*"),
        ]:
            os.utime(path, (1e9 - age * 1e8,) * 2)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 315532800.0)
        resumed = []
        patch.setattr(loop.log, "info", lambda text, *values: resumed.append(text % values))
        assert command(config, folder) == 0
    assert any("resuming after epoch 2 of 4" in line for line in resumed)
    assert outcome(config, folder) == expected


# One run of many


def test_a_run_that_is_not_finite_leaves_the_others_bits_alone(config, finished, tmp_path, caplog):
    """The second of three runs diverges; the others are as where it has a sound value in its place."""
    sick = dataclasses.replace(config, sweep=(f"learning_rate={RATES[0]},1e30,{RATES[2]}",))
    folder = tmp_path / "W"
    assert command(sick, folder) == 0
    frozen, left_out = warned(caplog)
    assert "run learning_rate=1e+30,seed=1 diverged in epoch 1" in frozen and "is left out of the tables" in left_out

    states = [restored(one, where).state for one, where in ((sick, folder), (config, finished))]
    assert np.asarray(states[0].alive).tolist() == [True, False, True]
    for a, b in zip(*map(jax.tree.leaves, states)):
        np.testing.assert_array_equal(np.asarray(a)[[0, 2]], np.asarray(b)[[0, 2]])
        assert np.isfinite(np.asarray(a, np.float64)[1]).all()  # as it last was

    rows, others = ([row for row in metrics(where) if row["run"].endswith(SOUND)] for where in (folder, finished))
    assert rows == others and len(rows) == 2 * 4
    assert [row["diverged"] for row in metrics(folder) if not row["run"].endswith(SOUND)] == [True] * 4
    rows, others = (read_results(where / "results.csv") for where in (folder, finished))
    assert rows == [row for row in others if row["learning_rate"] != float(RATES[1])]


SOUND = tuple(f"learning_rate={rate},seed=1" for rate in (RATES[0], RATES[2]))


# Two commands, and a sweep that grows


def test_the_table_is_the_union_of_finished_runs(config, copied, monkeypatch, capsys):
    """Grown by a seed after a part was evaluated: nothing is lost meanwhile, nor measured differently after."""
    grown = dataclasses.replace(config, seeds=(1, 2))
    before = read_results(copied / "results.csv")
    first = {name: (copied / name).read_bytes() for name in TABLES}

    real, done = pipeline._evaluate, []

    def dies(program, *args):
        if done:
            raise KeyboardInterrupt
        done.append(program.name)
        real(program, *args)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_evaluate", dies)
        assert command(grown, copied) == 130
    # What is new is trained, but not evaluated: the tables still hold all that was.
    assert done == ["simclr"] and {name: (copied / name).read_bytes() for name in TABLES} == first

    assert command(grown, copied) == 0
    rows = read_results(copied / "results.csv")
    runs = [(row["seed"], row["learning_rate"]) for row in rows if (row["method"], row["metric"]) == ("simclr", "top1")]
    assert sorted(runs) == [(seed, float(rate)) for seed in (1, 2) for rate in RATES]
    assert all(row in rows for row in before)

    whole = (copied / "results.csv").read_bytes()
    capsys.readouterr()
    assert command(config, copied) == 2
    assert "seed=2, which --seeds and --sweep leave out" in errors(capsys)[0]
    assert (copied / "results.csv").read_bytes() == whole


def child(argv, said, cache):
    """The command line in a process of its own, with the tests' backbone; what it says goes to a file."""
    one_layer = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["OneLayer"]
    BACKBONES["one_layer"] = lambda dtype, **_: one_layer(dtype)
    jax.config.update("jax_compilation_cache_dir", cache)
    cli._cache_compilations = lambda: None
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    with Path(said).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(cli.main(["run.py", *argv]))


@pytest.fixture(scope="module")
def start():
    """A function that starts the command line as a process: forked, before JAX looks for devices, from one that has all imports.

    So a start costs a second and a half where a new interpreter costs four.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    cache = str(jax.config.jax_compilation_cache_dir)

    def one(argv, said):
        process = context.Process(target=child, args=(argv, str(said), cache))
        process.start()
        return process

    return one


@pytest.mark.slow
def test_of_two_commands_on_one_workdir_one_trains(config, expected, start, tmp_path):
    """Two processes started at the same moment."""
    folder = tmp_path / "W"
    argv = arguments(config, folder)
    both = [start(argv, tmp_path / name) for name in ("first", "second")]
    for process in both:
        process.join()
    assert sorted(process.exitcode for process in both) == [0, 2]
    refused = tmp_path / ("first" if both[0].exitcode else "second")
    (line,) = (line for line in refused.read_text().splitlines() if line.startswith("error: "))
    assert line == f"error: --workdir: {folder} is in use by another run; wait for it or give another --workdir"
    assert "Traceback" not in refused.read_text()
    assert outcome(config, folder) == expected


@pytest.mark.slow
def test_kill_9_at_twenty_random_moments_and_the_same_bits(config, start, tmp_path):
    """Every fifth while it starts; the others after 0 to 4 more epochs and a part of two, whatever an epoch takes here."""
    long = dataclasses.replace(config, epochs=60, checkpoint_every=2)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    argv, log = arguments(long, parted), parted / "metrics.jsonl"
    began = time.monotonic()
    assert command(long, whole) == 0
    an_epoch = (time.monotonic() - began) / long.epochs
    moments, reached = random.Random(5), set()

    def lines():
        return log.read_bytes().count(b"\n") if log.exists() else 0

    for kill in range(20):
        before = lines()
        process = start(argv, tmp_path / "said")
        if kill % 5 == 0:
            process.join(moments.uniform(0, 2))
        else:
            more, began = moments.randint(0, 4), time.monotonic()
            # A start drops the epochs after its checkpoint, so that the log falls before it grows.
            while process.is_alive() and (before and lines() == before) and time.monotonic() < began + 60:
                time.sleep(0.01)
            least = lines()
            while process.is_alive() and lines() < least + len(RATES) * more and time.monotonic() < began + 60:
                time.sleep(0.01)
            process.join(moments.uniform(0, 2 * an_epoch))
        assert process.is_alive(), (tmp_path / "said").read_text()
        process.kill()
        process.join()
        reached.add(lines())
    assert len(reached) > 8
    process = start(argv, tmp_path / "said")
    process.join()
    assert process.exitcode == 0, (tmp_path / "said").read_text()
    assert outcome(long, parted) == outcome(long, whole)
    # Nothing half-written is left lying about.
    assert sorted(p.name for p in parted.iterdir()) == sorted(p.name for p in whole.iterdir())
    assert sorted(p.name for p in (parted / "checkpoints" / "simclr").iterdir()) == ["58", "60"]


# Deterministic operations


@pytest.mark.parametrize("given", ["", "--xla_force_host_platform_device_count=2"])
def test_deterministic_asks_xla_before_jax_starts(monkeypatch, given):
    from jax._src import xla_bridge

    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: False)
    for _ in range(2):  # once is enough
        determinism.ask()
        assert os.environ["XLA_FLAGS"].split() == [*given.split(), "--xla_gpu_deterministic_ops=true"]


def test_deterministic_is_refused_where_it_is_too_late(monkeypatch):
    jax.devices()
    before = os.environ.get("XLA_FLAGS")
    determinism.ask()  # on a CPU nothing has to be asked for
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match=r"--deterministic: JAX has started without it; set XLA_FLAGS=--xla_gpu_determ"):
        determinism.ask()
    assert os.environ.get("XLA_FLAGS") == before


@pytest.mark.slow
def test_the_flag_reaches_xla_and_is_written_down(config, finished, start, tmp_path):
    folder = tmp_path / "W"
    process = start([*arguments(config, folder), "--stages=pretrain", "--deterministic"], tmp_path / "said")
    process.join()
    assert process.exitcode == 0, (tmp_path / "said").read_text()
    assert "--xla_gpu_deterministic_ops=true" in json.loads((folder / "run.json").read_text())["xla_flags"].split()
    jax.tree.map(np.testing.assert_array_equal, restored(config, folder).state, restored(config, finished).state)


def test_what_a_killed_process_left_half_written_goes_when_the_workdir_is_claimed(config, tmp_path):
    folder = tmp_path / "W"
    (folder / "artifacts").mkdir(parents=True)
    left = [folder / ".results.csv.0123abcd", folder / "artifacts" / ".simclr.npz.89abcdef"]
    kept = [folder / ".notes", folder / "artifacts" / "mine.0123abcd"]
    for path in (*left, *kept):
        path.write_text("half")
    with workdir.claimed(folder, [config]):
        assert not any(path.exists() for path in left) and all(path.exists() for path in kept)
