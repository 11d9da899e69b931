"""Measures against accuracy over runs, beside scipy and on planted cases."""

import numpy as np
import pytest
from result_rows import rows_of
from scipy import stats

from ssljax.errors import UserError
from ssljax.study import reliability as reliability_lib
from ssljax.study.reliability import paired_measures, reliability


def planted(n, seed=0):
    """Accuracy, and measures that rise with it, fall with it, or have nothing to do with it; with ties."""
    rng = np.random.default_rng(seed)
    accuracy = np.round(rng.uniform(0.5, 0.9, n), 2)
    measures = {
        "noise": rng.normal(size=n),
        "falls": np.round(-np.exp(5 * accuracy) + rng.normal(0, 5, n), 0),
        "rises": accuracy**3 + rng.normal(0, 0.02, n),
    }
    return measures, accuracy


def test_rank_correlation_is_scipys_and_the_planted_measures_are_told_apart():
    measures, accuracy = planted(60)
    found = reliability(measures, accuracy)
    assert [one.measure for one in found] == ["rises", "falls", "noise"]
    assert [one.sign for one in found] == [1, -1, 0]
    for one in found:
        np.testing.assert_allclose(one.rho, stats.spearmanr(measures[one.measure], accuracy).statistic, rtol=1e-12)
        assert one.low < one.rho < one.high and one.n == 60
    assert found[0].sentence.startswith("rises: larger goes with more accurate (rho .9")
    assert found[1].sentence.startswith("falls: smaller goes with more accurate (rho −.")
    assert "cannot be told from chance" in found[2].sentence


def test_weighted_ranks_are_those_of_the_repeated_sample():
    rng = np.random.default_rng(3)
    x, y = np.round(rng.normal(size=(2, 25)), 1)
    times = rng.integers(0, 4, (6, 25))
    found = reliability_lib._spearman(x, y, times.astype(float))
    expected = [stats.spearmanr(np.repeat(x, t), np.repeat(y, t)).statistic for t in times]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_interval_is_scipys_percentile_bootstrap():
    measures, accuracy = planted(40, seed=4)
    for name in ("rises", "noise"):
        one = reliability({name: measures[name]}, accuracy, draws=4000)[0]
        oracle = stats.bootstrap(
            (measures[name], accuracy),
            lambda x, y: stats.spearmanr(x, y).statistic,
            paired=True,
            vectorized=False,
            n_resamples=2000,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        width = oracle.high - oracle.low
        np.testing.assert_allclose([one.low, one.high], oracle, atol=0.08 * width)


def test_blocks_widen_the_interval_where_runs_of_a_seed_go_together():
    rng = np.random.default_rng(5)
    seeds = np.repeat(np.arange(12), 10)
    accuracy = rng.normal(size=12)[seeds] + 0.01 * rng.normal(size=120)
    measure = {"m": accuracy + 1.5 * rng.normal(size=12)[seeds]}
    (runs,), (blocks,) = reliability(measure, accuracy), reliability(measure, accuracy, blocks=seeds)
    assert runs.rho == blocks.rho
    assert blocks.high - blocks.low > 2 * (runs.high - runs.low)
    # Names of blocks do not matter, and a block a run is no block.
    assert reliability(measure, accuracy, blocks=[f"seed {s:02d}" for s in seeds])[0] == blocks
    assert reliability(measure, accuracy, blocks=np.arange(120))[0] == runs


def test_missing_and_constant_measures():
    measures, accuracy = planted(30)
    measures["rises"][[3, 7]] = np.nan
    accuracy[7] = accuracy[9] = np.nan
    found = {one.measure: one for one in reliability({**measures, "flat": np.full(30, 0.1)}, accuracy)}
    kept = np.isfinite(measures["rises"]) & np.isfinite(accuracy)
    expected = stats.spearmanr(measures["rises"][kept], accuracy[kept]).statistic
    np.testing.assert_allclose(found["rises"].rho, expected, rtol=1e-12)
    assert (found["rises"].n, found["noise"].n) == (27, 28)
    flat = found["flat"]
    assert np.isnan([flat.rho, flat.low, flat.high]).all() and flat.sign == 0 and "says nothing" in flat.sentence


@pytest.mark.parametrize(
    "measures, more, part",
    [
        ({"m": [1, 2]}, {}, "given 2 runs of m and 4 accuracies"),
        ({"m": [1, 2, np.nan, np.nan]}, {}, "given 2 runs with both m and accuracy, expected at least 3"),
        ({"m": [1, 2, 3, np.inf]}, {}, "m has the shape"),
        ({"m": [1, 2, 3, 4]}, {"blocks": [5, 5, 5, 5]}, "of one block, expected at least 2"),
        ({"m": [1, 2, 3, 4]}, {"blocks": [5, 6]}, "2 blocks for 4 runs"),
        ({"m": [1, 2, 3, 4]}, {"draws": 0}, "0 draws"),
    ],
)
def test_bad_measures_are_one_line(measures, more, part):
    with pytest.raises(UserError, match=part):
        reliability(measures, [0.1, 0.2, 0.3, 0.4], **more)


def test_measures_and_accuracy_of_rows_are_paired_by_run():
    rows = []
    for hue, values in ((0.0, {5: 0.7, 6: 0.8}), (0.5, {6: 0.5, 5: 0.6})):
        rows += rows_of({"hue": hue}, {s: 1.0 for s in values}, epoch=5)  # not the last epoch
        rows += rows_of({"hue": hue}, values)
        rank = {s: 100 * v for s, v in values.items()}
        rows += rows_of({"hue": hue}, rank, evaluation="unlabelled", metric="rankme", target="")[::-1]
    rows += rows_of({"hue": 0.0}, {6: 3.0}, evaluation="unlabelled", metric="lidar", target="")
    rows += rows_of({"hue": 0.1}, {6: 9.0}, evaluation="unlabelled", metric="lidar", target="")  # no accuracy
    rows += rows_of({"method": "pixels"}, {6: 0.9}) + rows_of({}, {5: 0.0}, evaluation="knn")
    measures, accuracy, seeds = paired_measures(rows)
    np.testing.assert_array_equal(accuracy, [0.7, 0.8, 0.5, 0.6])
    np.testing.assert_array_equal(seeds, [5, 6, 6, 5])
    np.testing.assert_allclose(measures["rankme"], 100 * accuracy)
    np.testing.assert_array_equal(measures["lidar"], [np.nan, 3, np.nan, np.nan])
    assert reliability({"rankme": measures["rankme"]}, accuracy, blocks=seeds)[0].rho == pytest.approx(1)
    with pytest.raises(UserError, match="unknown evaluation 'nothing'"):
        paired_measures(rows, without_labels="nothing")
