"""What a command would do: counts and sums against planted numbers, nothing written, and no large grid by surprise."""

import dataclasses
import math

import jax
import pytest

import ssljax
from ssljax import cli, forecast, pipeline
from ssljax.errors import UserError
from ssljax.forecast import DryRun, Forecast, duration
from ssljax.train import execution
from ssljax.train.memory import Memory

GB = 10**9
PLANTED = Forecast(
    name="simclr", runs=30, sizes=(10, 10, 5), epochs=20, epochs_left=(20, 20, 8), steps_per_epoch=100, compilations=2,
    memory=Memory(10**8, 10**7, 10**9, 2 * GB), devices=2, held=13 * GB, disk=5 * GB, compile_seconds=30.0, step_seconds=0.5,
    epoch_seconds=4.0,
)  # fmt: skip


def test_sums_of_planted_numbers():
    assert (PLANTED.left, PLANTED.steps) == (25, 48 * 100)
    # An epoch of ten runs is 50 + 4 seconds; the five of the last program take half of that.
    assert PLANTED.seconds == 2 * 30 + 54 * (20 + 20 + 8 / 2)
    done = PLANTED._replace(sizes=(), epochs_left=(), compilations=0, compile_seconds=math.nan, step_seconds=math.nan)
    assert (done.left, done.steps, done.seconds) == (0, 0, 0.0)
    both = DryRun((PLANTED, PLANTED._replace(name="byol", disk=GB)), 40 * GB, "2 x planted")
    assert (both.seconds, both.disk) == (2 * PLANTED.seconds, 6 * GB)


def test_the_table_is_aligned_and_says_what_was_planted():
    measured = Forecast("weights.pth", 3, (), 0, (), 0, 0, None, 1, 0, 0)
    lines = str(DryRun((PLANTED, measured), 40 * GB, "2 x planted")).splitlines()
    heads, first, second, total = lines[:4]
    for line, column in ((first, "runs"), (first, "disk"), (total, "disk"), (first, "in all"), (total, "steps")):
        end = heads.index(f" {column}") + len(column)
        assert line[end] != " " and line[end + 1 : end + 2] in ("", " ")
    words = "simclr 3 of 10 or 5 25 of 30 20 4,800 2 1.1 GB 13.0 GB x 2 5.0 GB 60 s 41 min"
    assert " ".join(first.split()) == words
    assert second.split() == ["weights.pth", "measured", "only", "3"]
    assert total.split()[-6:] == ["5.0", "GB", "60", "s", "41", "min"]
    said = "\n".join(lines[4:])
    assert "25 runs to train; 8 others done on 2 x planted, of each of which 40.0 GB can be used." in said
    assert "Training takes about 41 min: an estimate" in said and "--yes" not in said
    large = DryRun((PLANTED._replace(runs=1001, sizes=(1001,), epochs_left=(20,)),), GB, "x")
    assert "More than 1,000 runs: the command starts them with --yes only." in str(large)
    unknown = str(DryRun((PLANTED._replace(step_seconds=math.nan),), GB, "x"))
    assert "estimate from" not in unknown and " ?" in unknown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (5340, "89 min"),
        (9000, "2.5 h"),
        (259200, "3 days"),
        (math.nan, "?"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("axis", ["vmap", "map"])
@pytest.mark.parametrize("data", [1, 4])
def test_what_a_device_holds_is_the_inverse_of_what_fits(axis, data):
    need = Memory(10**8, 10**7, 4 * 10**8, GB)
    share = need._replace(activations=need.activations // data)
    for runs in (1, 7, 100):
        held = forecast._held(need, axis, runs, data)
        assert share.fits(held, axis) == runs and share.fits(held - 1, axis) == runs - 1


@pytest.fixture
def config(tiny, one_layer):
    return tiny(method="simclr", backbone=one_layer, seeds=(1, 2), sweep=("temperature=.1,.2,.3",), keep=2, epochs=3)


def test_shapes_and_counts_of_a_sweep(config):
    config = dataclasses.replace(config, max_runs_per_program=4, steps_per_dispatch=4)
    (found,) = ssljax.dry_run(config, measured=False).forecasts
    assert (found.runs, found.sizes, found.left, found.epochs_left) == (6, (3, 3), 6, (3, 3))
    (first, _) = pipeline.planned([config], forecast.Path("nowhere"), ("pretrain",))
    trained = pipeline.untrained(first)
    assert found.steps == 2 * trained.program.total_steps
    assert found.compilations == (2 if trained.program.steps_per_epoch % 4 else 1)
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(trained.state)) // 3
    held_out = len(first.dataset.splits["test"].images) * 10 * 4  # ten features of four bytes
    assert found.disk == 6 * (2 * state + held_out)
    assert math.isnan(found.seconds)


def test_pairs_that_the_runs_will_not_have_are_refused_before_training(config):
    sound = dataclasses.replace(config, compare="temperature=.1 vs temperature=.3; method=simclr vs method=random")
    assert ssljax.dry_run(sound, measured=False).forecasts[0].left == 6
    with pytest.raises(UserError, match="--compare: b: no run has method byol; there are simclr, random, pixels"):
        ssljax.dry_run(dataclasses.replace(config, compare="method=simclr vs method=byol"), measured=False)


def test_only_what_is_left_is_counted(config, tmp_path):
    names = [run.name for run in ssljax.sweeps.runs(config)]
    checkpoints = tmp_path / "checkpoints"
    kept = {"simclr": tuple(names[:2]), "simclr~1": tuple(names[2:4])}
    for folder in ("simclr/1", "simclr/3", "simclr~1/2", "simclr~1/3.orbax-checkpoint-tmp"):
        (checkpoints / folder).mkdir(parents=True)
    (checkpoints / execution.FILE).write_text(execution.to_json({"simclr": execution.Execution("vmap", kept)}))
    before = sorted(tmp_path.rglob("*"))
    found = ssljax.dry_run(config, tmp_path, measured=False)
    (one,) = found.forecasts
    assert (one.sizes, one.epochs_left, one.left) == ((2, 2), (1, 3), 4)
    assert "4 of 6" in str(found)
    assert forecast.runs_left([config], tmp_path) == 4 and forecast.runs_left([config], tmp_path / "none") == 6
    assert sorted(tmp_path.rglob("*")) == before


def test_measured_steps_make_the_time_and_nothing_is_written(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(forecast, "_MEASURED_FOR", 0.1)
    (tmp_path / "a.cfg").write_text(ssljax.flags.to_flagfile([config]))
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["run.py", f"--flagfile={tmp_path}/a.cfg", f"--workdir={tmp_path}/w", "--dry_run"]) == 0
    printed = capsys.readouterr()
    assert sorted(tmp_path.rglob("*")) == before
    assert "6 runs to train on" in printed.out and "Training takes about" in printed.out and "simclr" in printed.out
    # Images that come in chunks, with a shorter one at each epoch's end.
    streamed = dataclasses.replace(config, stream="cache", workers=0, steps_per_dispatch=4)
    (found,) = ssljax.dry_run(streamed, tmp_path / "w").forecasts
    assert found.steps_per_epoch % 4 and found.compilations == 2
    assert 0 < found.step_seconds < 1 and found.compile_seconds > 0 and found.epoch_seconds >= 0
    assert found.seconds == pytest.approx(
        found.compilations * found.compile_seconds
        + 3 * (found.steps_per_epoch * found.step_seconds + found.epoch_seconds)
    )


def test_of_a_large_program_some_runs_are_timed_and_their_time_is_scaled(config, monkeypatch):
    monkeypatch.setattr(forecast, "_IMAGES", {"cpu": 2 * config.batch_size, "gpu": 0})
    asked = []

    def timed(program):
        asked.append(len(program.runs))
        return 3.0, 0.5, 0.25

    monkeypatch.setattr(forecast, "_timed", timed)
    (found,) = ssljax.dry_run(dataclasses.replace(config, steps_per_dispatch=1)).forecasts
    assert asked == [2]  # of six
    assert (found.compile_seconds, found.step_seconds, found.epoch_seconds) == (3.0, 1.5, 0.75)


def test_a_large_grid_does_not_start_by_surprise(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(forecast, "SURPRISE", 5)
    started = []
    monkeypatch.setattr(
        pipeline, "run", lambda configs, workdir, **_: started.append(workdir) or pipeline.Study(workdir, [], [])
    )
    (tmp_path / "a.cfg").write_text(ssljax.flags.to_flagfile([config]))
    command = ["run.py", f"--flagfile={tmp_path}/a.cfg", f"--workdir={tmp_path}/w"]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert "6 runs are to be trained, more than 5" in error and "--yes" in error and error.count("\n") == 1
    assert not started and not (tmp_path / "w").exists()
    assert cli.main([*command, "--yes"]) == 0 and cli.main([*command, "--stages=report"]) == 0
    assert cli.main([*command, "--seeds=1"]) == 0 and len(started) == 3  # three runs are no surprise
