import numpy as np
import pytest
from scipy import stats

from ssljax.study.curves import Curves
from ssljax.study.trend import explained, trends


def sweep(accuracy, values=None):
    n_values, n_seeds, n_classes = accuracy.shape
    return Curves(
        *("simclr", "resnet18", "cifar10", "cifar", "linear", "label", "accuracy", (), "color_jitter.hue"),
        values=np.linspace(0, 0.5, n_values) if values is None else np.asarray(values, float),
        seeds=tuple(range(5, 5 + n_seeds)),
        classes=tuple(f"class {i}" for i in range(n_classes)),
        accuracy=accuracy,
        overall=accuracy.mean(axis=2),
    )


def noise(n_values, n_seeds, n_classes, seed, deviation=0.02):
    rng = np.random.default_rng(seed)
    return 0.6 + deviation * rng.normal(size=(n_values, n_seeds, n_classes))


@pytest.mark.parametrize("of", ["runs", "mean"])
def test_slope_and_p_value_are_scipys(of):
    values = [0, 0.1, 0.15, 0.4, 0.5]  # unevenly spaced
    one = sweep(noise(5, 3, 6, seed=0) + np.outer(values, np.linspace(-0.2, 0.2, 6))[:, None], values)
    found = trends(one, of)
    for i in range(6):
        y = one.accuracy[..., i]
        fit = stats.linregress(np.repeat(values, 3), y.ravel()) if of == "runs" else stats.linregress(values, y.mean(1))
        np.testing.assert_allclose([found.slope[i], found.p[i]], [fit.slope, fit.pvalue], rtol=1e-9)


def test_directions_of_planted_classes():
    values = np.linspace(0, 1, 8)
    bend = (values - 0.5) ** 2  # moves with the value, but neither up nor down
    shapes = np.stack([0.3 * values, -0.3 * values, bend, np.zeros(8)], axis=1)
    one = sweep(noise(8, 5, 4, seed=1, deviation=0.01) + shapes[:, None], values)
    found = trends(one)
    assert found.direction == ("ascending", "descending", "random", "random")
    np.testing.assert_allclose(found.slope[:2], [0.3, -0.3], atol=0.02)
    assert trends(one, alpha=0).direction == ("random",) * 4


def test_a_constant_class_has_no_trend_and_nothing_explained():
    accuracy = noise(6, 3, 2, seed=2)
    accuracy[..., 1] = 0.1 + 0.2
    fit, test = trends(sweep(accuracy)), explained(sweep(accuracy))
    assert (fit.slope[1], fit.p[1], fit.direction[1]) == (0, 1, "random")
    assert np.isnan([test.share[1], test.f[1]]).all() and (test.p[1], test.q[1], test.sign[1]) == (1, 1, 0)
    assert (test.linear_p[1], test.linear_q[1], test.bend[1]) == (1, 1, False)
    assert np.isfinite([test.share[0], test.f[0]]).all()


def test_f_test_is_that_of_nested_least_squares_fits():
    levels = 0.1 * np.random.default_rng(3).normal(size=(4, 1))
    one = sweep(noise(6, 4, 5, seed=4) + levels + np.linspace(0, 0.05, 6)[:, None, None])
    found = explained(one)
    by_seed = np.tile(np.eye(4), (6, 1))
    by_both = np.hstack([by_seed, np.repeat(np.eye(6), 4, axis=0)[:, 1:]])

    def residual(design, y):
        return np.sum((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2)

    for i in range(5):
        y = one.accuracy[..., i].ravel()
        between, error = residual(by_seed, y) - residual(by_both, y), residual(by_both, y)
        f = (between / 5) / (error / 15)
        np.testing.assert_allclose(found.f[i], f, rtol=1e-9)
        np.testing.assert_allclose(found.p[i], stats.f.sf(f, 5, 15), rtol=1e-8)
        np.testing.assert_allclose(found.share[i], between / np.sum((y - y.mean()) ** 2), rtol=1e-9)
    np.testing.assert_allclose(found.q, stats.false_discovery_control(found.p))


def test_the_linear_part_is_the_f_test_of_a_nested_least_squares_fit():
    """Seeds; seeds and a line; seeds and values: the line's sum of squares against the residual of the last."""
    values = [0, 0.1, 0.15, 0.4, 0.9]  # unevenly spaced
    levels = 0.1 * np.random.default_rng(10).normal(size=(4, 1))
    one = sweep(noise(5, 4, 6, seed=11) + levels + np.outer(values, np.linspace(-0.05, 0.05, 6))[:, None], values)
    found = explained(one)
    by_seed = np.tile(np.eye(4), (5, 1))
    by_line = np.hstack([by_seed, np.repeat(values, 4)[:, None]])
    by_both = np.hstack([by_seed, np.repeat(np.eye(5), 4, axis=0)[:, 1:]])

    def residual(design, y):
        return np.sum((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2)

    for i in range(6):
        y = one.accuracy[..., i].ravel()
        f = (residual(by_seed, y) - residual(by_line, y)) / (residual(by_both, y) / 12)
        np.testing.assert_allclose(found.linear_p[i], stats.f.sf(f, 1, 12), rtol=1e-7)
    np.testing.assert_allclose(found.linear_q, stats.false_discovery_control(found.linear_p))
    slope = trends(one).slope
    np.testing.assert_array_equal(found.sign, np.where(found.linear_q < 0.05, np.sign(slope), 0))
    assert 0 < np.count_nonzero(found.sign) < 6


def test_a_class_that_turns_back_has_no_sign():
    values = np.linspace(0, 1, 9)
    arch = 0.4 * (0.25 - (values - 0.5) ** 2)  # an inverted U
    hook = 0.1 * np.exp(-((values - 0.3) ** 2) / 0.05) + 0.15 * values  # turns back, and rises on the whole
    shapes = np.stack([arch, -arch, 0.1 * values, -0.1 * values, 0.1 * np.sqrt(values), hook, 0 * values], axis=1)
    found = explained(sweep(noise(9, 4, 7, seed=12, deviation=0.01) + shapes[:, None], values))
    np.testing.assert_array_equal(found.sign, [0, 0, 1, -1, 1, 1, 0])
    np.testing.assert_array_equal(found.bend, [True, True, False, False, False, False, False])
    assert (found.q[:6] < 0.05).all()


def test_one_way_f_test_where_seeds_do_not_matter():
    one = sweep(noise(5, 4, 3, seed=5))
    accuracy = one.accuracy - one.accuracy.mean(axis=0) + 0.6  # every seed has the same level
    found = explained(one._replace(accuracy=accuracy))
    for i in range(3):
        # the blocks take S - 1 degrees of freedom and no variance
        one_way = stats.f_oneway(*accuracy[..., i]).statistic
        np.testing.assert_allclose(found.f[i], one_way * 12 / 15, rtol=1e-9)


@pytest.mark.parametrize("shape", [(8, 3), (10, 5), (3, 2)])
def test_pure_noise_is_called_an_effect_as_often_as_it_says(shape):
    classes = 8000
    levels = np.random.default_rng(6).normal(size=(shape[1], classes))  # 50 times the noise: the blocks must take them
    found = explained(sweep(noise(*shape, classes, seed=7) + levels))
    error = np.sqrt(0.05 * 0.95 / classes)
    assert abs(np.mean(found.p < 0.05) - 0.05) < 3 * error
    assert stats.kstest(found.p, "uniform").pvalue > 0.001
    assert np.mean(found.q < 0.05) < 0.001
    assert abs(np.mean(found.linear_p < 0.05) - 0.05) < 3 * error
    assert stats.kstest(found.linear_p, "uniform").pvalue > 0.001
    assert np.mean(found.sign != 0) < 0.001 and np.mean(found.bend) < 0.001


def test_signs_of_planted_classes():
    values = np.linspace(0, 1, 10)
    direction = np.repeat([1, -1, 0], [10, 10, 60])
    one = sweep(noise(10, 5, 80, seed=8) + 0.08 * np.outer(values, direction)[:, None], values)
    found = explained(one)
    assert np.mean(found.sign[:20] == direction[:20]) > 0.9
    assert np.mean(found.sign[20:] != 0) < 0.05
    # eta squared: the planted variance over itself and the noise's, of which the value's means keep a part
    planted, residual = 0.08**2 * values.var(), 0.02**2
    expected = (planted + residual * 9 / 50) / (planted + residual * 49 / 50)
    np.testing.assert_allclose(found.share[:20].mean(), expected, atol=0.03)


def test_one_seed_gives_no_test():
    found = explained(sweep(noise(8, 1, 3, seed=9) + np.linspace(0, 1, 8)[:, None, None]))
    assert np.isnan(found.share).all() and np.isnan(found.f).all()
    assert (found.p == 1).all() and (found.q == 1).all() and (found.sign == 0).all()
    assert (found.linear_p == 1).all() and (found.linear_q == 1).all() and not found.bend.any()


def test_no_error_at_all_and_no_effect_at_all():
    by_value, by_seed = np.array([0.1, 0.7, 0.3, 0.2]), np.array([0.1, 0.3, 0.2])
    accuracy = np.stack([by_value[:, None] + by_seed, np.zeros((4, 1)) + by_seed], axis=2)
    found = explained(sweep(accuracy))
    assert found.f[0] == np.inf and found.p[0] == 0
    np.testing.assert_allclose(found.share[0], by_value.var() / (by_value.var() + by_seed.var()))
    assert found.share[1] == 0 and found.p[1] == 1
    assert found.linear_p.tolist() == [0, 1] and found.bend.tolist() == [False, False]
