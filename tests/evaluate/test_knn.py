"""The weighted k-NN against its formula, written as loops in float64, and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from ssljax.errors import UserError
from ssljax.evaluate import knn


def blobs(seed: int, n: int, m: int, d: int = 5, classes: int = 4):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, d))
    labels = rng.integers(classes, size=n + m)
    features = centers[labels] * rng.uniform(0.5, 3, (n + m, 1)) + rng.normal(0, 0.8, (n + m, d))
    return features[:n], labels[:n], features[n:], labels[n:]


def by_hand(train, labels, query, k, temperature, classes):
    """exp(cosine / T) votes of the k most similar, one query, as written in the paper."""
    cosines = []
    for x in train:
        dot = sum(a * b for a, b in zip(x, query, strict=True))
        cosines.append(dot / math.sqrt(sum(a * a for a in x)) / math.sqrt(sum(b * b for b in query)))
    votes = [0.0] * classes
    for i in sorted(range(len(train)), key=lambda i: -cosines[i])[:k]:
        votes[labels[i]] += math.exp(cosines[i] / temperature)
    return [vote / sum(votes) for vote in votes]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (7, 1.0), (60, 0.07), (500, 0.2)])
def test_equals_the_formula(k, temperature):
    train, labels, queries, _ = blobs(0, 60, 25)
    scores = knn.knn_scores(train, labels, queries, k=k, temperature=temperature, n_classes=4)
    expected = [by_hand(train, labels, query, k, temperature, 4) for query in queries]
    np.testing.assert_allclose(scores, expected, rtol=1e-10, atol=1e-14)


def test_one_neighbour_is_scikit_learns():
    train, labels, queries, _ = blobs(1, 300, 200)
    oracle = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(train, labels)
    scores = knn.knn_scores(train, labels, queries, k=1, n_classes=4)
    np.testing.assert_array_equal(scores.argmax(1), oracle.predict(queries))


def test_chunks_change_nothing(monkeypatch):
    train, labels, queries, _ = blobs(2, 80, 53)
    whole = knn.knn_scores(train, labels, queries, n_classes=4)
    monkeypatch.setattr(knn, "_SIMILARITIES_AT_ONCE", 3 * 80 + 1)
    np.testing.assert_allclose(knn.knn_scores(train, labels, queries, n_classes=4), whole, rtol=1e-12)


def test_a_tiny_temperature_is_the_nearest_alone():
    train, labels, queries, _ = blobs(3, 100, 40)
    cold = knn.knn_scores(train, labels, queries, temperature=1e-6, n_classes=4)
    nearest = knn.knn_scores(train, labels, queries, k=1, n_classes=4)
    np.testing.assert_allclose(cold, nearest, atol=1e-6)


def test_float32_and_zero_features():
    train, labels, queries, _ = blobs(4, 60, 20)
    exact = knn.knn_scores(train, labels, queries, n_classes=4)
    single = knn.knn_scores(train.astype(np.float32), labels, queries.astype(np.float32), n_classes=4)
    np.testing.assert_allclose(single, exact, atol=1e-4)
    # A zero vector has cosine 0 with everything: the k it meets vote equally.
    flat = knn.knn_scores(train, labels, np.zeros((1, 5)), k=60, n_classes=4)
    np.testing.assert_allclose(flat[0], np.bincount(labels, minlength=4) / 60)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k": 0}, "k >= 1"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"n_classes": 2}, "expected 0 to 1"),
        ({"features": np.ones((3, 4))}, "expected 5"),
        ({"features": np.full((3, 5), np.nan)}, "NaN"),
        ({"train_labels": np.zeros(7, int)}, "integers [30]"),
        ({"train_features": np.ones(30)}, "[n, d]"),
    ],
)
def test_bad_input(change, says):
    train, labels, queries, _ = blobs(5, 30, 3)
    arguments = {
        "train_features": train,
        "train_labels": labels,
        "features": queries,
        "n_classes": 4,
    } | change
    with pytest.raises(UserError) as error:
        knn.knn_scores(**arguments)
    assert says in str(error.value)
