import numpy as np
import pytest
from scipy import stats

from ssljax.errors import UserError
from ssljax.study.association import MEASURES, adjusted, associations, opposite

SCIPY = {"pearson": stats.pearsonr, "kendall": stats.kendalltau, "spearman": stats.spearmanr}


def correlated(n, classes, seed, digits=None):
    """Columns with a common part, so that coefficients of both signs and sizes come up; few digits give ties."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, classes)) + np.linspace(-2, 2, classes) * rng.normal(size=(n, 1))
    return x if digits is None else np.round(x, digits)


# 33 is the last size with an exact p-value; one digit ties few points, none ties nearly all of them
@pytest.mark.parametrize("digits", [None, 1, 0])
@pytest.mark.parametrize("n", [3, 4, 8, 33, 34, 50])
def test_coefficients_and_p_values_are_scipys(n, digits):
    x = correlated(n, 5, seed=n, digits=digits)
    x[0] += 0.5  # with n = 3 a rounded column could be constant, which scipy warns of
    found = associations(x)
    assert tuple(found) == MEASURES
    for name, one in found.items():
        for i in range(5):
            assert (one.coefficient[i, i], one.p[i, i]) == (1, 0)
            for j in range(i):
                expected = SCIPY[name](x[:, i], x[:, j])
                # n = 3: p is like the root of 1 - r^2, which takes rounding to its root
                atol = 1e-7 if n == 3 else 1e-10
                for at in ((i, j), (j, i)):
                    np.testing.assert_allclose(one.coefficient[at], expected.statistic, rtol=0, atol=1e-10)
                    np.testing.assert_allclose(one.p[at], expected.pvalue, rtol=0, atol=atol)


@pytest.mark.parametrize("n", [5, 8, 33])
def test_exact_kendall_is_used_without_ties_and_the_normal_one_with_them(n):
    x = correlated(n, 4, seed=1)
    tied = x.copy()
    tied[1] = tied[0]
    for points, method in ((x, "exact"), (tied, "asymptotic")):
        p = associations(points)["kendall"].p
        expected = stats.kendalltau(points[:, 0], points[:, 3], method=method).pvalue
        np.testing.assert_allclose(p[0, 3], expected, rtol=1e-10)
    other = stats.kendalltau(x[:, 0], x[:, 3], method="asymptotic").pvalue
    assert abs(associations(x)["kendall"].p[0, 3] / other - 1) > 1e-2


def test_a_class_without_variance_has_no_coefficient_and_is_opposite_to_none():
    x = correlated(8, 3, seed=2)
    x[:, 1] = 0.1 + 0.2  # no round number: the mean of equal numbers need not be that number
    for one in associations(x).values():
        assert np.isnan(one.coefficient[1, [0, 2]]).all() and (one.p[1, [0, 2]] == 1).all()
        assert np.isnan(one.coefficient[[0, 2], 1]).all() and (one.p[[0, 2], 1] == 1).all()
        assert np.isfinite(one.coefficient[0, 2]) and (np.diag(one.coefficient) == 1).all()
    found = associations(x)
    assert not opposite(found)[1].any() and not opposite(found, corrected=True)[1].any()


def test_leading_axes_are_separate_cases():
    stack = np.stack([correlated(9, 4, seed, digits=1) for seed in range(3)])
    whole = associations(stack)
    for k, points in enumerate(stack):
        for name, one in associations(points).items():
            np.testing.assert_allclose(whole[name].coefficient[k], one.coefficient, rtol=0, atol=1e-14)
            np.testing.assert_allclose(whole[name].p[k], one.p, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(
            opposite(whole, corrected=True)[k], opposite(associations(points), corrected=True)
        )


def test_adjustment_counts_each_pair_once():
    p = associations(correlated(10, 6, seed=3))["pearson"].p
    pairs = [(i, j) for i in range(6) for j in range(i)]
    # Benjamini and Hochberg 1995: the least of m p_(k) / k over the k-th smallest and all larger ones
    raw = np.array([p[i, j] for i, j in pairs])
    order = np.argsort(raw)
    stepped = len(raw) * raw[order] / np.arange(1, len(raw) + 1)
    expected = np.empty_like(raw)
    expected[order] = np.minimum(1, np.minimum.accumulate(stepped[::-1])[::-1])
    q = adjusted(p)
    for (i, j), value in zip(pairs, expected):
        np.testing.assert_allclose([q[i, j], q[j, i]], value, rtol=1e-12)
    assert (np.diag(q) == 0).all()


def test_opposite_pairs_are_those_of_scipys_figures_by_the_rule_of_the_paper():
    x = correlated(20, 8, seed=4)
    marked = opposite(associations(x))
    for i in range(8):
        for j in range(8):
            tests = [measure(x[:, i], x[:, j]) for measure in SCIPY.values()]
            assert marked[i, j] == any(t.statistic < -0.3 and t.pvalue < 0.05 for t in tests)
    assert (
        marked[0, 7] and not marked[0, 1]
    )  # planted: the first and last column have the common part with opposite signs


def test_the_bound_of_minus_three_tenths_bites_only_with_many_points():
    rng = np.random.default_rng(5)
    x = rng.normal(size=1000)
    y = -0.2 * x + rng.normal(size=1000)  # far below p = .05, and not below -.3
    found = associations(np.stack([x, y], axis=1))
    assert found["pearson"].p[0, 1] < 1e-5
    assert not opposite(found)[0, 1] and opposite(found, below=-0.1)[0, 1]


@pytest.mark.parametrize("points", [np.ones((2, 3)), np.ones(3), np.array([[1.0, 2], [3, 4], [np.nan, 1]])])
def test_points_that_cannot_be_used_are_refused(points):
    with pytest.raises(UserError, match=r"associations: given points of shape .* expected finite ones"):
        associations(points)
