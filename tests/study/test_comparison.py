"""Two settings paired over seeds, beside scipy and on planted cases."""

import itertools
import math

import numpy as np
import pytest
from result_rows import rows_of
from scipy import stats

from ssljax.errors import UserError
from ssljax.study import comparison
from ssljax.study.comparison import compare


def two(a, b):
    """Rows of two settings, hue 0 and .5, with these values by seed from 5 on."""
    return rows_of({"hue": 0.0}, dict(enumerate(a, 5))) + rows_of({"hue": 0.5}, dict(enumerate(b, 5)))


@pytest.mark.parametrize("n", [2, 5, 9])
def test_interval_effect_and_p_are_scipys(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.8, 0.05, n), rng.normal(0.77, 0.05, n)
    found = compare(two(a, b), {"hue": 0}, {"hue": 0.5})
    assert (found.seeds, found.exact, found.measure) == (tuple(range(5, 5 + n)), True, "linear top1")
    np.testing.assert_allclose(found.differences, a - b, rtol=1e-12)
    oracle = stats.ttest_rel(a, b)
    interval = oracle.confidence_interval(0.95)
    np.testing.assert_allclose([found.mean, found.low, found.high], [(a - b).mean(), *interval], rtol=1e-10)
    np.testing.assert_allclose(found.effect, oracle.statistic / np.sqrt(n), rtol=1e-10)
    flips = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=np.inf)
    np.testing.assert_allclose(found.p, flips.pvalue, rtol=1e-12)
    other = compare(two(a, b), {"hue": 0.5}, {"hue": 0})
    np.testing.assert_allclose([other.mean, other.low, other.high], [-found.mean, -found.high, -found.low], rtol=1e-12)
    assert other.p == found.p


def test_equal_sums_of_flips_count_in_spite_of_rounding():
    differences = [0.1, 0.2, 0.3]  # -.1 -.2 +.3 is 0 but for rounding, and so is the observed sum below
    sums = [abs(sum(s * d for s, d in zip(signs, (1, 2, -3)))) for signs in itertools.product((-1, 1), repeat=3)]
    found = compare(two([0.1, 0.2, 0.0], [0.0, 0.0, 0.3]), {"hue": 0}, {"hue": 0.5})
    assert found.p == np.mean([s >= 0 for s in sums]) == 1
    found = compare(two(differences, [0, 0, 0]), {"hue": 0}, {"hue": 0.5})
    assert found.p == 2 / 8
    assert "p = .2500, the smallest that 3 seeds can give" in found.sentence


def test_many_seeds_are_sampled_and_near_the_exact_p(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.52, 0.1, 16), rng.normal(0.5, 0.1, 16)
    exact = compare(two(a, b), {"hue": 0}, {"hue": 0.5})
    monkeypatch.setattr(comparison, "EXACT_SEEDS", 15)
    sampled = compare(two(a, b), {"hue": 0}, {"hue": 0.5})
    assert exact.exact and not sampled.exact
    assert 0.05 < exact.p < 0.95
    assert sampled.p == pytest.approx(exact.p, abs=0.008)  # five standard errors
    assert compare(two(a + 5, b), {"hue": 0}, {"hue": 0.5}).p <= 20 / 100_000  # 2 of 65,536 flips


def test_under_no_difference_p_is_uniform():
    rng = np.random.default_rng(1)
    p = [compare(two(*rng.normal(size=(2, 6))), {"hue": 0}, {"hue": 0.5}).p for _ in range(400)]
    for bound in (1 / 32, 0.25, 0.5):  # an exact test has this size at multiples of 2 / 2^6
        assert np.mean(np.array(p) <= bound) == pytest.approx(bound, abs=4 * np.sqrt(bound / 400))


def test_the_sentence_says_what_was_found():
    clear = compare(two([0.9] * 6, [0.8, 0.81, 0.79, 0.8, 0.8, 0.8]), {"hue": 0}, {"hue": 0.5}).sentence
    assert clear.startswith("linear top1 is .100 higher for hue 0 than for hue 0.5, in the mean over 6 seeds")
    assert "tell" not in clear and "p = .0312, the smallest that 6 seeds can give" in clear
    unclear = compare(two([0.7, 0.9, 0.8], [0.8, 0.8, 0.85]), {"hue": 0}, {"hue": 0.5})
    assert unclear.low < 0 < unclear.high
    assert ".017 lower for hue 0 than" in unclear.sentence and "do not tell the two apart" in unclear.sentence
    equal = compare(two([0.7, 0.9], [0.7, 0.9]), {"hue": 0}, {"hue": 0.5})
    assert (equal.mean, equal.low, equal.high, equal.p) == (0, 0, 0, 1) and math.isnan(equal.effect)
    assert "is the same for hue 0 as for hue 0.5" in equal.sentence


def test_one_seed_has_no_interval():
    found = compare(two([0.7], [0.9]), {"hue": 0}, {"hue": 0.5})
    assert found.mean == pytest.approx(-0.2) and found.p == 1
    assert np.isnan([found.low, found.high, found.effect]).all()
    assert found.sentence == (
        "linear top1 is .200 lower for hue 0 than for hue 0.5, by seed 5 alone: one seed gives no interval, and nothing tells "
        "this from chance."
    )


def test_seeds_of_one_side_are_left_out_and_named():
    rows = rows_of({"hue": 0.0}, {5: 0.7, 6: 0.8, 9: 0.1, 8: math.nan}) + rows_of(
        {"hue": 0.5}, {8: 0.2, 6: 0.7, 5: 0.65}
    )
    found = compare(rows, {"hue": 0}, {"hue": 0.5})
    assert (found.seeds, found.only_a, found.only_b) == ((5, 6), (9,), (8,))
    np.testing.assert_allclose(found.differences, [0.05, 0.1])
    assert found.sentence.endswith("Left out: seed 9, which only hue 0 has. Left out: seed 8, which only hue 0.5 has.")


def test_the_last_epoch_counts_unless_one_is_named():
    rows = rows_of({"hue": 0.0}, {5: 0.1}, epoch=10) + rows_of({"hue": 0.0}, {5: 0.6}, epoch=20)
    rows += rows_of({"hue": 0.5}, {5: 0.2}, epoch=10) + rows_of({"hue": 0.5}, {5: 0.3}, epoch=20)
    assert compare(rows, {"hue": 0}, {"hue": 0.5}).mean == pytest.approx(0.3)
    assert compare(rows, {"hue": 0, "epoch": 10}, {"hue": 0.5, "epoch": 10}).mean == pytest.approx(-0.1)
    assert compare(rows, {"hue": 0, "epoch": 20}, {"hue": 0, "epoch": 10}).mean == pytest.approx(0.5)


def test_other_measures_targets_and_programs_can_be_compared():
    rows = two([0.7], [0.9])
    for program, value in (("wide", 0.8), ("narrow", 0.5)):
        rows += rows_of({}, {5: value}, evaluation="kmeans", metric="ami", target="plate", program=program)
    found = compare(rows, {"program": "wide"}, {"program": "narrow"}, evaluation="kmeans", metric="ami", target="plate")
    assert found.measure == "kmeans plate ami" and found.mean == pytest.approx(0.3)


@pytest.mark.parametrize(
    "a, b, part",
    [
        ({"hue": 0.1}, {"hue": 0.5}, "a: no run has hue 0.1; there are 0.0, 0.5"),
        ({"hue": 0}, {"hu": 0.5}, "b: unknown column 'hu'; did you mean 'hue'"),
        ({"value": 0.7}, {"hue": 0.5}, "unknown column 'value'"),
        ({"method": "simclr"}, {"hue": 0.5}, "both of seed 5; expected one run a seed: say which .hue 0.0 and 0.5."),
        ({}, {"hue": 0.5}, "a: given no column"),
    ],
)
def test_a_setting_that_fits_nothing_or_too_much(a, b, part):
    with pytest.raises(UserError, match=part) as error:
        compare(two([0.7, 0.8], [0.9, 0.9]), a, b)
    assert "\n" not in str(error.value)


def test_nothing_to_pair():
    rows = rows_of({"hue": 0.0}, {5: 0.1}) + rows_of({"hue": 0.5}, {6: 0.1})
    with pytest.raises(UserError, match=r"hue 0 has seeds 5, hue 0.5 6; expected a seed in common"):
        compare(rows, {"hue": 0}, {"hue": 0.5})
    with pytest.raises(UserError, match="unknown measure 'knn label top1'"):
        compare(rows, {"hue": 0}, {"hue": 0.5}, evaluation="knn")
    with pytest.raises(UserError, match="has no seed to be paired by"):
        compare(rows_of({"hue": 0.0}, {None: 0.1}) + rows, {"hue": 0}, {"hue": 0.5})


def test_it_stands_in_the_study_itself():
    from ssljax import study

    assert study.compare is compare
    with pytest.raises(AttributeError, match="no attribute 'compared'"):
        study.compared  # noqa: B018
