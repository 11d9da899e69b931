"""Every flagfile: it parses and resolves, trains as many programs and runs as its header says, at the papers' values."""

import itertools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from ssljax import augment, flags, planning, representation, sweeps
from ssljax.config import Config, resolve
from ssljax.methods import METHODS
from ssljax.report import tables

ROOT = Path(__file__).parents[1]
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "experiments" / "flagfiles").rglob("*.cfg"))
CIFAR, IMAGENET, MNIST, MIRA, CELLS = (
    f"experiments/flagfiles/{name}" for name in ("cifar", "imagenet100", "mnist", "mira", "cells")
)

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
    given = flags.read_flagfile_text("\n".join([f"--flagfile={file}", *more]))
    configs = [resolve(config) for config in given]
    planning._refuse_without_effect(given, configs)
    return configs


def ends(config):
    """The traced values of the first and the last run, which raise for an address or a value that does not fit."""
    runs = sweeps.runs(config)
    return sweeps.hyper(config, runs[0]), sweeps.hyper(config, runs[-1])


def row_of(config, swept=()):
    """The row of a table that a resolved config's runs make."""
    told = representation.columns(config)
    return tables.Row(
        tables.Setting(told["method"], told["backbone"], config.dataset, told["transforms"], swept), {}, ("a/seed=5",)
    )


@pytest.mark.parametrize("file", FILES)
def test_a_flagfile_is_what_its_header_says(file):
    lines = Path(file).read_text().splitlines()
    header = " ".join(line[1:].strip() for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")])
    assert f"python experiments/run.py --flagfile={file}" in header
    configs = resolved(file)
    stated = re.search(r"(\d+) programs? of (\d+) runs?\b", header)
    if stated is None:  # the first study says it in words
        assert file == "experiments/flagfiles/digits.cfg" and "three seeds in one program a set" in header
    programs, runs = (int(n) for n in stated.groups()) if stated else (2, 3)
    assert len(configs) == programs
    for config in configs:
        assert len(sweeps.runs(config)) == runs
        assert not config.max_runs_per_program or runs % config.max_runs_per_program in (0, runs)
        ends(config)
    for line in lines:
        if line.startswith(("#   --", '#   "--')):  # lines that the header offers to add, as a shell reads them
            for config in resolved(file, *shlex.split(line[1:])):
                ends(config)


@pytest.mark.parametrize("file", FILES)
def test_targets_are_values_of_what_is_trained(file):
    configs = resolved(file)
    trained = [row_of(c) for c in configs]
    for target in tables.read_targets(configs[0].targets) if configs[0].targets else ():
        if "swept" in target:
            continue  # of the study's tables, see below
        cost = target["evaluation"] == "cost"
        assert (0 if cost else -1) <= float(target["value"]) <= (2000 if cost else 1) and target["source"]
        measure = tuple(target[name] for name in ("evaluation", "target", "metric"))
        assert measure[0] in (*configs[0].evaluations, "logreg@average")
        fitting = [
            tables.published(row, measure, [target])
            for row in trained
            if (row.setting.method, row.setting.backbone) == (target["method"], target["backbone"])
        ]
        if file.startswith((MIRA, CELLS)):
            continue  # their tables are made by several files each, or hold what only others have trained: see below
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
            natural = config.dataset.startswith(("cifar", "imagenet"))
            if natural and ("linear" not in config.evaluations or config.max_images):
                continue  # there is no probe, or a study in small whose probe sees each image once
            assert [t.name for t in view] == (["random_resized_crop", "horizontal_flip"] if natural else [])
            assert [t.defaults for t in other] == [t.defaults for t in view]


# --- cells ---------------------------------------------------------------------------------------------------------------

COMPOUNDS = dict(nocodazole=("nocodazole", 3500), cytochalasin_b=("cytochalasin B", 2300), taxol=("taxol", 1900))


@pytest.mark.parametrize("name", COMPOUNDS)
def test_cells_at_the_papers_values(name):
    """Sections A and D.4: images of a compound, seeds, methods and backbones, MoCo's numbers; .4 and 1 weigh the two losses."""
    configs = resolved(f"{CELLS}/table2_{name}.cfg")
    for config in configs:
        assert (config.compound, config.max_images) == COMPOUNDS[name]
        assert (config.concentrations, config.seeds) == (4, (5, 6, 7, 8, 9))
        test = 0.2  # what is held out for test, always
        assert (1 - test) * config.validation_fraction == pytest.approx(0.1)  # 70, 10 and 20 in a hundred
        assert (config.optimizer, config.batch_size, config.epochs, config.image_size) == ("adam", 128, 400, 196)
        assert (config.learning_rate, config.weight_decay) == (1e-3, 1e-4)
        assert set(config.score) >= {"plate", "well"} and (config.group, config.controls) == ("", "plates")
        if config.method == "mocov2plus":
            assert (config.queue_size, config.temperature) == (1024, 0.07)
        if config.second is not None:
            weights = {name: float(value) for name, value in ends(config)[0]["loss_weights"].items()}
            assert weights == pytest.approx({"first": 0.4, "second": 1.0})
            assert (config.transforms, config.second.transforms) == ("cell_crop", "cell_center")
            assert config.second.method == config.method
    offered = resolved(f"{CELLS}/table2_{name}.cfg", "--group=none", "--controls=any")
    assert {(config.group, config.controls) for config in offered} == {("none", "any")}


@pytest.mark.parametrize("name", COMPOUNDS)
def test_every_target_of_the_cells_table_is_the_value_of_one_row(name):
    configs = resolved(f"{CELLS}/table2_{name}.cfg")
    targets = tables.read_targets(f"{CELLS}/table2_{name}.csv")
    measure = ("kmeans", "label", "ami")
    found = [tables.published(row_of(config), measure, targets) for config in configs]
    ours = [target for target in targets if not target["method"].startswith("ImageNet")]
    told = [tuple(t[c] for c in ("transforms", "method", "backbone")) for t in ours]
    rows = [row_of(config).setting for config in configs]
    assert sorted(told) == sorted((row.transforms, row.method, row.backbone) for row in rows)
    assert len(set(told)) == len(told) == 18 and None not in found
    for target, line in zip(told, ours):
        row = rows.index(next(r for r in rows if (r.transforms, r.method, r.backbone) == target))
        assert found[row][0] == float(line["value"])
    # What only others have trained stands beneath the table: an ImageNet encoder a line, and none of the sums of two losses.
    column = tables.Column("AMI", measure)
    assert [line[0] for line in tables.elsewhere(targets, [column])] == ["ImageNet VGG16", "ImageNet ResNet101"]


def test_sums_of_the_cells_table():
    """By hand from the printed table, in hundredths: the six rows of each set, and the two encoders."""
    printed = dict(nocodazole=(112, 215, 300, 73), cytochalasin_b=(156, 266, 384, 112), taxol=(108, 210, 297, 79))
    for name, sums in printed.items():
        rows = tables.read_targets(f"{CELLS}/table2_{name}.csv")
        for transforms, total in zip(("cell_table_crop", "cell_table_rotation", "cell_crop & cell_center", ""), sums):
            assert sum(100 * float(r["value"]) for r in rows if r["transforms"] == transforms) == pytest.approx(total)


@pytest.mark.parametrize(("file", "grown", "whole"), [("second", 1, "cell_center"), ("first", 0, "cell_crop")])
def test_the_ablation_grows_one_set_to_the_whole_and_keeps_the_other(file, grown, whole):
    configs = resolved(f"{CELLS}/figure8_{file}.cfg")
    pairs = [(config.transforms, config.second.transforms) for config in configs]
    assert {pair[1 - grown] for pair in pairs} == {("cell_crop", "cell_center")[1 - grown]}
    own = [[(t.name, t.defaults) for t in augment.parse(pair[grown]).views[0]] for pair in pairs]
    complete = [(t.name, t.defaults) for t in augment.parse(whole).views[0]]
    assert own[-1] == complete
    names = [[name for name, _ in each] for each in own]
    assert names[0] == ["rotation"] and all(set(a) < set(b) for a, b in itertools.pairwise(names))
    for each in own:  # with the whole set's values, in its order
        assert each == [one for one in complete if one in each]


def test_what_else_is_asked_of_cells():
    for config in resolved(f"{CELLS}/figure2_k4.cfg"):
        assert (config.method, config.backbone, config.compound) == ("mocov2plus", "vgg13", "nocodazole")
        assert config.evaluations == ("kmeans", "kmeans@k4") and not config.targets
    (grid,) = resolved(f"{CELLS}/weights.cfg")
    weights = {tuple(run.swept.values()) for run in sweeps.runs(grid)}
    assert len(weights) == 25 and (0.4, 1.0) in weights and grid.validation_fraction > 0
    for file in ("figure6", "figure7"):
        (config,) = resolved(f"{CELLS}/{file}.cfg")
        assert config.concentrations == 0 and "dose" in config.evaluations
        names = re.findall(r"\b((?:resnet|vgg)\d+)-[0-9a-f]{8}\.pth", Path(f"{CELLS}/{file}.cfg").read_text())
        sizes = (18, 34, 50, 101, 152) if file == "figure6" else (11, 13, 16, 19)
        assert names == [f"{'resnet' if file == 'figure6' else 'vgg'}{size}" for size in sizes]
    assert {c.evaluations for c in resolved(f"{CELLS}/profiles.cfg")} == {("profiles",)}


# --- MIRA's paper --------------------------------------------------------------------------------------------------------

# What each method's paper or official program trains its longest ResNet-50 on ImageNet with: optimiser, learning rate for 256
# images, weight decay, batch, epochs, warm-up epochs, output width, local crops, and the least area of a global crop.
IMAGENET_SETTINGS = dict(
    simclr=("lars", 0.3, 1e-6, 4096, 1000, 10, 128, 0, 0.08),
    byol=("lars", 0.2, 1.5e-6, 4096, 1000, 10, 256, 0, 0.08),
    simsiam=("sgd", 0.05, 1e-4, 512, 800, 0, 2048, 0, 0.2),
    mocov2plus=("sgd", 0.03, 1e-4, 256, 800, 0, 128, 0, 0.2),
    mocov3=("lars", 0.3, 1.5e-6, 4096, 1000, 10, 256, 0, 0.2),
    barlow_twins=("lars", 0.2, 1e-6, 2048, 1000, 10, 8192, 0, 0.08),
    vicreg=("lars", 0.2, 1e-6, 2048, 1000, 10, 8192, 0, 0.08),
    deepclusterv2=("lars", 0.3, 1e-6, 4096, 800, 10, 128, 6, 0.14),
    swav=("lars", 0.3, 1e-6, 4096, 800, 10, 128, 6, 0.14),
    dino=("lars", 0.3, 1e-6, 4080, 800, 10, 256, 8, 0.14),
    twist=("lars", 0.5, 1.5e-6, 2048, 450, 10, 4096, 12, 0.4),
    mira=("lars", 0.3, 1e-6, 4096, 400, 10, 256, 6, 0.14),
    supervised=("sgd", 0.1, 1e-4, 256, 90, 5, None, 0, 0.08),
)

# And what else they state, by address.
IMAGENET_NUMBERS = {
    "simclr": {"temperature": 0.1},
    "byol": {"tau.base": 0.996, "tau.final": 1},
    "mocov2plus": {"temperature": 0.2, "tau.base": 0.999, "tau.final": 0.999},
    "mocov3": {"temperature": 1, "tau.base": 0.996, "tau.final": 1},
    # Under LARS only biases and norms see the loss's scale, and .2 x .024 is the official rate of those, .0048.
    "barlow_twins": {"lambda": 0.0051, "scale": 0.0048 / 0.2},
    "vicreg": {"invariance": 25, "variance": 25 / 2, "covariance": 1},  # it halves the sum of two variance terms
    "deepclusterv2": {"temperature": 0.1, "warmup_learning_rate": 0.3, "min_learning_rate": 0.0048},
    "swav": {
        **{"temperature": 0.1, "warmup_learning_rate": 0.3, "min_learning_rate": 0.0048, "freeze_epochs": 1},
        **{"sinkhorn.epsilon": 0.05, "sinkhorn.iterations": 3},
    },
    "dino": {
        **{"temperature": 0.1, "tau.base": 0.996, "min_learning_rate": 0.0048, "freeze_epochs": 1},
        **{"target_temperature.base": 0.04, "target_temperature.final": 0.07, "target_temperature.warmup_epochs": 50},
    },
    "twist": {"self_labelling.epoch": 400, "self_labelling.fraction.base": 0.5, "self_labelling.fraction.final": 0.6},
    "mira": {
        **{"temperature": 0.1, "target_temperature": 0.225, "beta.base": 2 / 3, "beta.final": 2 / 3},
        **{"tau.base": 0.99, "tau.final": 1, "freeze_epochs": 1},
    },
}


@pytest.mark.parametrize("method", IMAGENET_SETTINGS)
def test_every_method_of_miras_tables_has_its_published_settings_on_imagenet(method):
    config = resolve(Config(method=method, preset="paper", dataset="imagenet2012:5.1.0"))
    *stated, area = IMAGENET_SETTINGS[method]
    assert stated == [
        config.optimizer,
        config.learning_rate,
        config.weight_decay,
        config.batch_size,
        config.epochs,
        config.warmup_epochs,
        config.output_dim,
        config.local_crops,
    ]
    assert (config.backbone, config.stem, config.image_size, config.lr_scaling) == (
        "resnet50", "imagenet", 224, "linear",
    )  # fmt: skip
    hyper, _ = ends(config)
    for address, expected in IMAGENET_NUMBERS.get(method, {}).items():
        value = hyper
        for name in address.split("."):
            value = value[name]
        assert float(value) == pytest.approx(expected, rel=1e-5), address
    views = hyper["transforms"]
    for side in views.keys() & {"view1", "view2"}:
        crop = views[side]["random_resized_crop"]
        assert (round(float(crop["area_low"]), 4), float(crop["area_high"])) == (area, 1)
    assert ("local" in views) == (config.local_crops > 0)
    if "local" in views:
        crop, blur = views["local"]["local_crop"], views["local"]["gaussian_blur"]
        areas = [round(float(crop[name]), 4) for name in ("area_low", "area_high")]
        assert areas == ([0.05, 0.4] if method == "twist" else [0.05, 0.14])
        assert float(blur["probability"]) == 0.5  # of DINO's and TWIST's global crops all or a tenth are blurred
        assert {view.size for view in METHODS[method].VIEWS(config)} == {224, 96}
    subset = resolve(Config(method=method, preset="paper", dataset="imagenet2012_subset/1pct"))
    assert (subset.epochs, subset.batch_size, subset.transforms) == (
        config.epochs,
        config.batch_size,
        config.transforms,
    )


# What the files of a table train, by (method, epochs, local crops).
ELEVEN = (
    "aircraft", "caltech101", "cars", "cifar10", "cifar100", "dtd", "flowers", "food", "pets", "sun397", "voc2007"
)  # fmt: skip
LONG = (100, 200, 400, 800)
TRAINED = {
    "table1": {(m, e, 0) for m in ("simclr", "byol", "simsiam", "mocov3", "mira") for e in LONG},
    "table1_swav": {(m, e, 0) for m in ("deepclusterv2", "swav") for e in LONG},
    "table1_twist": {("twist", e, 0) for e in LONG},
    "table1_multicrop": {(m, e, 6) for m in ("deepclusterv2", "swav", "mira") for e in LONG},
    "table1_multicrop_twist": {("twist", e, 12) for e in LONG},
    "table2": {(m, s[4], s[7]) for m, s in IMAGENET_SETTINGS.items() if m not in ("simclr", "mocov2plus")},
    "table2_twist": {("twist", 800, 12)},
    "table6": {("mira", 200, 0), ("mira", 200, 6)},
    "table6_swav": {("swav", 200, 0)},
    "table6_dino": {("dino", 300, 8)},
    "table8_512": {("mira", 100, 0)},
    "table8_512_swav": {("swav", 100, 0)},
    "table8_4096": {("mira", 100, 0)},
    "table8_4096_swav": {("swav", 100, 0)},
    "figure2": {("mira", 400, 6), ("swav", 800, 6)},
    "table4_supervised": {("supervised", 300, 0)},
}
OTHERS = ("PCL", "InfoMin", "SimCLR-v2", "SelfClassifier", "TWIST w/o SL", "Supervised")  # published only


def test_miras_tables_train_what_they_print():
    for file, expected in TRAINED.items():
        configs = resolved(f"{MIRA}/{file}.cfg")
        assert {(c.method, c.epochs, c.local_crops) for c in configs} == expected, file
        ours = {"table6": {"self", "ema"}, "table8_512": {"self", "ema"}, "table8_4096": {"self", "ema"}}
        if file in ours:
            assert {c.target_network for c in configs} == ours[file]
        for config in configs:
            self_labelled = file == "table2" and config.method == "twist"
            if config.method == "twist":  # the stage is Table 2's alone
                assert (float(ends(config)[0]["self_labelling"]["epoch"]) < config.epochs) == self_labelled
                assert config.output_dim == (4096 if config.local_crops else 32768)
            if config.method in ("swav", "deepclusterv2"):  # without multi-crop their crops begin at .08 of the area
                crop = ends(config)[0]["transforms"]["view1"]["random_resized_crop"]
                assert float(crop["area_low"]) == pytest.approx(0.14 if config.local_crops else 0.08)
    for config in (*resolved(f"{MIRA}/table8_512.cfg"), *resolved(f"{MIRA}/table8_512_swav.cfg")):
        assert (config.batch_size, config.optimizer, config.weight_decay) == (512, "sgd", 1e-4)
        assert (config.learning_rate, config.lr_scaling, config.warmup_epochs) == (0.3, "linear", 10)
    for config in (*resolved(f"{MIRA}/table8_4096.cfg"), *resolved(f"{MIRA}/table8_4096_swav.cfg")):
        assert (config.batch_size, config.optimizer, config.weight_decay) == (4096, "lars", 1e-6)


def test_miras_evaluations_are_the_papers():
    for file in FILES:
        if not file.startswith(MIRA):
            continue
        for config in resolved(file):
            name = Path(file).stem
            if config.preset == "paper" and "linear" in config.evaluations:
                assert (config.probe_epochs, config.probe_batch_size) == (100, 1024)
                assert (config.probe_schedule, config.probe_lr_scaling) == ("cosine", "linear")
                assert "0.075" in config.probe_learning_rates
            if name == "table3":
                assert config.evaluations == ("knn", "knn@10%", "knn@1%")
                assert (config.knn_k, config.knn_temperature) == (20, 0.07)
            if name == "table4":
                assert config.evaluations == ("finetune@1%", "finetune@10%")
                assert (config.semi_epochs, config.finetune_batch_size) == (20, 256)
            if name == "table5":
                assert config.evaluations == tuple(f"logreg@{each}" for each in ELEVEN)
            if name == "figure2":
                assert (config.convergence_batches, config.convergence_batch_size) == (1000, 512)
            if name.startswith("table7"):
                assert (config.backbone, config.local_crops, config.batch_size) == ("resnet18", 0, 256)
                hundred = config.dataset == "imagenet100"
                assert (config.image_size, config.epochs) == ((256, 400) if hundred else (32, 1000))
                assert config.probe_learning_rates == () and config.probe_schedule == "steps"  # solo-learn's
    (config,) = resolved(f"{MIRA}/footnote8.cfg")
    assert config.solver == "plain" and len(sweeps.runs(config)) == 18
    assert [float(h["solver"]["max_iter"]) for h in ends(config)] == [1, 30]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / MIRA).glob("*.csv")))
def test_every_target_of_miras_tables_is_the_value_of_one_row(name):
    path = f"{MIRA}/{name}.csv"
    targets = tables.read_targets(path)
    columns = [c for c in targets[0] if c not in tables.TARGET_COLUMNS]
    rows = {}
    for file in FILES:
        configs = resolved(file)
        if configs[0].targets != path:
            continue
        # A column of a setting that was given as a list stands in a row's setting, as that of a swept value does.
        listed = [c for c in columns if c != "dataset" and len({str(getattr(x, c)) for x in configs}) > 1]
        for c in configs:
            swept = tuple((column, getattr(c, column)) for column in listed)
            setting = tables.Setting(c.method, c.backbone, c.dataset, c.transforms, swept)
            rows[file, setting] = tables.Row(setting, {}, ("a/seed=5",)), c
    claimed = []
    for row, config in rows.values():
        for measure in {tuple(t[n] for n in ("evaluation", "target", "metric")) for t in targets}:
            found = tables.published(row, measure, targets)
            if found is None:
                continue
            assert measure[0] in (*config.evaluations, *["logreg@average"] * (name == "table5"))
            (target,) = [
                t
                for t in targets
                if (float(t["value"]), t["source"]) == found
                and (t["method"], *(t[n] for n in ("evaluation", "target", "metric"))) == (config.method, *measure)
                and all(not t[c] or str(getattr(config, c)) == t[c] for c in columns)
            ]
            claimed.append(target)
    ours = [target for target in targets if target["method"] not in OTHERS]
    assert {target["method"] for target in targets} - set(OTHERS) <= set(METHODS)
    assert sorted(map(str, claimed)) == sorted(map(str, ours))


def test_sums_of_miras_tables():
    """Averages that the paper prints (Table 5), and sums over its other tables' columns, in per cent."""
    means = dict(
        supervised=73.75, InfoMin=72.21, mocov2plus=72.31, byol=77.05, deepclusterv2=78.92, swav=77.97, mira=79.86
    )
    rows = tables.read_targets(f"{MIRA}/table5.csv")
    for method, mean in {**means, "SimCLR-v2": 75.07}.items():
        *values, average = [100 * float(row["value"]) for row in rows if row["method"] == method]
        assert len(values) == 11 and np.mean(values) == pytest.approx(mean, abs=0.0051)
        assert average == pytest.approx(mean)
    metrics = {row["evaluation"].removeprefix("logreg@"): row["metric"] for row in rows if row["metric"] != "average"}
    per_class = ("aircraft", "caltech101", "flowers", "pets")
    assert metrics == {
        name: "map11" if name == "voc2007" else "mean_per_class" if name in per_class else "top1" for name in ELEVEN
    }
    sums = {
        ("table1", "epochs", "100"): 476.3, ("table1", "epochs", "200"): 421.2, ("table1", "epochs", "400"): 499.8,
        ("table1", "epochs", "800"): 508.3, ("table2", "metric", "top1"): 1104.0, ("table2", "metric", "top5"): 457.3,
        ("table3", "evaluation", "knn"): 399.8, ("table3", "evaluation", "knn@10%"): 353.0,
        ("table3", "evaluation", "knn@1%"): 278.7, ("table4", "evaluation", "finetune@1%"): 731.9,
        ("table4", "evaluation", "finetune@10%"): 927.0, ("table7", "dataset", "cifar10"): 1143.60,
        ("table7", "dataset", "cifar100"): 950.57, ("table7", "dataset", "imagenet100"): 1036.15,
    }  # fmt: skip
    for (name, column, cell), total in sums.items():
        values = [100 * float(row["value"]) for row in tables.read_targets(f"{MIRA}/{name}.csv") if row[column] == cell]
        assert sum(values) == pytest.approx(total, abs=0.005), (name, cell)
