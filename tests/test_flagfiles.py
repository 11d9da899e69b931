"""Every flagfile: it parses and resolves, trains as many programs and runs as its header says, at the papers' values."""

import re
from pathlib import Path

import numpy as np
import pytest

from ssljax import augment, flags, sweeps
from ssljax.config import resolve
from ssljax.report import tables

ROOT = Path(__file__).parents[1]
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "experiments" / "flagfiles").rglob("*.cfg"))
CIFAR, IMAGENET, MNIST = (f"experiments/flagfiles/{name}" for name in ("cifar", "imagenet100", "mnist"))

# "No Free Lunch in Self Supervised Representation Learning", D.1: learning rate and weight decay.
PAPER = dict(
    barlow_twins=(0.3, 1e-4), byol=(1.0, 1e-5), deepclusterv2=(0.6, 1e-6), mocov2plus=(0.3, 1e-4), nnbyol=(1.0, 1e-5),
    nnclr=(0.4, 1e-5), ressl=(0.05, 1e-4), simclr=(0.4, 1e-5), simsiam=(0.5, 1e-5), swav=(0.6, 1e-6), vibcreg=(0.3, 1e-4),
    vicreg=(0.3, 1e-4),
)  # fmt: skip


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # where the commands of the headers are given, and what paths in flagfiles are relative to


def resolved(file, *more):
    text = "\n".join([f"--flagfile={file}", *more])
    return [resolve(config) for config in flags.read_flagfile_text(text)]


def ends(config):
    """The traced values of the first and the last run, which raise for an address or a value that does not fit."""
    runs = sweeps.runs(config)
    return sweeps.hyper(config, runs[0]), sweeps.hyper(config, runs[-1])


@pytest.mark.parametrize("file", FILES)
def test_a_flagfile_is_what_its_header_says(file):
    lines = Path(file).read_text().splitlines()
    header = " ".join(line[1:].strip() for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")])
    assert f"python experiments/run.py --flagfile={file}" in header
    configs = resolved(file)
    stated = re.search(r"(\d+) programs of (\d+) runs?\b", header)
    if stated is None:  # the first study says it in words
        assert file == "experiments/flagfiles/digits.cfg" and "three seeds in one program a set" in header
    programs, runs = (int(n) for n in stated.groups()) if stated else (2, 3)
    assert len(configs) == programs
    for config in configs:
        assert len(sweeps.runs(config)) == runs
        assert not config.max_runs_per_program or runs % config.max_runs_per_program in (0, runs)
        ends(config)
    for line in lines:
        if line.startswith("#   --"):  # lines that the header offers to add
            for config in resolved(file, *line[1:].split()):
                ends(config)


@pytest.mark.parametrize("file", FILES)
def test_targets_are_values_of_what_is_trained(file):
    configs = resolved(file)
    trained = [
        tables.Row(tables.Setting(c.method, c.backbone, c.dataset, c.transforms), {}, ("a/seed=5",)) for c in configs
    ]
    for target in tables.read_targets(configs[0].targets) if configs[0].targets else ():
        if "swept" in target:
            continue  # of the study's tables, see below
        assert -1 <= float(target["value"]) <= 1 and target["source"]
        measure = tuple(target[name] for name in ("evaluation", "target", "metric"))
        assert measure[0] in configs[0].evaluations
        fitting = [
            tables.published(row, measure, [target])
            for row in trained
            if (row.setting.method, row.setting.backbone) == (target["method"], target["backbone"])
        ]
        # figure9 and the like are parts of their table; the row is then another backbone's or set's
        assert (float(target["value"]), target["source"]) in fitting


def test_table4_sweeps_the_hues_probability_at_intensity_one_half():
    for file, dataset in [("table4", "cifar10"), ("table4_cifar100", "cifar100")]:
        configs = resolved(f"{CIFAR}/{file}.cfg")
        assert [c.method for c in configs] == list(PAPER)
        for config in configs:
            runs = sweeps.runs(config)
            values = sorted({run.swept["color_jitter.hue_probability"] for run in runs})
            np.testing.assert_allclose(values, [i / 19 for i in range(20)], atol=1e-9)
            assert {run.seed for run in runs} == {5, 6, 7, 8, 9}
            for hyper, probability in zip(ends(config), (0.0, 1.0)):
                # ReSSL's target sees the weak view: geometry alone.
                views = [view for view in hyper["transforms"].values() if "color_jitter" in view]
                assert len(views) == (1 if config.method == "ressl" else 2)
                for view in views:
                    jitter = {name: round(float(value), 6) for name, value in view["color_jitter"].items()}
                    assert jitter["hue"] == 0.5 and jitter["hue_probability"] == probability
                    assert [jitter[n] for n in ("brightness", "contrast", "saturation")] == [0.4, 0.4, 0.2]
                    assert jitter["probability"] == 0.8
                lr_wd = (hyper["learning_rate"], hyper["weight_decay"])
                np.testing.assert_allclose(lr_wd, PAPER[config.method], rtol=1e-6)
            assert config.dataset == dataset and config.backbone == "resnet18" and config.optimizer == "sgd"
            assert (config.epochs, config.batch_size) == (1000, 256 if config.method == "vicreg" else 512)
            assert config.lr_scaling == "none" and bool(config.targets) == (dataset == "cifar10")


def test_table4s_targets():
    rows = {row["method"]: row for row in tables.read_targets(f"{CIFAR}/table4.csv")}
    assert list(rows) == list(PAPER)
    # Sums over the printed table's two rows, in per cent.
    assert sum(100 * float(row["value"]) for row in rows.values()) == pytest.approx(1071.23)
    assert sum(100 * float(row["deviation"]) for row in rows.values()) == pytest.approx(10.51)


def test_solo_trains_the_published_thirteen():
    for file, dataset, best in [("solo", "cifar10", "mocov2plus"), ("solo_cifar100", "cifar100", "barlow_twins")]:
        configs = resolved(f"{CIFAR}/{file}.cfg")
        assert len({c.method for c in configs}) == 13 and {c.dataset for c in configs} == {dataset}
        assert {(c.backbone, c.epochs, c.batch_size, c.lr_scaling) for c in configs} == {
            ("resnet18", 1000, 256, "linear")
        }
        rows = {row["method"]: float(row["value"]) for row in tables.read_targets(configs[0].targets)}
        assert {c.method for c in configs} - set(rows) == {"nnbyol"}
        assert max(rows, key=lambda name: rows[name]) == best


def test_imagenet100_at_the_papers_values():
    expected = dict(byol=(0.45, 1e-5), mocov2plus=(0.3, 1e-4), simclr=(0.4, 1e-5), vicreg=(0.3, 1e-4))  # D.1
    for file in ("resnet18", "figure8"):
        configs = resolved(f"{IMAGENET}/{file}.cfg")
        assert {c.method: (c.learning_rate, c.weight_decay) for c in configs} == expected
        for config in configs:
            assert (config.batch_size, config.epochs, config.seeds) == (128, 400, (5, 6, 7))
            assert (config.backbone, config.stem, config.image_size) == ("resnet18", "imagenet", 224)
            assert config.resize >= config.image_size and config.dataset == "imagenet100"
    hues = sorted({run.swept["color_jitter.hue"] for run in sweeps.runs(configs[0])})
    np.testing.assert_allclose(hues, [i / 18 for i in range(10)], atol=1e-9)
    assert float(ends(configs[0])[1]["transforms"]["view1"]["color_jitter"]["hue_probability"]) == np.float32(0.8)


BIAS = "experiments/flagfiles/bias"


@pytest.mark.parametrize(
    ("file", "address", "high", "count", "fixed"),
    [
        ("hue_intensity", "color_jitter.hue", 0.5, 10, ("color_jitter", "hue_probability", 0.8)),
        ("hue_probability", "color_jitter.hue_probability", 1, 20, ("color_jitter", "hue", 0.1)),
        ("crop_size", "random_resized_crop.area_low", 1, 8, ("random_resized_crop", "area_high", 1)),
        ("flip_probability", "horizontal_flip.probability", 1, 20, ("color_jitter", "hue", 0.1)),
        ("figure4b", "color_jitter.hue", 0.5, 10, ("color_jitter", "hue_probability", 0.8)),
        ("table6", "color_jitter.hue", 0.5, 10, ("color_jitter", "hue_probability", 0.8)),
    ],
)
def test_sweeps_of_the_bias_study_at_the_papers_values(file, address, high, count, fixed):
    """D.1: values, what is held, seeds, methods with their rates."""
    configs = resolved(f"{BIAS}/{file}.cfg")
    three, all_five = {"byol", "simclr", "vicreg"}, {"barlow_twins", "byol", "mocov2plus", "simclr", "vicreg"}
    assert {c.method for c in configs} == (three if file in ("figure4b", "table6") else all_five)
    networks = {"resnet50", "convnext_tiny"} if file == "figure4b" else {"resnet18"}
    sets = {"cifar100"} if file in ("figure4b", "table6") else {"cifar10", "cifar100"}
    assert {(c.backbone, c.dataset) for c in configs} == {(n, s) for n in networks for s in sets}
    for config in configs:
        runs = sweeps.runs(config)
        low = 0.2 if file == "crop_size" else 0
        np.testing.assert_allclose(sorted({run.swept[address] for run in runs}), np.linspace(low, high, count))
        assert {run.seed for run in runs} == {5, 6, 7, 8, 9}
        transform, parameter, value = fixed
        for hyper in ends(config):
            lr_wd = (hyper["learning_rate"], hyper["weight_decay"])
            np.testing.assert_allclose(lr_wd, PAPER[config.method], rtol=1e-6)
            for view in ("view1", "view2"):
                assert float(hyper["transforms"][view][transform][parameter]) == np.float32(value)
        assert (config.epochs, config.batch_size) == (1000, 256 if config.method == "vicreg" else 512)
        assert ("finetune" in config.evaluations) == (file == "table6")


def test_targets_of_the_bias_study():
    """Sums over the printed Tables 3, 5 and 6; every row is of something that a flagfile trains."""
    rows = tables.read_targets(f"{BIAS}/tables.csv")
    for table, total in {"3": 73.16, "5": 289, "6": 558.5}.items():
        assert sum(float(row["value"]) for row in rows if row["source"].endswith(f"Table {table}")) == pytest.approx(
            total
        )
    trained = [
        c for f in ("hue_intensity", "hue_probability", "crop_size", "table6") for c in resolved(f"{BIAS}/{f}.cfg")
    ]
    assert all(c.targets == f"{BIAS}/tables.csv" for c in trained)
    for row in rows:
        assert any(
            row["method"] in ("", c.method)
            and (c.backbone, c.dataset) == (row["backbone"], row["dataset"])
            and c.sweep[0].startswith(f"{row['swept']}=")
            and row["evaluation"] in c.evaluations
            for c in trained
        )


def test_mnist_at_the_papers_values():
    """D.2. Table 1's file writes every value down; the preset holds them for Table 7."""
    (first, *_), second = resolved(f"{MNIST}/table1.cfg"), resolved(f"{MNIST}/table7.cfg")
    assert [(c.method, c.backbone) for c in second] == [
        (method, network) for method in ("byol", "mocov2plus") for network in ("vgg11", "resnet18", "convnext_tiny")
    ]
    for config in (first, *second):
        assert (config.optimizer, config.batch_size, config.epochs, config.image_size) == ("adam", 32, 250, 32)
        own = (config.learning_rate, config.weight_decay, config.output_dim)
        assert own == ((0.01, 1e-5, 256) if config.method == "byol" else (1e-3, 1e-4, 128))
        if config.method == "mocov2plus":
            assert (config.queue_size, config.temperature) == (1024, 0.07)
    assert {c.transforms for c in second} == {"mnist_second"}


def test_probes_of_natural_images_see_crops_and_flips():
    for file in FILES:
        for config in resolved(file):
            (view, other) = augment.parse(config.probe_transforms).views
            natural = config.dataset.startswith(("cifar", "imagenet")) and "linear" in config.evaluations
            assert [t.name for t in view] == (["random_resized_crop", "horizontal_flip"] if natural else [])
            assert [t.defaults for t in other] == [t.defaults for t in view]
