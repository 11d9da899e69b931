"""The linear probe against scikit-learn's optimum, and its runs against single runs."""

import jax.numpy as jnp
import numpy as np
import pytest
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


@pytest.mark.parametrize("drawn", [False, True])
def test_several_rates_a_run_are_the_fits_of_each_alone(drawn):
    rng = np.random.default_rng(0)
    fixed, labels = rng.normal(size=(2, 40, 3)).astype(np.float32), rng.integers(0, 4, 40)
    resident = jnp.asarray(fixed)
    features = (lambda index, keys: resident[jnp.arange(2)[:, None], index]) if drawn else fixed
    options = dict(n_classes=4, dim=3, epochs=4, batch_size=16, schedule="cosine")
    rates = np.array([[0.1, 1.0, 0.01], [0.3, 0.1, 2.0]])
    together = probe.fit(features, labels, np.array([1, 2]), learning_rate=rates, **options)
    assert together["kernel"].shape == (2, 3, 3, 4)
    one_each = probe.fit(features, labels, np.array([1, 2]), learning_rate=rates[:, 1], **options)
    single = probe.fit(fixed[1:], labels, np.array([2]), learning_rate=2.0, **options)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(together[name][:, 1], one_each[name], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(together[name][1, 2], single[name][0], rtol=1e-4, atol=1e-5)
    spread = together["kernel"][0].std(axis=0)
    assert spread.min() > 1e-3  # the rates make a difference


def by_steps(epoch):
    return 1 if epoch < 6 else 0.1 if epoch < 8 else 0.01


def by_cosine(epoch):
    return (1 + np.cos(np.pi * epoch / 10)) / 2


@pytest.mark.parametrize(("schedule", "fall"), [("steps", by_steps), ("cosine", by_cosine)])
def test_learning_rate_falls_at_sixty_and_eighty_percent_or_by_a_cosine(schedule, fall):
    # One image, one class against another: the gradient is known, so is the sum of steps with a rate that falls.
    x, y = np.ones((1, 1, 1), np.float32), np.array([0])
    options = dict(n_classes=2, dim=1, epochs=10, batch_size=1, schedule=schedule)
    head = probe.fit(x, y, np.array([0]), learning_rate=0.5, **options)
    start = probe.fit(x, y, np.array([0]), learning_rate=0.0, **options)
    w, b = start["kernel"][0, 0].astype(np.float64), start["bias"][0].astype(np.float64)
    vw, vb = np.zeros(2), np.zeros(2)
    for epoch in range(10):
        rate = 0.5 * fall(epoch)
        p = np.exp(w + b) / np.exp(w + b).sum()
        g = p - np.array([1, 0])
        vw, vb = 0.9 * vw + g, 0.9 * vb + g
        w, b = w - rate * vw, b - rate * vb
    np.testing.assert_allclose(head["kernel"][0, 0], w, rtol=1e-5)
    np.testing.assert_allclose(head["bias"][0], b, rtol=1e-5)
