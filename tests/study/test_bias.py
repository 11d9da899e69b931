import numpy as np
import pytest

from ssljax.errors import UserError
from ssljax.study.association import associations, opposite
from ssljax.study.bias import behave_alike, bias, opposed_pairs, pair_rows, rows, shared
from ssljax.study.curves import Curves, complete
from ssljax.study.trend import explained, trends

RISING, FALLING, FLAT = (0, 1, 2), (3, 4), tuple(range(5, 20))


def sweep(accuracy, method="simclr", classes=None, **other):
    n_values, n_seeds, n_classes = accuracy.shape
    return Curves(
        *(method, "resnet18", "cifar10", "cifar", "linear", "label", "accuracy", (), "color_jitter.hue"),
        values=np.linspace(0, 1, n_values),
        seeds=tuple(range(5, 5 + n_seeds)),
        classes=tuple(f"class {i}" for i in range(n_classes)) if classes is None else classes,
        accuracy=accuracy,
        overall=accuracy.mean(axis=2),
    )._replace(**other)


def planted(seed=0, n_seeds=5):
    """Three classes that rise, two that fall, fifteen of noise."""
    direction = np.zeros(20)
    direction[list(RISING)], direction[list(FALLING)] = 1, -1
    noise = 0.02 * np.random.default_rng(seed).normal(size=(10, n_seeds, 20))
    return 0.6 + 0.2 * np.linspace(0, 1, 10)[:, None, None] * direction + noise


@pytest.fixture(scope="module")
def found():
    return bias(sweep(planted()), draws=60)


@pytest.mark.parametrize(("n", "low", "high"), [(8, 0.94, 0.99), (10, 0.94, 0.99), (20, 0.96, 1), (50, 0.86, 0.92)])
def test_noise_gives_nearly_every_one_of_100_classes_an_opposite_partner(n, low, high):
    draws = np.random.default_rng(n).normal(size=(12, n, 100))
    share = np.mean([opposite(associations(one)).any(axis=1).mean() for one in draws])
    assert low < share < high
    few = [opposite(associations(one[:, :10])).any(axis=1).sum() for one in draws]
    assert 0 < np.mean(few) < 5 and max(few) <= 8
    corrected = [opposite(associations(one), corrected=True).any() for one in draws]
    assert np.mean(corrected) < 0.5


def test_planted_classes_rise_fall_and_oppose(found):
    assert all(found.opposite[i, j] and found.opposite[j, i] for i in RISING for j in FALLING)
    assert all(found.opposite_corrected[i, j] for i in RISING for j in FALLING)
    for group in (RISING, FALLING):
        assert not found.opposite[np.ix_(group, group)].any()
    assert not found.opposite_corrected[np.ix_(FLAT, FLAT)].any()
    assert found.trend.direction[:5] == ("ascending",) * 3 + ("descending",) * 2
    np.testing.assert_array_equal(found.explained.sign[:5], [1, 1, 1, -1, -1])
    assert (found.explained.sign[5:] == 0).mean() > 0.9


def test_each_share_stands_beside_its_chance(found):
    for mask, share in ((found.opposite, found.share), (found.opposite_corrected, found.share_corrected)):
        assert share.measured == mask.any(axis=1).mean()
    assert found.share_corrected.measured == 0.25 and found.share_corrected.p == pytest.approx(1 / 61)
    assert found.moved.measured == np.mean(found.explained.q < 0.05) and found.moved.p == pytest.approx(1 / 61)
    assert found.directed.measured == 0.25 and found.directed.p == pytest.approx(1 / 61)
    assert found.share_corrected.mean < 0.02 and found.moved.mean < 0.02 and found.directed.mean < 0.02
    assert found.drawn.shape == (60, 20)
    assert found.share.mean == pytest.approx(found.drawn.mean())
    assert 0.2 < found.share.mean < 0.9  # by the papers' rule noise has partners


def test_parts_are_those_of_the_other_modules_for_complete_curves():
    gaps = planted(seed=1)
    gaps[4] = np.nan
    gaps[2, 3] = np.nan
    one = sweep(gaps)
    found = bias(one, of="mean", draws=3)
    whole = complete(one)
    assert found.points == "mean" and found.curves.seeds == (5, 6, 7, 8, 9) and len(found.curves.values) == 8
    expected = associations(np.round(whole.accuracy.mean(axis=1), 12))
    for name, association in expected.items():
        np.testing.assert_allclose(found.found[name].coefficient, association.coefficient)
    np.testing.assert_array_equal(found.opposite, opposite(expected))
    np.testing.assert_array_equal(found.trend.p, trends(whole, "mean").p)
    np.testing.assert_array_equal(found.explained.q, explained(whole).q)


def test_pairs_come_most_opposed_first(found):
    pairs = opposed_pairs(found)
    assert len(pairs) == found.opposite.sum() / 2
    names = found.curves.classes
    assert {frozenset(pair[:2]) for pair in pairs[:6]} == {
        frozenset((names[i], names[j])) for i in RISING for j in FALLING
    }
    lowest = [pair[2] for pair in pairs]
    assert lowest == sorted(lowest)
    for first, second, coefficient, p in pairs:
        at = names.index(first), names.index(second)
        both = [(a.coefficient[at], a.p[at]) for a in found.found.values() if a.p[at] < 0.05]
        assert (coefficient, p) == min(both)


def test_same_seed_same_draws(found):
    again = bias(sweep(planted()), draws=60)
    assert (again.share, again.share_corrected, again.moved) == (found.share, found.share_corrected, found.moved)
    assert bias(sweep(planted()), draws=60, seed=1).share.mean != found.share.mean


def test_one_seed_says_nothing_of_the_value():
    one = bias(sweep(planted(n_seeds=1)), draws=5)
    assert np.isnan(one.moved).all() and np.isnan(one.directed).all()
    assert one.opposite[0, 3] and one.share.measured > 0


def test_classes_that_bend_move_in_no_direction():
    arch = 0.1 - 0.4 * (np.linspace(0, 1, 10) - 0.5) ** 2
    one = bias(sweep(0.6 + arch[:, None, None] + 0.01 * np.random.default_rng(3).normal(size=(10, 5, 6))), draws=40)
    assert (one.moved.measured, one.directed.measured) == (1, 0)
    assert one.moved.p == pytest.approx(1 / 41) and one.directed.p == 1
    assert [row["bend"] for row in rows([one])] == [True] * 6 and {row["sign"] for row in rows([one])} == {0}


def test_there_is_no_bias_between_fewer_than_two_classes():
    assert shared([]) == rows([]) == pair_rows([]) == []
    with pytest.raises(UserError, match=r"over color_jitter\.hue: given 1 class, expected at least 2"):
        bias(sweep(planted()[..., :1]), draws=2)
    assert len(pair_rows([bias(sweep(planted()[..., :2]), draws=2)])) == 1


def marked(found, method, partnered, drawn, **other):
    """A bias in which just these classes have a partner, and these of each draw."""
    opposed = np.zeros((20, 20), bool)
    opposed[list(partnered), 19] = True
    draws = np.zeros((2, 20), bool)
    for i, some in enumerate(drawn):
        draws[i, list(some)] = True
    return found._replace(curves=found.curves._replace(method=method, **other), opposite=opposed, drawn=draws)


def test_classes_shared_by_methods(found):
    group = [
        marked(found, "simclr", [0, 1, 2, 3], [[0], [0, 1]]),
        marked(found, "vicreg", [0, 1, 2], [[0], [0, 1]]),
        marked(found, "byol", [0, 1], [[1], [0]]),
        marked(found, "mocov2plus", [0, 5], [[], []]),
    ]
    elsewhere = marked(found, "simclr", [7], [[], []], dataset="cifar100")
    (row,) = shared([*group, elsewhere])
    assert (row.dataset, row.backbone, row.swept, row.points) == ("cifar10", "resnet18", "color_jitter.hue", "runs")
    assert row.methods == ("simclr", "vicreg", "byol", "mocov2plus") and row.classes == 20
    assert {k: one.measured for k, one in row.at_least.items()} == {4: 1, 3: 2, 2: 3}
    # first draw: class 0 in two; second: class 0 in three, class 1 in two
    assert row.at_least[2].mean == 1.5 and row.at_least[3].mean == 0.5 and row.at_least[4].mean == 0
    assert [row.at_least[k].p for k in (4, 3, 2)] == [1 / 3, 1 / 3, 1 / 3]


def test_shared_classes_are_matched_by_name_and_sets(found):
    turned = tuple(reversed(found.curves.classes))
    pair = [marked(found, "simclr", [0], [[], []]), marked(found, "vicreg", [19], [[], []], classes=turned)]
    (row,) = shared(pair)
    assert row.at_least.keys() == {2} and row.at_least[2].measured == 1
    other = [each._replace(curves=each.curves._replace(transforms="cells")) for each in pair]
    assert [(row.part, row.at_least[2].measured) for row in shared([*pair, *other])] == [("cifar", 1), ("cells", 1)]
    longer = [each._replace(curves=each.curves._replace(variant="epoch 200")) for each in pair]
    assert [row.part for row in shared([*pair, *longer])] == ["cifar", "cifar, epoch 200"]
    assert [row.part for row in shared([pair[0], longer[1]])] == [""]
    with pytest.raises(UserError, match=r"shared: given linear accuracy of simclr .* twice"):
        shared([*pair, pair[0]])
    with pytest.raises(UserError, match="different numbers of draws"):
        shared([pair[0], pair[1]._replace(drawn=np.zeros((3, 20), bool))])


def test_classes_that_behave_alike(found):
    first = sweep(planted()[..., :4], classes=("a", "b", "c", "d"))
    second = sweep(planted(seed=2)[..., [5, 1, 0, 4]], "simclr", ("a", "b", "e", "d"), evaluation="finetune")
    one, other = (bias(each, draws=2) for each in (first, second))
    one = one._replace(trend=one.trend._replace(direction=("ascending", "ascending", "random", "descending")))
    other = other._replace(trend=other.trend._replace(direction=("random", "ascending", "ascending", "descending")))
    # of a, b, d: 2 ascending and 1 descending beside 1 of each
    assert behave_alike(one, other) == pytest.approx((2 / 3, 2 / 3 * 1 / 3 + 1 / 3 * 1 / 3, 3))
    with pytest.raises(UserError, match=r"linear accuracy .* and linear accuracy .* have no class in common"):
        behave_alike(one, found)


def test_rows_of_the_tables(found):
    table = rows([found])
    assert len(table) == 20
    third = table[3]
    assert (third["class"], third["method"], third["swept"], third["values"], third["seeds"], third["points"]) == (
        *("class 3", "simclr", "color_jitter.hue", 10, 5, "runs"),
    )
    assert (third["direction"], third["sign"]) == ("descending", -1)
    assert third["slope"] == pytest.approx(-0.2, abs=0.02) and third["accuracy"] == pytest.approx(0.5, abs=0.01)
    assert third["opposite_corrected"] == 3 and third["opposite"] == found.opposite[3].sum()

    pairs = pair_rows([found])
    assert len(pairs) == 190
    (pair,) = [row for row in pairs if (row["class"], row["other"]) == ("class 0", "class 4")]
    assert pair["opposite"] and pair["opposite_corrected"] and pair["pearson"] < -0.8
    for name, association in found.found.items():
        assert (pair[name], pair[f"{name}_p"]) == (association.coefficient[0, 4], association.p[0, 4])
        assert pair[f"{name}_p"] <= pair[f"{name}_q"] < 0.05
