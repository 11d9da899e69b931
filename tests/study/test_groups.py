import numpy as np
import pytest
from scipy import stats

from ssljax.errors import UserError
from ssljax.study.groups import anova, manova, properties_from, property_table
from ssljax.study.trend import Trend

DIRECTION = ("ascending",) * 8 + ("descending",) * 6 + ("random",) * 10
SIZES = {"ascending": 8, "descending": 6, "random": 10}


@pytest.fixture
def planted():
    """Three groups of 24 classes: their first property differs, the others do not."""
    values = np.random.default_rng(0).normal(size=(24, 3))
    values[8:14, 0] += 3
    return values


def test_anova_is_the_ratio_of_mean_squares(planted):
    values = planted[:, 0]
    parts = [values[:8], values[8:14], values[14:]]
    between = sum(len(part) * (part.mean() - values.mean()) ** 2 for part in parts) / 2
    within = sum(((part - part.mean()) ** 2).sum() for part in parts) / 21
    found = anova(values, DIRECTION)
    assert found.groups == SIZES and found.reason == ""
    assert found.f == pytest.approx(between / within, rel=1e-10)
    assert found.p == pytest.approx(stats.f.sf(between / within, 2, 21), rel=1e-10)
    assert found.p < 1e-3 < 0.05 < anova(planted[:, 1], DIRECTION).p


def test_classes_without_a_value_and_lonely_groups_are_left_out(planted):
    values = planted[:, 0].copy()
    values[[0, 9, 10, 11, 12, 13]] = np.nan  # one ascending class, and all but one that descend
    found = anova(values, DIRECTION)
    assert found.groups == {"ascending": 7, "random": 10}
    reference = stats.ttest_ind(values[1:8], values[14:])  # of two groups, F is t squared
    assert found.f == pytest.approx(reference.statistic**2) and found.p == pytest.approx(reference.pvalue)


def test_without_two_groups_there_is_no_test_and_a_reason(planted):
    alone = anova(planted[:, 0], ("random",) * 24)
    assert np.isnan([alone.f, alone.p]).all() and alone.groups == {"random": 24}
    assert alone.reason == "only the random one has 2 classes or more with a value"
    assert anova([1.0, 2.0], ("ascending", "random")).reason == "no group has 2 classes or more with a value"
    assert "the same for all classes" in anova(np.ones(24), DIRECTION).reason
    assert manova(planted, ("random",) * 24).reason == alone.reason
    assert "one property is a combination" in manova(planted[:, [0, 1, 1]], DIRECTION).reason
    assert "one property is a combination" in manova(planted * [1, 1, 0], DIRECTION).reason
    few = [0, 1, 8, 9]
    assert "4 classes are too few for 3" in manova(planted[few], [DIRECTION[i] for i in few]).reason


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_manova_is_wilks_lambda_and_pillais_trace(planted, scale):
    values = planted[:, :2] * [1, scale]
    groups = [values[:8], values[8:14], values[14:]]
    w = sum((g - g.mean(axis=0)).T @ (g - g.mean(axis=0)) for g in groups)
    t = (values - values.mean(axis=0)).T @ (values - values.mean(axis=0))
    wilks, pillai = np.linalg.det(w) / np.linalg.det(t), np.trace((t - w) @ np.linalg.inv(t))
    found = manova(values, DIRECTION)
    assert found.groups == SIZES
    assert (found.wilks, found.pillai) == (pytest.approx(wilks, rel=1e-8), pytest.approx(pillai, rel=1e-8))
    # Rao's F is exact for two properties; Pillai's is the usual approximation (s = 2, m = -1/2, n = 9)
    f = (1 - np.sqrt(wilks)) / np.sqrt(wilks) * (24 - 3 - 1) / 2
    assert found.f == pytest.approx(f, rel=1e-8) and found.p == pytest.approx(stats.f.sf(f, 4, 40), rel=1e-6)
    f = (2 * 9 + 2 + 1) / (2 * -0.5 + 2 + 1) * pillai / (2 - pillai)
    assert found.pillai_f == pytest.approx(f, rel=1e-8)
    assert found.pillai_p == pytest.approx(stats.f.sf(f, 4, 42), rel=1e-6)


def test_of_two_groups_manova_is_hotellings_t_squared(planted):
    values = np.delete(planted, np.s_[8:14], axis=0)
    direction = ("ascending",) * 8 + ("random",) * 10
    gap = values[:8].mean(axis=0) - values[8:].mean(axis=0)
    pooled = (7 * np.cov(values[:8].T) + 9 * np.cov(values[8:].T)) / 16
    t2 = gap @ np.linalg.solve(pooled, gap) * 8 * 10 / 18
    f = t2 * (18 - 3 - 1) / (3 * 16)
    found = manova(values, direction)
    assert found.f == pytest.approx(f, rel=1e-8) and found.p == pytest.approx(stats.f.sf(f, 3, 14), rel=1e-8)


def test_the_table_of_a_sweep(planted):
    classes = [f"class {i}" for i in range(24)]
    trend = Trend(np.zeros(24), np.zeros(24), DIRECTION)
    columns = {"intrinsic_dimension": 0, "spectrum_decay": 1, "texture": 2}
    properties = {name: dict(zip(classes, planted[:, i])) for name, i in columns.items()}
    del properties["texture"]["class 23"]
    rows = property_table(trend, classes, properties)
    assert [row["property"] for row in rows] == [*columns, "MANOVA"]
    assert rows[0]["f"] == pytest.approx(anova(planted[:, 0], DIRECTION).f)
    assert rows[2]["groups"] == {**SIZES, "random": 9}
    # of the paper's properties that are there, over the classes that have both
    both = manova(planted[:23, [0, 2]], DIRECTION[:23])
    assert rows[3]["wilks"] == pytest.approx(both.wilks) and rows[3]["p"] == pytest.approx(both.p)
    assert set(rows[0]) == set(rows[3]) == {"property", *anova(planted[:, 0], DIRECTION)._fields}
    only = property_table(trend, classes, {"texture": properties["texture"]})
    assert [row["property"] for row in only] == ["texture"]


def test_lengths_and_counts_that_do_not_fit(planted):
    with pytest.raises(UserError, match="given 24 classes and 23 trends"):
        anova(planted[:, 0], DIRECTION[1:])
    with pytest.raises(UserError, match="manova: given 1 properties"):
        manova(planted[:, :1], DIRECTION)


def row(method, run, metric, name, value, backbone="resnet18", transforms="", **other):
    kept = dict(method=method, run=run, metric=metric, value=value, backbone=backbone, transforms=transforms)
    return {**kept, "class": name, "evaluation": "properties", "dataset": "cifar10", **other}


def test_properties_come_from_the_best_encoder_that_there_is():
    rows = [
        row("random", "random/seed=5", "spectrum", "cat", 1.0),
        row("simclr", "p/seed=5", "spectrum", "cat", 2.0, transforms="paper"),
        row("simclr", "p/seed=6", "spectrum", "cat", 5.0, transforms="paper"),
        row("byol", "q/seed=5", "spectrum", "cat", 100.0, transforms="paper"),
        row("pretrained", "e/seed=5", "spectrum", "cat", 7.0, backbone="resnet50"),
        row("pretrained", "e/seed=5", "spectrum", "dog", 8.0, backbone="resnet50"),
        row("pixels", "pixels/seed=5", "texture", "cat", 3.0, backbone=""),
        row("pretrained", "e/seed=5", "spectrum", "cat", -1.0, dataset="cifar100"),
        row("pretrained", "e/seed=5", "accuracy", "cat", -1.0, evaluation="linear"),
    ]
    found, whose = properties_from(rows, "cifar10")
    assert found == {"spectrum": {"cat": 7.0, "dog": 8.0}, "texture": {"cat": 3.0}}
    assert whose == (
        "Properties of features are of a pretrained resnet50. Properties of images are means over the training images of a class."
    )
    own, whose = properties_from([r for r in rows if r["method"] != "pretrained"], "cifar10")
    assert own == {"spectrum": {"cat": 3.5}, "texture": {"cat": 3.0}}
    assert whose.startswith("Properties of features are of simclr's resnet18 (paper), mean over 2 runs. ")
    two = [row("pretrained", "e/seed=5", "spectrum", "cat", 7.0), row("pretrained", "f/seed=5", "spectrum", "cat", 9.0)]
    assert properties_from(two, "cifar10") == (
        {"spectrum": {"cat": 7.0}},
        "Properties of features are of a pretrained resnet18, the first of 2: e.",
    )
    parts = [row("simclr", f"p~{i}/seed={i}", "spectrum", "cat", float(i)) for i in range(3)]  # of one split program
    assert properties_from(parts, "cifar10")[0] == {"spectrum": {"cat": 1.0}}
    last, whose = properties_from(rows[:1], "cifar10")
    assert last == {"spectrum": {"cat": 1.0}} and whose == "Properties of features are of an untrained resnet18."
    assert properties_from(rows, "mnist") == ({}, "")
