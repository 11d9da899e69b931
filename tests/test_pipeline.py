"""Whole studies through the command line: what lies in a workdir, exact resume after kill -9, faults and bad input."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

import ssljax
from ssljax import augment, cli, flags, measuring, pipeline, representation
from ssljax.errors import UserError
from ssljax.evaluate.features import view_distances
from ssljax.evaluate.results import read_results
from ssljax.models.lpips import load, lpips
from ssljax.train import loop

ROOT = Path(__file__).parents[1]
STAGES = ("pretrain", "evaluate")


def final_state(configs, workdir):
    """The last checkpoints' leaves, by program."""
    found = {}
    for program in pipeline.plan(configs):
        trained = loop.restore(pipeline.untrained(program), workdir / "checkpoints" / program.name, 2)
        found[program.name] = jax.tree.leaves(jax.tree.map(np.asarray, trained.state))
    return found


@pytest.fixture(scope="module")
def configs(tiny):
    return [tiny(transforms=t, seeds=(5, 6), epochs=3) for t in ("mnist_first", "mnist_second")]


@pytest.fixture(scope="module")
def finished(configs, tmp_path_factory):
    """A study that ran without interruption, all stages, from the command line."""
    folder = tmp_path_factory.mktemp("finished")
    file = folder / "study.cfg"
    file.write_text(flags.to_flagfile(configs))
    workdir = folder / "W"
    assert cli.main(["run.py", f"--flagfile={file}", f"--workdir={workdir}"]) == 0
    return workdir


def test_the_workdir_holds_what_the_contract_says(finished, configs):
    assert flags.read_flagfile(finished / "flagfile.cfg") == configs
    info = json.loads((finished / "run.json").read_text())
    assert info["versions"]["jax"] == jax.__version__
    assert info["configs"][0]["learning_rate"] > 0
    assert len(info["data"]["digits"]) == 64
    rows = read_results(finished / "results.csv")
    header = (finished / "results.csv").read_text().splitlines()[0]
    assert header == "run,seed,method,backbone,dataset,transforms,epoch,evaluation,target,metric,value"
    assert {r["method"] for r in rows} == {"mocov2plus", "random", "pixels"}
    assert {(r["evaluation"], r["target"], r["metric"]) for r in rows} >= {
        ("linear", "label", "top1"), ("linear", "label", "top5"), ("knn", "label", "top1"), ("kmeans", "label", "ami"),
        ("kmeans", "shuffled", "ami"), ("kmeans", "label", "silhouette"),
    }  # fmt: skip
    # raw digits are known to cluster well, shuffled labels not at all
    pixels = [r["value"] for r in rows if r["method"] == "pixels" and (r["target"], r["metric"]) == ("label", "ami")]
    shuffled = [r["value"] for r in rows if r["target"] == "shuffled"]
    assert len(pixels) == 2
    assert 0.65 < np.mean(pixels) < 0.85
    assert abs(np.mean(shuffled)) < 0.02
    classes = read_results(finished / "per_class.csv")
    linear = [
        r["value"]
        for r in classes
        if r["run"] == "mnist_first/seed=5" and (r["evaluation"], r["metric"]) == ("linear", "accuracy")
    ]
    overall = [
        r["value"]
        for r in rows
        if r["run"] == "mnist_first/seed=5" and (r["evaluation"], r["metric"]) == ("linear", "mean_per_class")
    ]
    assert len(linear) == 10
    assert np.mean(linear) == pytest.approx(overall[0])
    metrics = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(m["program"], m["epoch"], m["seed"]) for m in metrics] == [
        (p, e, s) for p in ("mnist_first", "mnist_second") for e in (1, 2, 3) for s in (5, 6)
    ]
    assert list((finished / "tensorboard" / "mnist_first").rglob("events*"))


def test_the_page_shows_the_table_and_every_figure(finished):
    page = (finished / "report.html").read_text()
    for row in ("mnist_first", "mnist_second", "Raw pixels", "Untrained encoder", "Shuffled labels"):
        assert row in page
    assert page.count("data:image/png;base64,") >= 5
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_report_alone_needs_only_the_workdir(finished, capsys):
    (finished / "report.html").unlink()
    assert cli.main(["run.py", "--stages=report", f"--workdir={finished}"]) == 0
    assert (finished / "report.html").exists()
    assert "Raw pixels" in capsys.readouterr().out


@pytest.mark.slow
def test_kill_9_and_the_same_command_give_the_same_bits(finished, configs, tmp_path):
    workdir = tmp_path / "W"
    command = [
        sys.executable,
        str(ROOT / "experiments" / "run.py"),
        f"--flagfile={finished / 'flagfile.cfg'}",
        f"--workdir={workdir}",
        "--stages=pretrain,evaluate",
    ]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
    metrics, deadline = workdir / "metrics.jsonl", time.monotonic() + 300
    # In the second program, after its first epoch: one program is finished, the other has a checkpoint or is writing one.
    while not (metrics.exists() and "mnist_second" in metrics.read_text()):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workdir / "results.csv").exists()
    pipeline.run(configs, workdir, stages=STAGES, progress=False)
    expected, actual = final_state(configs, finished), final_state(configs, workdir)
    for program in expected:
        for a, b in zip(expected[program], actual[program]):
            np.testing.assert_array_equal(a, b)
    assert (workdir / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    assert (workdir / "per_class.csv").read_bytes() == (finished / "per_class.csv").read_bytes()
    epochs = [
        [(m["run"], m["epoch"], m["loss"]) for m in map(json.loads, (w / "metrics.jsonl").read_text().splitlines())]
        for w in (workdir, finished)
    ]
    assert epochs[0] == epochs[1]


def test_evaluate_without_training_says_what_is_missing(configs, tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint; run the pretrain stage first"):
        pipeline.run(configs, tmp_path / "W", stages=("evaluate",), progress=False)


def test_a_workdir_belongs_to_its_config(finished, configs, tiny):
    other = [tiny(transforms=t, seeds=(5, 6), epochs=4) for t in ("mnist_first", "mnist_second")]
    before = sorted(p.name for p in finished.iterdir())
    with pytest.raises(UserError, match=r"belongs to a run with --epochs=3, given --epochs=4"):
        pipeline.run(other, finished)
    assert sorted(p.name for p in finished.iterdir()) == before
    # what is measured may change, what was trained may not
    pipeline.run(
        [dataclasses.replace(c, evaluations=()) for c in configs], finished, stages=("preview",), progress=False
    )
    pipeline.run(configs, finished, stages=("preview",), progress=False)


def test_a_preview_binds_a_folder_to_nothing(tiny, tmp_path):
    for transforms in ("rotation", "horizontal_flip"):
        pipeline.run(tiny(transforms=transforms), tmp_path / "W", stages=("preview",), progress=False)
        assert flags.read_flagfile(tmp_path / "W" / "flagfile.cfg")[0].transforms == transforms


def test_a_workdir_in_use_is_refused(finished, configs):
    from ssljax.workdir import claimed

    with claimed(finished, configs), pytest.raises(UserError, match="is in use by another run"):
        pipeline.run(configs, finished, stages=("report",))


def test_a_diverged_run_is_left_out_and_named(tiny, tmp_path, caplog):
    config = tiny(method="simclr", optimizer="sgd", sweep=("learning_rate=0.01,1e30",), evaluations=("kmeans",))
    with caplog.at_level("WARNING", logger="ssljax"):
        study = pipeline.run(config, tmp_path / "W", stages=("pretrain", "evaluate", "report"), progress=False)
    assert "learning_rate=1e+30,seed=5 diverged in epoch 1" in caplog.text
    learned = [r for r in study.results if r["method"] == "simclr"]
    assert {r["learning_rate"] for r in learned} == {0.01}
    metrics = [json.loads(line) for line in (tmp_path / "W" / "metrics.jsonl").read_text().splitlines()]
    assert [m.get("diverged", False) for m in metrics] == [False, True, False, True]
    assert "diverged" in study.report.read_text()


def test_two_losses_from_the_command_line(one_layer, tmp_path, capsys):
    """One program of four runs: the tables name both losses, the metrics tell them apart, the records hold the second's."""
    argv = [
        "run.py", "--method=simclr", "--second_method=mocov2plus", "--transforms=mnist_first",
        "--second_transforms=rotation(degrees=30)", "--sweep=loss_weights.second=0.5,2", "--seeds=1,2", "--epochs=2",
        f"--backbone={one_layer}", "--image_size=8", "--batch_size=128", "--warmup_epochs=0", "--queue_size=256",
        "--evaluations=knn", "--stages=preview,pretrain,evaluate", f"--workdir={tmp_path / 'W'}",
    ]  # fmt: skip
    assert cli.main(argv) == 0
    rows = read_results(tmp_path / "W" / "results.csv")
    trained = [row for row in rows if row["method"] == "simclr & mocov2plus"]
    assert {row["transforms"] for row in trained} == {"mnist_first & rotation(degrees=30)"}
    assert {(row["seed"], row["loss_weights.second"]) for row in trained} == {
        (s, w) for s in (1, 2) for w in (0.5, 2.0)
    }
    metrics = [json.loads(line) for line in (tmp_path / "W" / "metrics.jsonl").read_text().splitlines()]
    for row in metrics:
        total = row["loss.first"] + row["loss_weights.second"] * row["loss.second"]
        assert row["loss"] == pytest.approx(total, rel=1e-4)
    (config,) = json.loads((tmp_path / "W" / "run.json").read_text())["configs"]
    assert config["second.method"] == "mocov2plus"
    assert config["second.tau.base"] == 0.99
    assert "simclr & mocov2plus (loss_weights.second 2)" in capsys.readouterr().out  # the table


def test_help_method_prints_a_page_and_refuses_what_is_none(capsys):
    assert cli.main(["run.py", "--help_method=swav"]) == 0
    assert "sinkhorn.epsilon" in capsys.readouterr().out
    assert cli.main(["run.py", "--help_method=swaw"]) == 2
    assert capsys.readouterr().err == "error: --help_method: unknown method 'swaw'; did you mean 'swav'?\n"


@pytest.mark.slow
def test_programs_split_by_size_give_the_runs_of_one_program(tiny, tmp_path):
    whole = tiny(method="simclr", seeds=(1, 2), epochs=1, warmup_epochs=0, evaluations=("knn",))
    split = ssljax.Config(**{**whole.__dict__, "max_runs_per_program": 1})
    a = pipeline.run(whole, tmp_path / "A", stages=STAGES, progress=False).results
    b = pipeline.run(split, tmp_path / "B", stages=STAGES, progress=False).results
    programs = sorted(path.name for path in (tmp_path / "B" / "checkpoints").iterdir() if path.is_dir())
    assert programs == ["simclr~0", "simclr~1"]

    def top1(rows):
        return {r["seed"]: r["value"] for r in rows if r["method"] == "simclr" and r["metric"] == "top1"}

    assert top1(a).keys() == top1(b).keys() == {1, 2}
    # one image of 359 may change its neighbours by rounding
    assert all(abs(top1(a)[s] - top1(b)[s]) < 0.03 for s in (1, 2))


def write_npz(path, count, labels=True):
    images = np.random.default_rng(0).integers(0, 255, (count, 8, 8, 1), dtype=np.uint8)
    arrays = {"train_images": images, "test_images": images[:20]}
    if labels:
        arrays |= {"train_labels": np.arange(count) % 3, "test_labels": np.arange(20) % 3}
    np.savez(path, **arrays)


BAD = [
    (["--method=simcrl"], "--method: unknown method 'simcrl'; did you mean 'simclr'?"),
    (["--transforms=mnist_frist"], "did you mean 'mnist_first'?"),
    (["--evaluations=ami"], "--evaluations: unknown evaluation 'ami'"),
    (["--sweep=width=.1,.2"], "'width' is static"),
    (["--batch_size=5000"], "--batch_size: 5000 is more than the 1438 training images of digits"),
    (["--transforms=hue()"], "hue"),
    (["--dataset=folder:{tmp}/absent"], "absent"),
    (["--dataset=npz:{tmp}/corrupt.npz"], "corrupt.npz"),
    (["--dataset=npz:{tmp}/unlabelled.npz"], "--evaluations: linear needs labels"),
    (["--dataset=npz:{tmp}/unlabelled.npz", "--evaluations=kmeans"], "--clusters"),
    (["--stages=evaluate,rapport"], "--stages: unknown stage 'rapport'; did you mean 'report'?"),
    (["--queue_size=100"], "--queue_size: 100 is not a multiple of --batch_size=64"),
    (["--targets={tmp}/none.csv"], "none.csv"),
]


@pytest.mark.parametrize(("argv", "message"), BAD)
def test_bad_input_is_one_line_and_exit_code_2(argv, message, tmp_path, capsys):
    (tmp_path / "corrupt.npz").write_bytes(b"PK\x03\x04 no zip")
    write_npz(tmp_path / "unlabelled.npz", 200, labels=False)
    os.environ["SSLJAX_CACHE"] = str(tmp_path / "cache")
    try:
        code = cli.main(["run.py", *(a.replace("{tmp}", str(tmp_path)) for a in argv), f"--workdir={tmp_path / 'W'}"])
    finally:
        del os.environ["SSLJAX_CACHE"]
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "W").exists()


def test_a_full_disk_is_one_line_and_loses_nothing(finished, tmp_path):
    """A real limit on file size: no checkpoint fits, as on a full disk."""
    run = f"{sys.executable} {ROOT / 'experiments' / 'run.py'} --flagfile={finished / 'flagfile.cfg'}"
    script = f"ulimit -f 60; exec {run} --workdir={tmp_path / 'W'} --stages=pretrain"
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "checkpoint could not be written" in errors[0]


def test_kmeans_without_labels_measures_what_it_can(tiny, tmp_path):
    write_npz(tmp_path / "u.npz", 200, labels=False)
    config = tiny(
        dataset=f"npz:{tmp_path / 'u.npz'}",
        evaluations=("kmeans",),
        clusters=4,
        cache_dir=str(tmp_path / "cache"),
        epochs=1,
        warmup_epochs=0,
    )
    study = pipeline.run(config, tmp_path / "W", progress=False)
    assert {r["metric"] for r in study.results} == {"silhouette"}
    assert study.report.exists()


def test_own_arrays_with_labels_and_two_widths_through_every_stage(tiny, tmp_path):
    """Labels without names, 16 bits a pixel, and programs that no column of the tables tells apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    # Planted: the class is which third is bright, so that raw pixels tell it.
    bright = (np.arange(8) // 3 == labels[:, None])[:, :, None, None]
    images = (bright * 40000 + rng.integers(0, 5000, (120, 8, 8, 1))).astype(np.uint16)
    file = tmp_path / "own.npz"
    np.savez(file, images=images, labels=labels)
    configs = [
        tiny(
            dataset=f"npz:{file}", cache_dir=str(tmp_path / "cache"), method="simclr", width=width, epochs=1, batch_size=32,
            warmup_epochs=0, transforms="rotation(degrees=20)",
        )
        for width in (1 / 32, 1 / 16)
    ]  # fmt: skip
    study = pipeline.run(configs, tmp_path / "W", progress=False)
    top1 = {r["run"]: r["value"] for r in study.results if (r["evaluation"], r["metric"]) == ("knn", "top1")}
    assert sorted(top1) == sorted(
        ["0.03125/seed=5", "0.0625/seed=5", "random-0.03125/seed=5", "random-0.0625/seed=5", "pixels/seed=5"]
    )
    assert top1["pixels/seed=5"] == 1
    assert {r["class"] for r in study.per_class} == {"0", "1", "2"}
    assert study.text.count("seed") == 1  # the head only: no row pools the two widths
    assert "0.0625" in study.text
    # and a resume on other images is refused
    np.savez(file, images=images[::-1].copy(), labels=labels[::-1].copy())
    with pytest.raises(UserError, match="was trained on other images"):
        pipeline.run(configs, tmp_path / "W", progress=False)


@pytest.fixture(scope="module")
def lpips_files(tmp_path_factory):
    """AlexNet and heads of random weights under the names of the real files' tensors."""
    folder, rng = tmp_path_factory.mktemp("lpips"), np.random.default_rng(0)
    backbone, heads, inputs = {}, {}, 3
    for i, (place, outputs, side) in enumerate([(0, 64, 11), (3, 192, 5), (6, 384, 3), (8, 256, 3), (10, 256, 3)]):
        kernel = rng.normal(size=(outputs, inputs, side, side)) * (2 / (inputs * side * side)) ** 0.5
        backbone |= {f"features.{place}.weight": kernel, f"features.{place}.bias": rng.normal(size=outputs) / 10}
        heads[f"lin{i}.model.1.weight"] = rng.random((1, outputs, 1, 1))
        inputs = outputs
    for name, tensors in (("alexnet", backbone), ("heads", heads)):
        save_file({k: v.astype(np.float32) for k, v in tensors.items()}, folder / f"{name}.safetensors")
    return dict(lpips_backbone=str(folder / "alexnet.safetensors"), lpips_heads=str(folder / "heads.safetensors"))


@pytest.fixture(scope="module")
def few_images(tmp_path_factory):
    """A set of 34 training images of two classes, and of 20 test images."""
    file = tmp_path_factory.mktemp("few") / "few.npz"
    images = load_digits().images[:54, :, :, None].astype(np.uint8) * 15
    labels = np.arange(54) % 2
    np.savez(file, train_images=images[:34], train_labels=labels[:34], test_images=images[34:], test_labels=labels[34:])
    return dict(dataset=f"npz:{file}", cache_dir=str(file.parent / "cache")), images[:34], labels[:34]


def test_lpips_of_views_is_that_of_the_views_that_runs_draw(tiny, one_layer, few_images, lpips_files, tmp_path):
    """Two seeds and a sweep from no rotation at all: the values by hand, class by class too, and in every table."""
    data, images, labels = few_images
    config = tiny(
        **data, **lpips_files, backbone=one_layer, method="simclr", batch_size=16, epochs=1, warmup_epochs=0, seeds=(5, 6),
        transforms="rotation(degrees=10)", sweep=("rotation.degrees=0,20,170",), evaluations=("knn", "views"),
    )  # fmt: skip
    study = pipeline.run(config, tmp_path / "W", stages=(*STAGES, "report"), progress=False)
    rows = [row for row in study.results if row["evaluation"] == "views"]
    assert {(r["method"], r["target"], r["metric"]) for r in rows} == {("simclr", "", "lpips")}  # of no baseline
    measured = {(r["rotation.degrees"], r["seed"]): r["value"] for r in rows}
    assert len(rows) == len(measured) == 6

    weights = load(*lpips_files.values())
    view = augment.parse("rotation").views[0]

    @jax.jit
    def distances(degrees, seed):
        def both(place, image):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), place), 9)
            values = {"rotation": {"degrees": degrees, "probability": 1.0}}
            draw = partial(augment.apply_view, view, images=image[None], values=values, image_size=8)
            return [draw(key=jax.random.fold_in(key, number))[0] for number in range(2)]

        return lpips(weights, *jax.vmap(both)(np.arange(34), images.astype(np.float32) / 255))

    by_class = {
        (r["rotation.degrees"], r["seed"], r["class"]): r["value"] for r in study.per_class if r["metric"] == "lpips"
    }
    assert len(by_class) == 6 * 2
    for (degrees, seed), value in measured.items():
        expected = np.asarray(distances(degrees, seed))
        assert value == pytest.approx(expected.mean(), rel=1e-4, abs=1e-7)
        for label in (0, 1):
            assert by_class[degrees, seed, str(label)] == pytest.approx(
                expected[labels == label].mean(), rel=1e-4, abs=1e-7
            )
    for seed in (5, 6):
        assert measured[0, seed] < 1e-6 < 0.01 < measured[20, seed] < measured[170, seed]
    assert measured[170, 5] != measured[170, 6]
    mean = np.mean([measured[170, seed] for seed in (5, 6)])
    for shown in (" ".join(study.text.split()), study.report.read_text()):
        assert "LPIPS" in shown and f"{mean:.3f}"[1:] in shown and "resized to that side" in shown
        assert "weights not given" not in shown

    # The same runs measured without the weights.
    without = dataclasses.replace(config, lpips_backbone="", lpips_heads="")
    study = pipeline.run(without, tmp_path / "W", stages=("evaluate", "report"), progress=False)
    assert {row["evaluation"] for row in study.results} == {"knn"}
    table = (tmp_path / "W" / "table.csv").read_text()
    text = " ".join(study.text.split())
    for shown in (text, study.report.read_text(), table):
        assert shown.count("weights not given") == (3 if shown is table else 4)  # the trained rows, and the note
    assert "alexnet-owt-7be5be79.pth" in text and "wheel of the Python package lpips" in text


def test_lpips_of_each_of_two_losses(tiny, one_layer, few_images, lpips_files):
    """A planted pair: the first loss's views are equal, the second's are each other's negative."""
    config = tiny(
        **few_images[0], **lpips_files, backbone=one_layer, method="simclr", batch_size=16, transforms="none",
        second_transforms="color_inversion(probability=1)|none", evaluations=("views",),
    )  # fmt: skip
    (program,) = pipeline.plan([config])
    nothing, columns = np.zeros((1, 34, 1), np.float32), representation.columns(program.config)
    shown = representation.Representation(
        nothing, nothing, ("p/seed=5",), (5,), ({},), columns, pipeline.untrained(program)
    )
    rows = measuring._views(program.config, program.dataset, shown)[0][0][0]
    assert [(row.evaluation, row.metric) for row in rows] == [("views", "lpips"), ("views@second", "lpips")]
    assert rows[0].value == 0 and rows[1].value > 0.1


def test_lpips_of_a_method_of_one_view_is_of_two_draws_of_it(tiny, one_layer, few_images, lpips_files):
    settings = dict(**few_images[0], **lpips_files, backbone=one_layer, batch_size=16, transforms="rotation")
    found = []
    for method in ("simclr", "supervised"):
        (program,) = pipeline.plan([tiny(method=method, **settings)])
        trained = pipeline.untrained(program)
        found.append(view_distances(program.config, trained, load(*lpips_files.values())))
    np.testing.assert_array_equal(*found)  # both sides of this set are the same
    assert found[0].mean() > 0.1


def test_lpips_takes_both_files_and_grey_or_colour_images(tiny, lpips_files, tmp_path):
    for flag in lpips_files:
        with pytest.raises(UserError, match=f"--{flag}: LPIPS needs the weights of its backbone and of its heads"):
            pipeline.plan([tiny(**{**lpips_files, flag: ""}, evaluations=("views",))])
    images = np.zeros((200, 8, 8, 4), np.uint8)
    np.savez(tmp_path / "four.npz", train_images=images, test_images=images[:9])
    four = dict(dataset=f"npz:{tmp_path / 'four.npz'}", cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"--evaluations: views of npz:.*four.npz: LPIPS sees grey .* given 4 channels"):
        pipeline.plan([tiny(**four, transforms="rotation", evaluations=("views",))])
    bad = tmp_path / "alexnet-0123abcd.pth"
    bad.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"alexnet-0123abcd\.pth: its sha256 begins with"):
        pipeline.plan([tiny(**{**lpips_files, "lpips_backbone": str(bad)}, evaluations=("views",))])


def test_measuring_on_validation_images_uses_no_test_image(tiny, tmp_path):
    config = tiny(validation_fraction=0.2, evaluate_on="validation", evaluations=("knn",), epochs=1, warmup_epochs=0)
    program = pipeline.plan([config])[0]
    whole = ssljax.data.load("digits", validation_fraction=0.2)
    np.testing.assert_array_equal(program.dataset.splits["test"].images, whole.splits["validation"].images)
    with pytest.raises(UserError, match="--evaluate_on: digits has no validation images"):
        pipeline.plan([tiny(evaluate_on="validation")])


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("transforms", ("horizontal_flip+rotation", "horizontal_flip|rotation")),
        ("transforms", ("rotation(degrees=1)", "rotation(degrees=2)")),
        ("width", (1 / 32, 1 / 16)),
        ("batch_size", (32, 64)),
    ],
)
def test_programs_that_differ_have_names_that_differ(tiny, field, values):
    names = [p.name for p in pipeline.plan([tiny(**{field: value}) for value in values])]
    assert len(set(names)) == 2
    assert not any("/" in name or "~" in name for name in names)


def test_compounds_given_as_a_list_are_told_apart(tiny, one_layer, tmp_path):
    """Two programs on one data set, of different images: names, baselines and fingerprints of their own."""
    common = dict(
        dataset="miniature:bbbc021", cache_dir=str(tmp_path / "cache"), pretrained="random", backbone=one_layer
    )
    configs = [tiny(**common, compound=name, evaluations=("kmeans",)) for name in ("nocodazole", "taxol")]
    study = pipeline.run(configs, tmp_path / "W", stages=("evaluate",), progress=False)
    ami = {
        (r["method"], r["compound"]): r["value"]
        for r in study.results
        if (r["target"], r["metric"]) == ("label", "ami")
    }
    assert set(ami) == {(method, name) for method in ("random", "pixels") for name in ("nocodazole", "taxol")}
    for program in pipeline.plan(configs):
        compound = program.config.compound
        (file,) = (tmp_path / "W" / "artifacts").glob(f"pixels-*-{compound}.npz")
        test = program.dataset.splits["test"]
        np.testing.assert_array_equal(np.load(file)["labels"], test.labels)
        info = json.loads((tmp_path / "W" / "run.json").read_text())
        assert info["data"][f"miniature:bbbc021 {compound}"] == program.dataset.fingerprint
