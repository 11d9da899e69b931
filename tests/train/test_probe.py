"""The linear probe against scikit-learn's optimum, and its runs against single runs."""

import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ssljax.train import probe


def test_probe_comes_near_the_optimum_of_multinomial_regression():
    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32)
    head = probe.fit(x[None, :1400], labels[:1400], np.array([5]), n_classes=10, dim=64)
    scores = probe.scores(head, x[None])[0]
    best = LogisticRegression(C=1e3, max_iter=2000).fit(x[:1400], labels[:1400])
    accuracy = np.mean(scores[1400:].argmax(1) == labels[1400:])
    assert accuracy >= best.score(x[1400:], labels[1400:]) - 0.02
    # The two agree image by image, not only on average.
    assert np.mean(scores[1400:].argmax(1) == best.predict(x[1400:])) > 0.9


def test_runs_are_independent_and_seeds_matter():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(2, 40, 3)).astype(np.float32), rng.integers(0, 4, 40)
    options = dict(n_classes=4, dim=3, epochs=5, batch_size=16)
    both = probe.fit(features, labels, np.array([1, 2]), **options)
    for i, seed in enumerate((1, 2)):
        single = probe.fit(features[i : i + 1], labels, np.array([seed]), **options)
        np.testing.assert_allclose(both["kernel"][i], single["kernel"][0], rtol=1e-5, atol=1e-6)
    again = probe.fit(features[:1], labels, np.array([2]), **options)
    assert np.abs(again["kernel"][0] - both["kernel"][0]).max() > 1e-3


def test_features_drawn_anew_give_what_fixed_ones_give_when_nothing_is_drawn():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(2, 40, 3)).astype(np.float32), rng.integers(0, 4, 40)
    options = dict(n_classes=4, dim=3, epochs=3, batch_size=16)
    fixed = probe.fit(features, labels, np.array([1, 2]), **options)
    resident = jnp.asarray(features)
    drawn = probe.fit(lambda index, keys: resident[jnp.arange(2)[:, None], index], labels, np.array([1, 2]), **options)
    np.testing.assert_allclose(fixed["kernel"], drawn["kernel"], rtol=1e-5, atol=1e-6)


def test_learning_rate_falls_at_sixty_and_eighty_percent():
    # One image, one class against another: the gradient is known, so is the sum of steps with a rate that falls.
    x, y = np.ones((1, 1, 1), np.float32), np.array([0])
    head = probe.fit(x, y, np.array([0]), n_classes=2, dim=1, epochs=10, batch_size=1, learning_rate=0.5)
    start = probe.fit(x, y, np.array([0]), n_classes=2, dim=1, epochs=10, batch_size=1, learning_rate=0.0)
    w, b = start["kernel"][0, 0].astype(np.float64), start["bias"][0].astype(np.float64)
    vw, vb = np.zeros(2), np.zeros(2)
    for epoch in range(10):
        rate = 0.5 * (1 if epoch < 6 else 0.1 if epoch < 8 else 0.01)
        p = np.exp(w + b) / np.exp(w + b).sum()
        g = p - np.array([1, 0])
        vw, vb = 0.9 * vw + g, 0.9 * vb + g
        w, b = w - rate * vw, b - rate * vb
    np.testing.assert_allclose(head["kernel"][0, 0], w, rtol=1e-5)
    np.testing.assert_allclose(head["bias"][0], b, rtol=1e-5)
