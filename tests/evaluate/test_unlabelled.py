"""Measures without labels against their formulas written out in float64, planted spectra and planted collapses."""

import numpy as np
import pytest
from scipy import linalg
from scipy.spatial.distance import pdist

from ssljax.errors import UserError
from ssljax.evaluate import unlabelled
from ssljax.evaluate.unlabelled import alignment, alpha_req, collapse, lidar, linear_cka, rankme, uniformity

ALL = {
    "rankme": rankme,
    "lidar": lidar,
    "alpha_req": lambda x: alpha_req(x).alpha,
    "alignment": lambda x: alignment(x, x),
    "uniformity": uniformity,
    "collapse": collapse,
    "linear_cka": lambda x: linear_cka(x, x),
}


def with_spectrum(singular, n, seed=0, centred=False):
    """A matrix [n, d] with these singular values and otherwise random directions; `centred`: and columns of mean zero."""
    rng = np.random.default_rng(seed)
    d = len(singular)
    basis = rng.normal(size=(n, d))
    left = linalg.qr(basis - basis.mean(axis=0) if centred else basis, mode="economic")[0]
    return (left * singular) @ linalg.qr(rng.normal(size=(d, d)))[0]


def effective_rank(weights):
    """exp of the entropy, from the equation with loops."""
    p = [w / sum(weights) for w in weights]
    return np.exp(-sum(one * np.log(one) for one in p if one > 0))


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_rankme_of_planted_spectra(scale):
    harmonic = 1 / np.arange(1, 65)
    # H(p) of p_i = 1 / (i h): log h + sum log(i) / (i h), h the 64th harmonic number
    h = harmonic.sum()
    expected = h * np.exp((np.log(np.arange(1, 65)) * harmonic).sum() / h)
    assert expected == pytest.approx(29.118, abs=1e-3)
    np.testing.assert_allclose(rankme(scale * with_spectrum(harmonic, 200)), expected, rtol=1e-4)
    np.testing.assert_allclose(rankme(scale * with_spectrum(np.ones(64), 200)), 64, rtol=1e-4)
    np.testing.assert_allclose(rankme(scale * with_spectrum([1, 1, 1, 0, 0, 0], 50)), 3, rtol=1e-4)


def test_rankme_takes_raw_features():
    x = np.random.default_rng(0).normal(size=(300, 20))
    s = np.sqrt(linalg.eigvalsh((x + 3).T @ (x + 3)))
    np.testing.assert_allclose(rankme(x + 3), effective_rank(s), rtol=1e-4)
    assert rankme(x + 3) < rankme(x) - 3  # a mean is a direction of its own
    p = s / s.sum() + 1e-7
    np.testing.assert_allclose(rankme(x + 3), np.exp(-(p * np.log(p)).sum()), rtol=1e-12)


def test_lidar_is_the_rank_of_the_whitened_scatter():
    rng = np.random.default_rng(1)
    n, q, d = 40, 5, 12
    views = rng.normal(size=(n, 1, d)) * np.linspace(0.1, 3, d) + rng.normal(size=(n, q, d)) @ rng.normal(size=(d, d))
    between = np.cov(views.mean(axis=1), rowvar=False)
    within = np.mean([np.cov(one, rowvar=False) for one in views], axis=0) + 1e-4 * np.eye(d)
    root = linalg.inv(linalg.sqrtm(within))
    values = linalg.eigvalsh(root @ between @ root)
    np.testing.assert_allclose(lidar(views), effective_rank(values), rtol=1e-4)


def test_lidar_counts_the_planted_directions_that_tell_images_apart():
    rng = np.random.default_rng(2)
    n, q, d = 600, 10, 16
    images = np.zeros((n, 1, d))
    images[..., :5] = rng.normal(size=(n, 1, 5))
    views = images + 0.05 * rng.normal(size=(n, q, d))
    assert lidar(views) == pytest.approx(5, abs=0.15)
    # The views differ as much as the images do in a direction: it counts for little, though its variance is the largest.
    views[..., 0] += 20 * rng.normal(size=(n, q))
    assert lidar(views) == pytest.approx(4, abs=0.15)
    assert rankme(views.reshape(-1, d)) < 3


def test_a_view_of_its_own_for_each_image_needs_no_scatter_within():
    x = np.random.default_rng(3).normal(size=(200, 1, 6))
    same = np.repeat(x, 3, axis=1)
    np.testing.assert_allclose(lidar(same), effective_rank(linalg.eigvalsh(np.cov(x[:, 0], rowvar=False))), rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 1, 2.5])
def test_alpha_of_a_planted_power_law(alpha):
    index = np.arange(1, 151)
    eigenvalues = index ** -float(alpha)
    eigenvalues[:10] = 1  # before the window
    eigenvalues[100:] = 1e-9  # after it
    found = alpha_req(with_spectrum(np.sqrt(eigenvalues), 400, centred=True) + 5)  # a mean changes nothing
    np.testing.assert_allclose([found.alpha, found.r2], [alpha, 1], rtol=1e-6)


def test_alpha_is_the_weighted_fit_of_numpy():
    x = np.random.default_rng(4).normal(size=(90, 40)) * np.random.default_rng(5).uniform(0.1, 3, 40)
    eigenvalues = linalg.eigvalsh(np.cov(x, rowvar=False))[::-1][10:]
    u, v, w = np.log(np.arange(11, 41)), np.log(eigenvalues), 1 / np.arange(11, 41)
    slope, level = np.polyfit(u, v, 1, w=np.sqrt(w))
    residual = (w * (v - slope * u - level) ** 2).sum()
    r2 = 1 - residual / (w * (v - np.average(v, weights=w)) ** 2).sum()
    found = alpha_req(x)
    np.testing.assert_allclose([found.alpha, found.r2], [-slope, r2], rtol=1e-9)
    assert r2 < 0.99


@pytest.mark.parametrize("x", [np.ones((50, 30)) * 0.1, np.zeros((50, 30)), np.eye(50, 12)])
def test_alpha_without_a_spectrum_to_fit_is_nan(x):
    assert np.isnan(alpha_req(x)).all()


def test_alignment_and_uniformity_on_the_sphere():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 70, 9)) * rng.uniform(0.1, 50, (2, 70, 1))
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (x, y))
    np.testing.assert_allclose(alignment(x, y), np.mean(2 - 2 * np.einsum("nd,nd->n", a, b)), rtol=1e-12)
    np.testing.assert_allclose([alignment(x, 3 * x), alignment(x, -x)], [0, 4], atol=1e-12)
    np.testing.assert_allclose(uniformity(x), np.log(np.exp(-2 * pdist(a, "sqeuclidean")).mean()), rtol=1e-12)
    np.testing.assert_allclose(uniformity([[1.0, 0], [-5, 0]]), -8)  # two opposite points


def test_uniformity_in_blocks_and_of_a_sample(monkeypatch):
    x = np.random.default_rng(7).normal(size=(501, 5))
    whole = uniformity(x)
    monkeypatch.setattr(unlabelled, "_PAIRS_AT_ONCE", 501 * 7)  # the last block is a smaller one
    np.testing.assert_allclose(uniformity(x), whole, rtol=1e-12)
    monkeypatch.setattr(unlabelled, "UNIFORMITY_SAMPLE", 400)
    assert uniformity(x) == uniformity(x) != whole
    assert uniformity(x) == pytest.approx(whole, abs=0.05)


def test_noise_spreads_evenly():
    x = np.random.default_rng(8).normal(size=(3000, 256))
    assert collapse(x) == pytest.approx(1, abs=2e-3)
    # E exp(-2 |u - v|^2) = exp(-4) E exp(4 u.v), and u.v has the variance 1 / d: about exp(-4 + 8 / d)
    assert uniformity(x) == pytest.approx(-4 + 8 / 256, abs=2e-3)
    assert alignment(x[:1500], x[1500:]) == pytest.approx(2, abs=0.02)
    assert linear_cka(x[:, :32], x[:, 32:64]) < 0.02


def test_collapse_is_the_deviation_of_unit_features():
    x = np.random.default_rng(9).normal(size=(80, 6)) + [4, 0, 0, 0, 0, 0]
    unit = x / np.sqrt((x**2).sum(axis=1, keepdims=True))
    expected = np.mean([np.sqrt(np.mean((u - u.mean()) ** 2)) for u in unit.T]) * np.sqrt(6)
    np.testing.assert_allclose(collapse(x), expected, rtol=1e-12)
    assert expected < 0.8


@pytest.mark.parametrize("noise", [0, 1e-7])
def test_a_collapsed_encoder_looks_collapsed(noise):
    rng = np.random.default_rng(10)
    views = (np.full((200, 3, 40), 0.3) + noise * rng.normal(size=(200, 3, 40))).astype(np.float32)
    x = views[:, 0]
    assert rankme(x) < 1.01
    assert alignment(x, views[:, 1]) < 1e-10
    assert uniformity(x) == pytest.approx(0, abs=1e-10)
    assert collapse(x) < 1e-5
    if not noise:
        assert lidar(views) == pytest.approx(1, abs=1e-3)
        assert np.isnan(linear_cka(x, rng.normal(size=(200, 7))))


def test_dead_features_are_no_number_that_looks_healthy():
    dead = np.zeros((50, 4))
    assert (rankme(dead), collapse(dead), uniformity(dead), lidar(np.zeros((50, 2, 4)))) == (1, 0, 0, 1)


@pytest.mark.parametrize("d", [6, 60])  # fewer and more dimensions than images
def test_cka_is_hsic_of_centred_kernels(d):
    rng = np.random.default_rng(11)
    x = rng.normal(size=(30, d)) + 2
    y = x[:, :4] @ rng.normal(size=(4, 9)) + rng.normal(size=(30, 9))
    centre = np.eye(30) - 1 / 30

    def hsic(a, b):
        return np.trace(a @ a.T @ centre @ b @ b.T @ centre) / 29**2

    expected = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    np.testing.assert_allclose(linear_cka(x, y), expected, rtol=1e-10)
    assert 0.05 < expected < 0.95
    rotation = linalg.qr(rng.normal(size=(d, d)))[0]
    np.testing.assert_allclose(linear_cka(-7 * x @ rotation + 3, y), expected, rtol=1e-10)
    np.testing.assert_allclose(linear_cka(x, 1e-5 * x @ rotation), 1, rtol=1e-10)
    stretched = linear_cka(x * np.linspace(1, 9, d), y)
    assert abs(stretched - expected) > 1e-3  # invariant to no more than that


@pytest.mark.parametrize("name", ALL)
def test_runs_on_a_leading_axis_are_measured_one_by_one(name):
    rng = np.random.default_rng(12)
    x = rng.normal(size=(2, 3, *((20, 4, 30) if name == "lidar" else (50, 30)))).astype(np.float32)
    together = ALL[name](x)
    assert together.shape == (2, 3) and together.dtype == np.float64
    np.testing.assert_array_equal(together, [[ALL[name](one) for one in row] for row in x])


def test_float32_features_are_measured_in_float64():
    x = (np.random.default_rng(13).normal(size=(400, 32)) * 1e-3 + 1).astype(np.float32)
    for name in ("rankme", "alpha_req", "uniformity", "collapse"):
        assert ALL[name](x) == ALL[name](x.astype(np.float64))


@pytest.mark.parametrize("name", ALL)
def test_bad_input_is_one_line(name):
    shape = (10, 3, 4) if name == "lidar" else (10, 4)
    broken = np.ones(shape)
    broken[0] = np.nan
    for given, part in ((broken, "diverge"), (np.ones(4), "expected features"), (np.ones((0, 3, 4)), "expected"),
                        (np.full(shape, "a"), "real numbers"), (np.ones(shape) * 1j, "real numbers")):  # fmt: skip
        with pytest.raises(UserError, match=part) as error:
            ALL[name](given)
        assert "\n" not in str(error.value)


def test_views_and_pairs_that_do_not_fit():
    with pytest.raises(UserError, match="2 views of each"):
        lidar(np.ones((10, 1, 4)))
    with pytest.raises(UserError, match="same shape"):
        alignment(np.ones((10, 4)), np.ones((9, 4)))
    with pytest.raises(UserError, match="same images"):
        linear_cka(np.ones((10, 4)), np.ones((9, 4)))
    with pytest.raises(UserError, match="at least 2 images"):
        uniformity(np.ones((1, 4)))
