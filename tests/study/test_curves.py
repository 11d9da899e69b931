import numpy as np
import pytest

from ssljax.errors import UserError
from ssljax.evaluate.results import read_results, write_results
from ssljax.study.curves import complete, curves, describe, points, positions

HUES, SEEDS, CLASSES = (0.0, 0.25, 0.5), (5, 6), ("cat", "dog")


def accuracy(hue, seed, name):
    """A number of its own for every run and class, so that a transposed axis shows."""
    return 0.1 + hue + (seed - 5) / 100 + CLASSES.index(name) / 1000


def row(hue, seed, name="cat", value=None, **other):
    swept = {} if hue is None else {"color_jitter.hue": hue}
    return {
        "run": f"simclr/{hue}-{seed}", "seed": seed, **swept, "method": "simclr", "backbone": "resnet18",
        "dataset": "cifar10", "transforms": "cifar", "epoch": 100, "evaluation": "linear", "target": "label",
        "class": name, "metric": "accuracy", "value": accuracy(hue, seed, name) if value is None else value,
    } | other  # fmt: skip


def grid(**other):
    return [row(hue, seed, name, **other) for seed in SEEDS for hue in HUES for name in CLASSES]


def test_rows_become_curves_whatever_their_order():
    (one,) = curves(grid()[::-1])
    assert (one.method, one.backbone, one.dataset, one.transforms) == ("simclr", "resnet18", "cifar10", "cifar")
    assert (one.evaluation, one.target, one.metric) == ("linear", "label", "accuracy")
    assert (one.swept, one.fixed, one.seeds) == ("color_jitter.hue", (), SEEDS)
    np.testing.assert_array_equal(one.values, HUES)
    assert one.classes == ("dog", "cat")
    expected = [[[accuracy(hue, seed, name) for name in one.classes] for seed in SEEDS] for hue in HUES]
    np.testing.assert_array_equal(one.accuracy, expected)
    np.testing.assert_allclose(one.overall, np.mean(expected, axis=2))
    assert describe(one) == "linear accuracy of simclr (resnet18, cifar10, cifar) over color_jitter.hue"


def test_a_file_gives_the_same_curves(tmp_path):
    rows = [*grid(), *grid(metric="f1", value=0.5)]
    write_results(tmp_path / "per_class.csv", rows)
    (read,) = curves(read_results(tmp_path / "per_class.csv"))
    (made,) = curves(rows)
    np.testing.assert_array_equal(read.accuracy, made.accuracy)
    assert read.classes == made.classes and read.seeds == made.seeds
    (f1,) = curves(rows, metric="f1")
    assert f1.metric == "f1" and (f1.accuracy == 0.5).all()


def test_overall_accuracy_is_the_results_top1_of_that_evaluation():
    results = [row(hue, 5, metric="top1", value=0.7 + hue / 10) for hue in HUES]
    results += [row(hue, 5, metric="top1", evaluation="knn", value=0.1) for hue in HUES]
    (one,) = curves(grid(), results)
    np.testing.assert_allclose(one.overall[:, 0], [0.7, 0.725, 0.75])
    np.testing.assert_allclose(
        one.overall[:, 1], one.accuracy[:, 1].mean(axis=1)
    )  # no result row: the mean over classes


def test_each_evaluation_and_method_has_its_curves_and_the_baselines_none():
    rows = [
        *grid(),
        *grid(evaluation="knn@validation", value=0.4),
        *grid(method="vicreg", value=0.6),
        *grid(method="random"),
        *grid(method="pixels"),
        *[row(None, seed, name, value=0.5, method="byol") for seed in SEEDS for name in CLASSES],
    ]
    found = curves(rows)
    assert [(c.method, c.evaluation) for c in found] == [
        ("simclr", "linear"),
        ("simclr", "knn@validation"),
        ("vicreg", "linear"),
    ]
    assert (found[1].accuracy == 0.4).all() and (found[2].accuracy == 0.6).all()


def test_a_product_gives_curves_for_each_address_at_each_setting_of_the_other():
    scales = (0.1, 0.2, 0.4, 0.8)
    rows = [row(hue, 5, value=hue + 10 * scale, **{"crop.scale": scale}) for hue in HUES[:2] for scale in scales]
    first, second = curves(rows)  # two values of hue are no curve
    assert (first.swept, first.fixed) == ("crop.scale", (("color_jitter.hue", 0.0),))
    assert (second.swept, second.fixed) == ("crop.scale", (("color_jitter.hue", 0.25),))
    np.testing.assert_allclose(second.accuracy[:, 0, 0], 0.25 + 10 * np.array(scales))
    rows += [row(0.5, 5, value=0.5 + 10 * scale, **{"crop.scale": scale}) for scale in scales]
    found = curves(rows)
    assert [one.swept for one in found] == ["color_jitter.hue"] * 4 + ["crop.scale"] * 3
    np.testing.assert_allclose(found[3].accuracy[:, 0, 0], np.array(HUES) + 8)
    assert found[3].fixed == (("crop.scale", 0.8),)


def test_sweeps_of_two_addresses_in_one_file_stay_apart():
    crops = [row(None, 5, value=0.3, **{"crop.scale": scale}) for scale in (0.2, 0.4, 0.6)]
    found = curves([*grid(), *crops])
    assert [(one.swept, one.fixed) for one in found] == [("color_jitter.hue", ()), ("crop.scale", ())]
    assert found[1].classes == ("cat",)


def test_two_runs_of_one_setting_must_agree():
    rows = grid()
    assert len(curves([*rows, rows[0]])) == 1
    with pytest.raises(UserError) as error:
        curves([*rows, row(0.25, 6, "dog", value=0.9, run="simclr~1/twice", epoch=200)])
    assert str(error.value) == (
        "per_class: class 'dog' has linear accuracy 0.361 in run simclr/0.25-6, epoch 100 and 0.9 in run simclr~1/twice, "
        "epoch 200; expected one value for simclr at color_jitter.hue 0.25, seed 6"
    )


def test_programs_that_no_column_tells_apart_are_sweeps_of_their_own():
    """Two batch sizes in one folder, say; a sweep that was split or has grown is one."""
    parts = [{**row, "run": row["run"].replace("simclr/", f"32~{row['seed']}/")} for row in grid()]
    others = [{**row, "run": row["run"].replace("simclr/", "64/"), "value": row["value"] / 2} for row in grid()]
    first, second = curves([*parts, *others])
    assert (first.variant, second.variant) == ("32", "64")
    np.testing.assert_array_equal(second.accuracy, first.accuracy / 2)
    assert first.accuracy[2, 1, 0] == accuracy(0.5, 6, "cat")
    assert describe(second) == "linear accuracy of simclr (resnet18, cifar10, cifar, 64) over color_jitter.hue"
    assert [one.variant for one in curves(parts)] == [""]


def test_a_missing_column_is_named():
    short = {name: value for name, value in row(0.0, 5).items() if name != "backbone"}
    with pytest.raises(UserError, match="per_class: a row has no column backbone; expected run, seed, method"):
        curves([*grid(), short])
    with pytest.raises(UserError, match="results: a row has no column backbone"):
        curves(grid(), [short])


def test_complete_drops_values_without_runs_and_then_seeds_that_lack_one():
    rows = [row(hue, seed) for seed in (5, 6, 7) for hue in (*HUES, 0.75)]
    (one,) = curves(rows)
    gaps = one.accuracy.copy()
    gaps[1] = np.nan  # no seed has .25
    gaps[3, 1] = np.nan  # seed 6 lacks .75
    kept = complete(one._replace(accuracy=gaps))
    np.testing.assert_array_equal(kept.values, [0, 0.5, 0.75])
    assert kept.seeds == (5, 7)
    np.testing.assert_array_equal(kept.accuracy, one.accuracy[np.ix_([0, 2, 3], [0, 2])])
    np.testing.assert_array_equal(kept.overall, one.overall[np.ix_([0, 2, 3], [0, 2])])

    gaps[0] = np.nan
    with pytest.raises(UserError, match=r"over color_jitter\.hue: given 2 values, expected at least 3"):
        complete(one._replace(accuracy=gaps))
    holes = one.accuracy.copy()
    holes[[0, 1, 2], [0, 1, 2]] = np.nan
    with pytest.raises(UserError, match="no seed has all 4 values"):
        complete(one._replace(accuracy=holes))


def test_missing_runs_are_nan():
    (one,) = curves([each for each in grid() if (each["color_jitter.hue"], each["seed"]) != (0.5, 6)])
    assert np.isnan(one.accuracy[2, 1]).all() and np.isnan(one.overall[2, 1])
    assert np.isfinite(one.accuracy).sum() == 10


def test_points_of_both_readings():
    (one,) = curves(grid())
    runs = points(one, "runs")
    assert runs.shape == (6, 2)
    for point, hue in zip(runs, positions(one, "runs")):
        assert point[0] in [accuracy(hue, seed, "cat") for seed in SEEDS]
    np.testing.assert_allclose(points(one, "mean"), one.accuracy.mean(axis=1))
    np.testing.assert_array_equal(positions(one, "mean"), HUES)
    with pytest.raises(UserError, match="points: unknown reading 'means'; did you mean 'mean'"):
        points(one, "means")


def test_equal_means_stay_tied():
    (one,) = curves([row(hue, seed) for hue in HUES for seed in (5, 6, 7)])
    orders = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.3, 0.1]])
    assert len(set(orders.mean(axis=1))) > 1  # what the rounding is there for
    assert len(set(points(one._replace(accuracy=orders[..., None]), "mean")[:, 0])) == 1
