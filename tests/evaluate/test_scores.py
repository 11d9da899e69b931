"""Accuracy and F1 against scikit-learn's metrics, and the rows made of them."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score, top_k_accuracy_score

from ssljax.errors import UserError
from ssljax.evaluate.measure import classification
from ssljax.evaluate.scores import per_class_accuracy, per_class_f1, top_k


def scored(seed=0, m=300, k=8):
    rng = np.random.default_rng(seed)
    labels = rng.choice(k, size=m, p=np.arange(1, k + 1) / (k * (k + 1) / 2))
    return rng.normal(size=(m, k)) + 1.2 * np.eye(k)[labels], labels


def test_against_scikit_learn():
    scores, labels = scored()
    guess = scores.argmax(1)
    assert top_k(scores, labels, 1) == pytest.approx(accuracy_score(labels, guess))
    assert top_k(scores, labels, 5) == pytest.approx(top_k_accuracy_score(labels, scores, k=5))
    np.testing.assert_allclose(per_class_accuracy(scores, labels), recall_score(labels, guess, average=None))
    np.testing.assert_allclose(per_class_f1(scores, labels), f1_score(labels, guess, average=None))


def test_equal_scores_count_as_argmax_does():
    scores = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    assert top_k(scores, np.array([0, 1, 2]), 1) == pytest.approx(1 / 3)
    assert top_k(scores, np.array([0, 1, 2]), 2) == pytest.approx(2 / 3)
    assert top_k(scores, np.array([0, 1, 2]), 3) == 1


def test_a_class_without_images_is_left_out():
    scores, labels = scored(m=200, k=8)
    kept = labels != 3  # class 3 is still predicted, which costs the others nothing in recall
    scores, labels = scores[kept], labels[kept]
    assert (scores.argmax(1) == 3).any()
    rows, per_class = classification("knn", scores, labels, list("abcdefgh"))
    present = [0, 1, 2, 4, 5, 6, 7]
    recall = recall_score(labels, scores.argmax(1), average=None, labels=present)
    f1 = f1_score(labels, scores.argmax(1), average=None, labels=present)
    values = {row.metric: row.value for row in rows}
    assert values["mean_per_class"] == pytest.approx(recall.mean())
    assert values["f1"] == pytest.approx(f1.mean())
    assert np.isnan(per_class_accuracy(scores, labels)[3]) and np.isnan(per_class_f1(scores, labels)[3])
    named = {(row.class_name, row.metric): row.value for row in per_class}
    assert ("d", "accuracy") not in named and len(named) == 14
    assert named["e", "accuracy"] == pytest.approx(recall[3])
    assert named["h", "f1"] == pytest.approx(f1[6])


def test_top5_only_above_five_classes():
    for k in (5, 6):
        scores, labels = scored(k=k)
        metrics = [row.metric for row in classification("linear", scores, labels, list("abcdef"[:k]))[0]]
        assert ("top5" in metrics) == (k > 5)


def test_bad_input():
    scores, labels = scored(k=3)
    with pytest.raises(UserError, match="given 2 class names, expected 3"):
        classification("linear", scores, labels, ["a", "b"])
    with pytest.raises(UserError, match="expected 0 to 1"):
        top_k(scores[:, :2], labels, 1)
    with pytest.raises(UserError, match="NaN"):
        per_class_f1(scores * np.nan, labels)
    with pytest.raises(UserError, match="k=4"):
        top_k(scores, labels, 4)
