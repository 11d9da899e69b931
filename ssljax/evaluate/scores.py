"""Accuracy and F1 from a matrix of class scores, over all images and class by class.

Every value is a fraction in [0, 1]. A class that has no image among the labels has no per-class value (NaN)
and is left out of the means over classes.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssljax.errors import UserError
from ssljax.evaluate.arrays import feature_matrix, label_vector


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    matrix = feature_matrix(scores, "class scores")
    truth = label_vector(labels, len(matrix), "class scores")
    if truth.min() < 0 or truth.max() >= matrix.shape[1]:
        span = f"{truth.min()} to {truth.max()}"
        raise UserError(f"class scores: given labels from {span}, expected 0 to {matrix.shape[1] - 1}")
    return matrix, truth


def top_k(scores: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Share of images whose true class is among the k highest scores.

    Of equal scores the lower class index comes first, as in `argmax`.

    Args:
      scores: [m, n_classes], higher is more likely.
      labels: integers [m].
      k: from 1 to n_classes.
    """
    matrix, truth = _checked(scores, labels)
    if not 1 <= k <= matrix.shape[1]:
        raise UserError(f"top-k: given k={k}, expected 1 to {matrix.shape[1]} classes")
    own = matrix[np.arange(len(truth)), truth][:, None]
    ahead = (matrix > own) | ((matrix == own) & (np.arange(matrix.shape[1]) < truth[:, None]))
    return float((ahead.sum(axis=1) < k).mean())


def per_class_accuracy(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Recall of each class, the share of its images given it [n_classes]; NaN for an absent class."""
    found, _, actual = _counts(scores, labels)
    return np.divide(found, actual, out=np.full(len(actual), np.nan), where=actual > 0)


def per_class_f1(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Harmonic mean of each class's precision and recall [n_classes]; NaN for an absent class."""
    found, predicted, actual = _counts(scores, labels)
    return np.divide(2 * found, predicted + actual, out=np.full(len(actual), np.nan), where=actual > 0)


def _counts(
    scores: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]]:
    """Images of each class that were found, that were predicted and that there are: three of [n_classes]."""
    matrix, truth = _checked(scores, labels)
    n_classes = matrix.shape[1]
    guess = matrix.argmax(axis=1)
    found = np.bincount(truth[guess == truth], minlength=n_classes)
    return found, np.bincount(guess, minlength=n_classes), np.bincount(truth, minlength=n_classes)
