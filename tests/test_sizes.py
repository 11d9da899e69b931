"""The small size of a study, settings that are given as lists, and what training costs."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

import ssljax
from ssljax import cost, flags, pipeline, planning, sizes
from ssljax.config import resolve
from ssljax.data import transfer
from ssljax.report import tables
from ssljax.train import loop

ROOT = Path(__file__).parents[1]


def of_flagfile(name, monkeypatch, *more):
    monkeypatch.chdir(ROOT)
    return flags.read_flagfile_text("\n".join([f"--flagfile=experiments/flagfiles/{name}.cfg", *more]))


def test_small_is_a_fraction_of_the_full_size(monkeypatch):
    (given,) = of_flagfile("mira/table2", monkeypatch, "--method=twist", "--evaluations=linear,knn@1%,logreg@dtd")
    full, small = resolve(given), resolve(dataclasses.replace(given, sizes="small"))
    assert (full.epochs, full.batch_size, full.backbone, full.image_size) == (450, 2048, "resnet50", 224)
    assert (small.epochs, small.batch_size, small.backbone, small.image_size) == (4, 64, "resnet18", 32)
    assert (small.width, small.local_crops, small.hidden_dim, small.max_images) == (1 / 8, 2, 128, 1024)
    assert small.warmup_epochs == full.warmup_epochs / 100
    assert small.dataset == "miniature:imagenet2012"  # which does not lie here
    assert small.evaluations == ("linear", "knn@1%", "logreg@miniature:dtd")
    values = ssljax.sweeps.hyper(small, ssljax.sweeps.runs(small)[0])["self_labelling"]
    assert float(values["epoch"]) == 4 and float(values["warmup_epochs"]) == pytest.approx(0.05)
    assert "imagenet2012, dtd" in sizes.said(small)[0] and not sizes.said(full)


def test_what_is_small_already_stays(tiny):
    config = resolve(tiny(sizes="small", epochs=300))
    assert (config.dataset, config.width, config.image_size) == ("digits", 1 / 32, 8)
    assert (config.hidden_dim, config.output_dim, config.epochs, config.batch_size) == (16, 8, 3, 32)


def test_small_keeps_the_numbers_of_the_data_set():
    small = ssljax.Config(method="barlow_twins", preset="paper", dataset="imagenet2012", sizes="small", seeds=(1,))
    config = resolve(small)
    assert config.dataset == "miniature:imagenet2012"
    assert float(ssljax.sweeps.hyper(config, ssljax.sweeps.runs(config)[0])["scale"]) == pytest.approx(0.024)


def test_small_names_programs_by_what_was_given(tiny):
    given = [tiny(sizes="small", backbone=b, batch_size=n) for b in ("resnet18", "resnet50") for n in (32, 256)]
    assert {(c.backbone, c.batch_size) for c in map(resolve, given)} == {("resnet18", 32)}
    names = [p.name for p in planning.plan(given, trained=False)]
    assert names == ["resnet18-32", "resnet18-256", "resnet50-32", "resnet50-256"]


def test_the_second_loss_is_as_small(tiny):
    config = resolve(tiny(sizes="small", width=1.0, second_transforms="rotation(degrees=90)"))
    assert config.width == config.second.width == 1 / 8
    assert config.batch_size == config.second.batch_size == 32


def test_settings_given_as_lists_name_programs_and_stand_in_the_tables(tiny):
    configs = [tiny(method="simclr", batch_size=n, width=w) for n in (32, 64) for w in (1 / 32, 1 / 16)]
    programs = planning.plan(configs, trained=False)
    assert [p.name for p in programs] == ["0.03125-32", "0.0625-32", "0.03125-64", "0.0625-64"]
    assert [p.listed for p in programs] == [{"width": c.width, "batch_size": c.batch_size} for c in configs]
    # What only a preset brings along names nothing and is no column.
    programs = planning.plan([ssljax.Config(method=m, preset="solo") for m in ("simclr", "byol")], trained=False)
    assert [(p.name, p.listed) for p in programs] == [("simclr", {}), ("byol", {})]


def test_targets_of_a_list_are_each_its_own(tmp_path):
    head = ",".join((*tables.TARGET_COLUMNS[:-2], "epochs", "target_network", "dataset", "value", "source"))
    lines = [head]
    lines += [f",mira,,linear,label,top1,{epochs},{target},imagenet2012,{value},paper"
              for epochs, target, value in ((100, "self", 0.1), (100, "ema", 0.2), ("200", "ema", 0.3))]  # fmt: skip
    lines += [",PCL,,linear,label,top1,,,,0.676,paper", ",PCL,,linear,label,top5,,,,0.9,paper"]
    (tmp_path / "targets.csv").write_text("\n".join(lines) + "\n")
    targets = tables.read_targets(tmp_path / "targets.csv")

    def row(dataset="imagenet2012", **swept):
        return tables.Row(tables.Setting("mira", "resnet50", dataset, "mira", tuple(swept.items())), {}, ("a/seed=5",))

    key = ("linear", "label", "top1")
    assert tables.published(row(epochs=100, target_network="ema"), key, targets) == (0.2, "paper")
    assert tables.published(row(epochs=200, target_network="ema"), key, targets) == (0.3, "paper")
    assert tables.published(row(epochs=200, target_network="self"), key, targets) is None
    assert tables.published(row("cifar10", epochs=100, target_network="ema"), key, targets) is None
    made = row("miniature:imagenet2012", epochs=100, target_network="self")
    assert tables.published(made, key, targets) == (0.1, "paper")
    # A method that is not here stands with what was published of it, in the columns that are shown.
    columns = (tables.Column("top-1", key), tables.Column("AMI", ("kmeans", "label", "ami")))
    assert tables.elsewhere(targets, columns) == [("PCL", [(0.676, "paper"), None])]
    assert "PCL (published)" in tables.format_text([row(epochs=100)], targets, columns)


def test_cost_is_xlas_account_and_the_logs_time(tiny, one_layer, tmp_path):
    program = pipeline.plan([tiny(method="simclr", backbone=one_layer, batch_size=64, seeds=(1, 2))])[0]
    trained = pipeline.untrained(program)
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves((trained.state, trained.data)))
    found = cost.memory(program.config, trained)
    assert arrays < found < arrays + 2e8  # what is there, and what a step of 64 images of 8x8 may take besides
    log = tmp_path / "metrics.jsonl"
    speeds = {1: 10.0, 2: 200.0, 3: 400.0, 4: 200.0}  # the first epoch has XLA's compilation in it
    rows = [{"program": p, "run": f"{p}/seed=1", "epoch": e, "images_per_second": s / (1 + (p == "other"))}
            for p in (program.name, "other") for e, s in speeds.items()]  # fmt: skip
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = 2 * 64 * trained.program.steps_per_epoch
    assert cost.seconds_per_epoch(program.config, trained, program.name, log) == pytest.approx(images / 200)
    measured = {m.metric: m.value for m in cost.measurements(program.config, trained, program.name, log)}
    assert measured == {"memory_gb": found / 2e9, "seconds_per_epoch": pytest.approx(images / 400)}
    assert cost.seconds_per_epoch(program.config, trained, "unknown", log) is None


def test_parts_of_a_split_program_have_a_log_each(tiny, one_layer):
    config = tiny(method="simclr", backbone=one_layer, seeds=(1, 2), max_runs_per_program=1)
    programs = planning.plan([config])
    assert [p.name for p in programs] == ["simclr~0", "simclr~1"]
    assert loop.program_of(programs[0].config, 1000, 1).steps_per_epoch == 1000 // 64


@pytest.mark.slow
@pytest.mark.parametrize("table", ["table4_supervised", "table5"])
def test_every_row_of_a_table_has_a_number_of_its_own_at_the_small_size(table, monkeypatch, tmp_path):
    sets = "logreg@aircraft,logreg@pets,logreg@voc2007"  # a reader each, and a metric each; all eleven take minutes
    few = {"table4_supervised": ["--dataset=imagenet2012_subset/1pct"], "table5": ["--method=mira", "--epochs=100"]}
    only = few[table] + ([f"--evaluations={sets}"] if table == "table5" else [])
    configs = of_flagfile(f"mira/{table}", monkeypatch, "--sizes=small", *only)
    study = pipeline.run(configs, tmp_path / "w", stages=("pretrain", "evaluate", "report"), progress=False)
    of_run = {
        (r["evaluation"], r["metric"]): r["value"] for r in study.results if r["method"] not in ("random", "pixels")
    }
    if table == "table5":
        names = [name for name in {evaluation for evaluation, _ in of_run} if name != "logreg@average"]
        own = [of_run[name, transfer.metric_of(name.removeprefix("logreg@"))] for name in names]
        assert len(own) == 3 and min(own) > 0.05  # about the chance of ten and of twenty classes
        assert of_run["logreg@average", "average"] == pytest.approx(sum(own) / 3)
    else:
        assert 0 <= of_run["linear", "top1"] <= 1 and ("linear", "learning_rate") in of_run
    assert {r["dataset"] for r in study.results} == {configs[0].dataset.replace("imagenet", "miniature:imagenet", 1)}
    assert "This is the small size" in study.text and "This is the small size" in study.report.read_text()
