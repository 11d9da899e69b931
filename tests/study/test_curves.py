from itertools import combinations

import numpy as np
import pytest

from ssljax.errors import UserError
from ssljax.evaluate.results import read_results, write_results
from ssljax.study.curves import complete, curves, describe, last_epochs, left_out, points, positions

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

    def product(hues):
        values = [
            (hue, scale, {"run": f"simclr/{hue}-{scale}", "crop.scale": scale}) for hue in hues for scale in scales
        ]
        return [row(hue, 5, value=hue / 10 + scale, **own) for hue, scale, own in values]

    rows = product(HUES[:2])
    first, second = curves(rows)  # two values of hue are no curve
    assert (first.swept, first.fixed) == ("crop.scale", (("color_jitter.hue", 0.0),))
    assert (second.swept, second.fixed) == ("crop.scale", (("color_jitter.hue", 0.25),))
    np.testing.assert_allclose(second.accuracy[:, 0, 0], 0.025 + np.array(scales))
    rows += product(HUES[2:])
    found = curves(rows)
    assert [one.swept for one in found] == ["color_jitter.hue"] * 4 + ["crop.scale"] * 3
    np.testing.assert_allclose(found[3].accuracy[:, 0, 0], np.array(HUES) / 10 + 0.8)
    assert found[3].fixed == (("crop.scale", 0.8),)


def test_sweeps_of_two_addresses_in_one_file_stay_apart():
    crops = [row(None, 5, value=0.3, run=f"simclr/{s}", **{"crop.scale": s}) for s in (0.2, 0.4, 0.6)]
    found = curves([*grid(), *crops])
    assert [(one.swept, one.fixed) for one in found] == [("color_jitter.hue", ()), ("crop.scale", ())]
    assert found[1].classes == ("cat",)


def test_two_runs_of_one_setting_must_agree():
    rows = grid()
    assert len(curves([*rows, rows[0]])) == 1
    with pytest.raises(UserError) as error:
        curves([*rows, row(0.25, 6, "dog", value=0.9, run="simclr~1/twice")])
    assert str(error.value) == (
        "per_class: class 'dog' has linear accuracy 0.361 in run simclr/0.25-6, epoch 100 and 0.9 in run simclr~1/twice, "
        "epoch 100; expected one value for simclr at color_jitter.hue 0.25, seed 6"
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


def test_a_run_counts_with_its_last_epoch():
    early = grid(epoch=50, value=0.5)
    late = grid(epoch=100)
    assert last_epochs([*early, *late]) == late
    assert last_epochs([*early, *grid(evaluation="knn")]) == [*early, *grid(evaluation="knn")]
    results = [row(hue, 5, metric="top1", value=v, epoch=e) for hue in HUES for e, v in ((50, 0.1), (100, 0.9))]
    (one,) = curves([*late, *early], results)
    assert one.variant == "" and one.accuracy[2, 1, 0] == accuracy(0.5, 6, "cat")
    np.testing.assert_array_equal(one.overall[:, 0], 0.9)
    (own,) = curves([{name: value for name, value in each.items() if name != "epoch"} for each in late])
    np.testing.assert_array_equal(own.accuracy, one.accuracy)


def test_runs_that_end_at_another_epoch_are_a_sweep_of_their_own():
    longer = [{**r, "run": f"longer/{r['run']}", "epoch": 200, "value": r["value"] / 2} for r in grid()]
    tuned = [{**r, "evaluation": "finetune"} for r in grid()]
    results = [row(hue, 5, metric="top1", value=v, epoch=e) for hue in HUES for e, v in ((100, 0.1), (200, 0.9))]
    results = [{**r, "run": f"longer/{r['run']}"} if r["epoch"] == 200 else r for r in results]
    first, second, third = curves([*grid(), *longer, *tuned], results)
    # whatever it is measured with, a sweep has one name
    assert [c.variant for c in (first, second, third)] == ["epoch 100", "epoch 200", "epoch 100"]
    np.testing.assert_array_equal(second.accuracy, first.accuracy / 2)
    assert (first.overall[:, 0] == 0.1).all() and (second.overall[:, 0] == 0.9).all()
    other = [{**r, "run": f"wide/{r['run']}", "value": 0.25} for r in longer]
    assert [c.variant for c in curves([*grid(), *longer, *other])] == [
        *("epoch 100", "longer/simclr, epoch 200", "wide/longer/simclr, epoch 200"),
    ]


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_percentages_are_refused(metric):
    rows = [*grid(metric=metric, value=0.5), row(0.75, 5, "dog", value=93.5, metric=metric)]
    with pytest.raises(UserError) as error:
        curves(rows, metric=metric)
    told = f"per_class: {metric} of class 'dog' in run simclr/0.75-5 is 93.5; expected a fraction in [0, 1]"
    assert str(error.value) == told
    with pytest.raises(UserError, match=r"results: top1 in run simclr/0\.0-5 is -2; expected a fraction"):
        curves(grid(), [_top1(-2.0)])
    exact = grid(metric=metric, value=1.0) + grid(metric="distance", value=7.0)
    assert (curves(exact, metric=metric)[0].accuracy == 1).all()


def _top1(value):
    return {name: each for name, each in row(0.0, 5, metric="top1", value=value).items() if name != "class"}


def test_a_column_that_differs_within_a_run_is_not_swept():
    rows = [{**r, "support": 980 + 30 * CLASSES.index(r["class"])} for r in grid()]
    with pytest.raises(UserError) as error:
        curves(rows)
    assert str(error.value) == (
        "per_class: column 'support' is taken as swept but differs within run simclr/0.0-5 (980 and 1010); "
        "expected one value a run, or no such column"
    )
    # other programs leave NaN where nothing is swept
    (one,) = curves([{**r, "crop.scale": float("nan")} for r in grid()])
    assert (one.swept, one.fixed) == ("color_jitter.hue", ())


def test_a_missing_column_is_named():
    short = {name: value for name, value in row(0.0, 5).items() if name != "backbone"}
    with pytest.raises(UserError, match="per_class: a row has no column backbone; expected run, seed, method"):
        curves([*grid(), short])
    with pytest.raises(UserError, match="results: a row has no column backbone"):
        curves(grid(), [short])


def whole(values, seeds):
    """Curves over so many values and seeds, a number of its own in each run."""
    hues = np.arange(values) / values
    (one,) = curves([row(float(hue), seed, value=hue / 2 + seed / 100) for seed in range(5, 5 + seeds) for hue in hues])
    return one


def without(one, *runs):
    """The curves without the runs at (value, seed), by index."""
    accuracy, overall = one.accuracy.copy(), one.overall.copy()
    for run in runs:
        accuracy[run] = overall[run] = np.nan
    return one._replace(accuracy=accuracy, overall=overall)


ALL = slice(None)


@pytest.mark.parametrize(
    ("shape", "missing", "values", "seeds", "told"),
    [
        ((4, 3), [], [0, 1, 2, 3], [0, 1, 2], []),
        # one run that diverged costs a value of many, not a seed of few
        ((4, 3), [(3, 1)], [0, 1, 2], [0, 1, 2], ["color_jitter.hue 0.75: 1 of 3 seeds has no run"]),
        # a tie: the seed
        ((4, 4), [(3, 1)], [0, 1, 2, 3], [0, 2, 3], ["seed 6: no run at color_jitter.hue 0.75"]),
        # three values stay
        ((3, 2), [(0, 0)], [0, 1, 2], [1], ["seed 5: no run at color_jitter.hue 0"]),
        # a value that no seed has, and a seed that is not far yet
        (
            (10, 3),
            [(4, ALL), (slice(5, None), 2)],
            [0, 1, 2, 3, 5, 6, 7, 8, 9],
            [0, 1],
            [
                "seed 7: no run at 5 of the 10 values of color_jitter.hue",
                "color_jitter.hue 0.4: 3 of 3 seeds have no run",
            ],
        ),
        # one seed alone keeps what it has
        ((5, 1), [(1, 0)], [0, 2, 3, 4], [0], ["color_jitter.hue 0.2: 1 of 1 seeds has no run"]),
    ],
)
def test_complete_keeps_as_many_runs_as_it_can(shape, missing, values, seeds, told):
    one = whole(*shape)
    gaps = without(one, *missing)
    kept = complete(gaps)
    np.testing.assert_array_equal(kept.values, one.values[values])
    assert kept.seeds == tuple(5 + seed for seed in seeds)
    np.testing.assert_array_equal(kept.accuracy, one.accuracy[np.ix_(values, seeds)])
    np.testing.assert_array_equal(kept.overall, one.overall[np.ix_(values, seeds)])
    assert left_out(gaps, kept) == told


def test_complete_is_near_the_largest_grid_and_finds_one_wherever_there_is_one():
    rng = np.random.default_rng(0)
    kept, best, one = [], [], whole(6, 4)
    for _ in range(200):
        present = rng.random((6, 4)) < rng.uniform(0.2, 1)
        sizes = [
            present[:, list(some)].all(axis=1).sum() * len(some)
            for count in range(1, 5)
            for some in combinations(range(4), count)
            if present[:, list(some)].all(axis=1).sum() >= 3
        ]
        gaps = without(one, *map(tuple, np.argwhere(~present)))
        if not sizes:
            with pytest.raises(UserError, match="expected at least"):
                complete(gaps)
            continue
        found = complete(gaps)
        assert np.isfinite(found.accuracy).all() and len(found.values) >= 3
        kept.append(found.overall.size)
        best.append(max(sizes))
    assert len(kept) > 100 and np.sum(kept) > 0.9 * np.sum(best) and np.all(np.array(kept) <= best)


def test_too_few_runs_are_told():
    one = whole(4, 3)
    with pytest.raises(UserError, match=r"over color_jitter\.hue: given 2 values, expected at least 3"):
        complete(without(one, (0, ALL), (1, ALL)))
    thin = without(one, (slice(2), 0), (slice(2, 4), 1), (slice(1, 3), 2))
    with pytest.raises(UserError, match="no seed has 3 of the 4 values; expected at least one"):
        complete(thin)


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
