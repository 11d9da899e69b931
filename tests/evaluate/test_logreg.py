"""Logistic regression against a minimiser of its objective, its search, and the measures of images with many labels."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from ssljax.errors import UserError
from ssljax.evaluate.logreg import STRENGTHS, fit_scores
from ssljax.evaluate.measure import many_labels
from ssljax.evaluate.scores import average_precision_11, by_metric, map11


def drawn(seed, n, classes, dim=4, noise=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    return centres[labels] + noise * rng.normal(size=(n, dim)), labels


def minimiser(x, y, classes, strength):
    """Kernel and bias at the least of sum CE + strength/2 |W|^2, by BFGS on the objective as it stands."""
    n, dim = x.shape

    def value(flat):
        w, b = flat[: dim * classes].reshape(dim, classes), flat[dim * classes :]
        scores = x @ w + b
        p = np.exp(scores - logsumexp(scores, axis=1, keepdims=True))
        error = p - np.eye(classes)[y]
        loss = (logsumexp(scores, axis=1) - scores[np.arange(n), y]).sum() + strength / 2 * (w**2).sum()
        return loss, np.concatenate([(x.T @ error + strength * w).ravel(), error.sum(0)])

    found = minimize(value, np.zeros((dim + 1) * classes), jac=True, method="BFGS", options={"gtol": 1e-8}).x
    return found[: dim * classes].reshape(dim, classes), found[dim * classes :]


def probabilities(scores):
    return np.exp(scores - logsumexp(scores, axis=1, keepdims=True))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_minimum_of_the_objective_on_training_and_validation_images(classes):
    (x, y), (held, held_y), (test, _) = drawn(0, 60, classes), drawn(1, 30, classes), drawn(2, 20, classes)
    for strength in (0.5, 30.0):
        scores, chosen = fit_scores(x, y, held, held_y, test, metric="top1", n_classes=classes, strengths=(strength,))
        assert chosen == strength
        w, b = minimiser(np.concatenate([x, held]), np.concatenate([y, held_y]), classes, strength)
        np.testing.assert_allclose(probabilities(scores), probabilities(test @ w + b), atol=2e-3)


def test_the_search_takes_the_penalty_that_validation_says_and_of_equal_ones_the_strongest():
    # Forty noisy images in thirty dimensions: a weak penalty learns the noise, a very strong one nothing but the classes' shares.
    rng = np.random.default_rng(3)
    direction = rng.normal(size=30) / 30**0.5

    def some(n):
        x = rng.normal(size=(n, 30))
        return x, (x @ direction + 0.8 * rng.normal(size=n) > -0.7).astype(int)

    (x, y), (held, held_y), (test, _) = some(40), some(2000), some(5)
    strengths = (1e-4, 3.0, 1e6)
    right = [np.mean((held @ w + b).argmax(1) == held_y) for w, b in (minimiser(x, y, 2, s) for s in strengths)]
    assert right[1] > max(right[0], right[2]) + 0.01
    assert fit_scores(x, y, held, held_y, test, metric="top1", n_classes=2, strengths=strengths)[1] == 3.0
    (x, y), (held, held_y) = drawn(0, 60, 3, noise=0.01), drawn(1, 30, 3, noise=0.01)
    assert fit_scores(x, y, held, held_y, held, metric="mean_per_class", n_classes=3)[1] == pytest.approx(1e5)
    assert len(STRENGTHS) == 45 and STRENGTHS[0] == pytest.approx(1e-6)
    assert STRENGTHS[1] / STRENGTHS[0] == pytest.approx(STRENGTHS[44] / STRENGTHS[43])


def test_a_class_that_is_not_in_training_is_never_the_likeliest():
    (x, y), (held, held_y) = drawn(0, 60, 3), drawn(1, 30, 3)
    scores, _ = fit_scores(x, y * 2, held, held_y * 2, held, metric="top1", n_classes=6, strengths=(1.0,))
    assert set(scores.argmax(1)) == {0, 2, 4}
    assert (scores[:, [1, 3, 5]].max(1) < scores[:, [0, 2, 4]].min(1)).all()
    # One that only validation has comes with the second fit.
    scores, _ = fit_scores(
        x[y < 2], y[y < 2], held, held_y, held[held_y == 2], metric="top1", n_classes=3, strengths=(1.0,)
    )
    assert (scores.argmax(1) == 2).mean() > 0.7
    with pytest.raises(UserError, match="one class"):
        fit_scores(x, y * 0, held, held_y, held, metric="top1", n_classes=3)


def test_many_labels_are_a_fit_a_class_on_the_images_where_it_is_judged():
    (x, y), (held, held_y), (test, _) = drawn(0, 90, 3), drawn(1, 45, 3), drawn(2, 20, 3)

    def marked(y):
        labels = np.where(np.eye(4, dtype=bool)[y], 1, -1).astype(np.int8)
        labels[:, 1] = np.where(y > 0, 1, -1)  # images of the third class have the second's label too
        labels[::7, 0] = 0
        return labels

    labels, held_labels = marked(y), marked(held_y)
    scores, strength = fit_scores(x, labels, held, held_labels, test, metric="map11", n_classes=4, strengths=(0.5, 5.0))
    both, all_labels = np.concatenate([x, held]), np.concatenate([labels, held_labels])
    for c in range(3):
        judged = all_labels[:, c] != 0
        w, b = minimiser(both[judged], (all_labels[judged, c] > 0).astype(int), 2, strength)
        np.testing.assert_allclose(scores[:, c], test @ (w[:, 1] - w[:, 0]) + b[1] - b[0], atol=2e-2)
    assert (scores[:, 3] == 0).all()  # no image has the fourth


def test_eleven_points_of_an_example_worked_by_hand():
    scores, present = np.array([0.9, 0.8, 0.75, 0.7, 0.6, 0.5]), np.array([1, -1, 0, 1, -1, 1])
    # Without the third image: recall 1/3 at precision 1, 2/3 at 2/3, 1 at 3/5.
    assert average_precision_11(scores, present) == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11)
    assert average_precision_11(scores, -np.ones(6)) != average_precision_11(scores, -np.ones(6))  # NaN


def by_hand(scores, present):
    """The measure in whole numbers, threshold by threshold."""
    points = [Fraction(0)] * 11
    positives = sum(p > 0 for p in present)
    for threshold in set(scores):
        taken = [p for s, p in zip(scores, present) if s >= threshold and p != 0]
        right = sum(p > 0 for p in taken)
        for i in range(11):
            if taken and Fraction(right, positives) >= Fraction(i, 10):
                points[i] = max(points[i], Fraction(right, len(taken)))
    return float(sum(points) / 11)


def test_eleven_points_against_whole_numbers_and_their_mean_over_classes():
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, -1, 0, 1], size=(60, 5))
    labels[:, 4] = -1
    scores = np.round(rng.normal(size=(60, 5)) + labels, 1)  # rounded: some scores are equal
    each = [by_hand(scores[:, c].tolist(), labels[:, c].tolist()) for c in range(4)]
    for c in range(4):
        assert average_precision_11(scores[:, c], labels[:, c]) == pytest.approx(each[c])
    assert map11(scores, labels) == by_metric("map11", scores, labels) == pytest.approx(np.mean(each))
    rows, by_class = many_labels("logreg@voc2007", scores, labels, list("abcde"))
    assert rows == [("logreg@voc2007", "label", "map11", pytest.approx(np.mean(each)))]
    assert [(row.class_name, row.metric) for row in by_class] == [(name, "ap11") for name in "abcd"]
    assert [row.value for row in by_class] == pytest.approx(each)
    with pytest.raises(UserError, match="unknown metric 'map12'; did you mean 'map11'"):
        by_metric("map12", scores, labels)
