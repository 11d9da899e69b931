import numpy as np
import pytest

from ssljax.errors import UserError
from ssljax.study.bias import bias
from ssljax.study.chance import UNTESTED, Chance, compared, drawn, generator, permuted
from ssljax.study.curves import Curves, points


def sweep(accuracy, method="simclr"):
    n_values, n_seeds, n_classes = accuracy.shape
    return Curves(
        *(method, "resnet18", "cifar10", "cifar", "linear", "label", "accuracy", (), "color_jitter.hue"),
        values=np.linspace(0, 0.5, n_values),
        seeds=tuple(range(5, 5 + n_seeds)),
        classes=tuple(f"class {i}" for i in range(n_classes)),
        accuracy=accuracy,
        overall=accuracy.mean(axis=2),
    )


def lowest(curves):
    return -float(np.corrcoef(points(curves, "runs"), rowvar=False).min())


def chance(curves, draws, seed=0):
    return compared(lowest(curves), drawn(curves, lowest, draws, seed))


def test_a_permutation_stays_within_its_seed_and_class_and_is_its_own():
    accuracy = np.arange(6 * 3 * 4, dtype=float).reshape(6, 3, 4)
    one = sweep(accuracy)
    drawn = permuted(one, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(drawn.accuracy, axis=0), accuracy)
    orders = {tuple(np.argsort(drawn.accuracy[:, s, c])) for s in range(3) for c in range(4)}
    assert len(orders) >= 11  # 12 orders of 720
    np.testing.assert_array_equal(one.accuracy, np.arange(72.0).reshape(6, 3, 4))  # the given curves stay
    assert drawn._replace(accuracy=accuracy)[:9] == one[:9]


def test_every_order_is_as_likely():
    one = sweep(np.arange(3.0).reshape(3, 1, 1) * np.ones((3, 1, 6000)))
    drawn = permuted(one, np.random.default_rng(1)).accuracy[:, 0].T
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 6 and np.sum((counts - 1000) ** 2 / 1000) < 20.5  # chi-square, 5 df: p = .001


def test_summary_of_the_draws():
    found = compared(3, np.arange(5.0))
    assert found == Chance(3, 2, 0.1, 3.9, 3 / 6)  # two of five reach it
    assert compared(4.5, np.arange(5.0)).p == 1 / 6
    assert np.isnan(UNTESTED).all()
    assert compared(0.1 + 0.2, [0.3]).p == 1  # equal but for rounding
    with pytest.raises(UserError, match="chance: given 0 draws, expected at least 1"):
        compared(1, [])


def test_draws_are_those_of_the_seed_and_the_sweep():
    rng = np.random.default_rng(2)
    one = sweep(rng.normal(size=(5, 2, 6)))
    assert drawn(one, lowest, draws=20) == drawn(one, lowest, draws=20)
    assert drawn(one, lowest, draws=20) != drawn(one, lowest, draws=20, seed=1)
    rng = generator(one, 3)
    assert drawn(one, lowest, draws=3, seed=3) == [lowest(permuted(one, rng)) for _ in range(3)]
    other = one._replace(method="vicreg")
    assert generator(one, 0).integers(2**60) != generator(other, 0).integers(2**60)


def test_false_positives_of_the_baseline_on_pure_noise():
    rng = np.random.default_rng(3)
    trials, draws = 600, 19  # p <= .05 is to be above all 19: a chance of exactly 1 in 20
    levels = 5 * rng.normal(size=(trials, 1, 3, 1)) + rng.normal(size=(trials, 1, 1, 6))
    p = [chance(sweep(a), draws).p for a in rng.normal(size=(trials, 5, 3, 6)) + levels]
    error = np.sqrt(0.05 * 0.95 / trials)
    assert abs(np.mean(np.array(p) <= 0.05) - 0.05) < 3 * error
    assert abs(np.mean(p) - (draws + 2) / (2 * (draws + 1))) < 3 * np.sqrt(1 / 12 / trials)


def test_false_positives_of_the_bias_on_pure_noise():
    rng = np.random.default_rng(4)
    trials = 150
    found = [bias(sweep(a), draws=19) for a in rng.normal(size=(trials, 6, 2, 8))]
    for name in ("share", "share_corrected", "moved", "directed"):
        p = np.array([getattr(one, name).p for one in found])
        # shares tie, which makes the test err to the safe side only
        assert np.mean(p <= 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials), name
    p = [one.share.p for one in found]
    assert min(p) < 0.2 and np.mean(p) < 0.8


def test_planted_opposition_is_above_chance():
    rng = np.random.default_rng(5)
    direction = np.array([1, -1] * 5)
    accuracy = np.linspace(0, 1, 10)[:, None, None] * direction + 0.2 * rng.normal(size=(10, 3, 10))
    found = bias(sweep(accuracy), draws=99).share
    assert found.measured == 1 and found.p == 0.01 and found.low <= found.mean <= found.high < 1
