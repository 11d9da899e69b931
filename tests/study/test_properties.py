import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from ssljax.errors import UserError
from ssljax.study import properties
from ssljax.study.properties import FEATURE_PROPERTIES, IMAGE_PROPERTIES, of_features, of_images


def ball(rng, n, dimension, ambient):
    """Points of a known intrinsic dimension: uniform in a ball, turned into a larger space."""
    points = rng.normal(size=(n, dimension))
    points *= (rng.random((n, 1)) ** (1 / dimension)) / np.linalg.norm(points, axis=1, keepdims=True)
    rotation = np.linalg.qr(rng.normal(size=(ambient, dimension)))[0].T
    return points @ rotation


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_intrinsic_dimension_of_points_of_known_dimension(dimension):
    two_nn, likelihood = properties.intrinsic_dimensions(ball(np.random.default_rng(dimension), 1500, dimension, 40))
    # the error of either is near d / sqrt(n), 3 %; a ball's border pulls the likelihood down further as d grows
    assert two_nn == pytest.approx(dimension, rel=0.1)
    assert likelihood == pytest.approx(dimension, rel=0.12)


def test_intrinsic_dimensions_are_the_published_formulas():
    points = np.random.default_rng(0).normal(size=(200, 3))
    distances = NearestNeighbors(n_neighbors=21).fit(points).kneighbors(points)[0][:, 1:]
    # Facco et al. 2017: through the origin, -log(1 - F) on log mu, without the tenth of the largest mu
    x = np.sort(np.log(distances[:, 1] / distances[:, 0]))[:180]
    y = -np.log(1 - np.arange(1, 181) / 200)
    # Levina and Bickel 2005, eq. 8, with MacKay and Ghahramani's mean of the inverses; k = 20
    inverse = np.log(distances[:, -1:] / distances[:, :-1]).mean(axis=1)
    expected = (x @ y / (x @ x), 1 / inverse.mean())
    np.testing.assert_allclose(properties.intrinsic_dimensions(points), expected, rtol=1e-4)


def test_repeated_and_few_features_do_not_spoil_the_dimension():
    points = ball(np.random.default_rng(3), 400, 2, 6)
    np.testing.assert_allclose(
        properties.intrinsic_dimensions(np.concatenate([points, points[:150]])),
        properties.intrinsic_dimensions(points),
        rtol=1e-4,
    )
    assert np.isnan(properties.intrinsic_dimensions(np.ones((50, 6)))).all()
    assert np.isnan(properties.intrinsic_dimensions(points[:3])).all()
    far = np.concatenate([points + 1e3, points + (1e3 + 1e-12)])  # equal but for rounding, far from the origin
    np.testing.assert_allclose(properties.intrinsic_dimensions(far), properties.intrinsic_dimensions(points), rtol=1e-3)
    assert properties.intrinsic_dimensions(np.random.default_rng(0).random((800, 1)))[0] == pytest.approx(1, rel=0.1)


def test_the_spectrum_of_planted_covariances():
    rng = np.random.default_rng(0)
    n, d = 300, 24
    start = rng.normal(size=(n, d))
    # orthonormal columns of mean 0: the scales are the roots of the spectrum
    basis = np.linalg.qr(start - start.mean(axis=0))[0]
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    index = np.arange(1, d + 1)
    power = basis * index ** (-1.3 / 2) @ turn + 7  # eigenvalues i^-1.3, and a mean that must not count
    equal = basis * (index <= 6) @ turn
    features = np.concatenate([power, equal, np.ones((5, d)), np.ones((1, d))])
    found = of_features(features, np.repeat([0, 1, 2, 4], [n, n, 5, 1]), ["power", "equal", "constant", "none", "one"])
    assert tuple(found) == FEATURE_PROPERTIES
    eigenvalues = index**-1.3
    assert found["spectrum"][0] == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-6)
    assert found["spectrum_decay"][0] == pytest.approx(1.3, rel=1e-6)
    assert found["spectrum"][1] == pytest.approx(6, rel=1e-6)  # six directions alike
    assert found["spectrum_decay"][1] == pytest.approx(0, abs=1e-6)
    assert np.isnan(found["spectrum"][2:]).all() and np.isnan(found["intrinsic_dimension"][2:]).all()


def test_the_decay_is_the_weighted_least_squares_line():
    points = np.random.default_rng(1).normal(size=(60, 8)) * np.arange(1, 9)
    log = np.log(np.sort(np.linalg.eigvalsh(np.cov(points.T)))[::-1])
    x, weights = np.log(np.arange(1, 9)), 1 / np.arange(1, 9)
    x0, y0 = np.average(x, weights=weights), np.average(log, weights=weights)
    slope = (weights * (x - x0) * (log - y0)).sum() / (weights * (x - x0) ** 2).sum()
    assert of_features(points, np.zeros(60, int), ["a"])["spectrum_decay"][0] == pytest.approx(-slope, rel=1e-9)


def texture_by_definition(grey):
    """Contrast, homogeneity and energy of a grey image in [0, 1], counted pair by pair (Haralick et al. 1973)."""
    levels = np.minimum(np.floor(grey * 32).astype(int), 31)
    found = []
    for down, right in ((0, 1), (1, 1), (1, 0), (1, -1)):
        count = np.zeros((32, 32))
        for i in range(len(grey) - down):
            for j in range(max(0, -right), grey.shape[1] - max(0, right)):
                one, other = levels[i, j], levels[i + down, j + right]
                count[one, other] += 1
                count[other, one] += 1
        p = count / count.sum()
        gap = (np.arange(32)[:, None] - np.arange(32)) ** 2
        found.append(((p * gap).sum(), (p / (1 + gap)).sum(), np.sqrt((p**2).sum())))
    return np.mean(found, axis=0)


def fourier_by_definition(grey):
    """Share of the energy above .25 cycles a pixel, by the Fourier sums themselves."""
    h, w = grey.shape
    high = total = 0.0
    for u in range(h):
        for v in range(w):
            if u or v:
                wave = np.exp(-2j * np.pi * (u * np.arange(h)[:, None] / h + v * np.arange(w) / w))
                energy = abs((grey * wave).sum()) ** 2
                total += energy
                high += energy * (np.hypot(min(u, h - u) / h, min(v, w - v) / w) > 0.25)
    return high / total


@pytest.mark.parametrize(("kind", "channels"), [(np.uint8, 3), (np.uint16, 1), (np.uint8, 4)])
def test_texture_and_fourier_are_their_definitions(kind, channels):
    rng = np.random.default_rng(channels)
    top = np.iinfo(kind).max
    images = (np.cumsum(rng.random((5, 9, 7, channels)), axis=1) / 9 * top).astype(kind)
    labels = np.array([1, 0, 1, 3, 1])
    weights = (0.299, 0.587, 0.114) if channels == 3 else np.full(channels, 1 / channels)
    grey = (images.astype(np.float64) * weights).sum(axis=-1) / top
    expected = np.array([(*texture_by_definition(one), fourier_by_definition(one)) for one in grey])
    found = of_images(images, labels, ["a", "b", "none", "d"])
    assert tuple(found) == IMAGE_PROPERTIES
    for i, name in enumerate(IMAGE_PROPERTIES):
        of_classes = [expected[1, i], expected[[0, 2, 4], i].mean(), np.nan, expected[3, i]]
        np.testing.assert_allclose(found[name], of_classes, rtol=1e-9)


def test_images_whose_properties_are_known():
    side = 16
    x = np.arange(side)
    board = ((x[:, None] + x) % 2 * 255).astype(np.uint8)
    slow = np.broadcast_to(127.5 + 127.5 * np.cos(2 * np.pi * x / side), (side, side)).astype(np.uint8)
    flat = np.full((side, side), 200, np.uint8)
    found = of_images(np.stack([board, slow, flat])[..., None], np.arange(3), ["board", "slow", "flat"])
    # neighbours along an axis are 31 levels apart, those along a diagonal are equal
    assert found["texture"][0] == pytest.approx(31**2 / 2) and found["texture"][2] == 0
    assert found["texture_energy"][2] == found["texture_homogeneity"][2] == pytest.approx(1)
    assert found["fourier"][0] == pytest.approx(1)  # all of it at Nyquist
    assert found["fourier"][1] < 1e-3 and found["fourier"][2] == 0


def test_a_limit_takes_images_evenly_spaced():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 6, 6, 1), np.uint8), np.arange(30) % 2
    few = of_images(images, labels, ["a", "b"], limit=3)
    chosen = np.array([0, 14, 28])  # first, middle and last of class 0's 15
    by_hand = of_images(images[chosen], np.zeros(3, int), ["a"])
    assert few["texture"][0] == pytest.approx(by_hand["texture"][0])
    assert few["texture"][0] != pytest.approx(of_images(images, labels, ["a", "b"])["texture"][0], rel=1e-3)


def test_bad_arrays_are_named():
    images = np.zeros((4, 8, 8, 1), np.uint8)
    with pytest.raises(UserError, match=r"given an array \[4, 8, 8, 1\] and labels \[3\]"):
        of_images(images, np.zeros(3, int), ["a"])
    with pytest.raises(UserError, match="images are float32 of 8 x 8 pixels; expected uint8 or uint16"):
        of_images(images.astype(np.float32), np.zeros(4, int), ["a"])
    with pytest.raises(UserError, match="labels from 0 to 2 for 2 class names; expected 0 to 1"):
        of_features(np.ones((3, 5)), np.arange(3), ["a", "b"])


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skdim", None)
    message = r"class properties: needs scikit-dimension; pip install 'ssljax\[study\]'"
    with pytest.raises(UserError, match=message):
        of_features(np.random.default_rng(0).random((9, 3)), np.zeros(9, int), ["a"])
    monkeypatch.setattr(properties.importlib.util, "find_spec", lambda name: None if name == "skdim" else object())
    with pytest.raises(UserError, match=message):
        properties.check_installed()
