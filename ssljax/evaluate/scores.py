"""Accuracy, F1 and average precision from a matrix of class scores, over all images and class by class.

Every value is a fraction in [0, 1]. A class that has no image among the labels has no per-class value (NaN)
and is left out of the means over classes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssljax.errors import UserError, unknown
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


def average_precision_11(scores: ArrayLike, present: ArrayLike) -> float:
    """Average precision of one class, interpolated at 11 points: the measure of the PASCAL VOC challenge of 2007.

    The mean over the recalls 0, .1, ... 1 of the highest precision at that recall or above (M. Everingham et al., "The PASCAL
    visual object classes challenge", IJCV 2010, section 4.2). Images of equal scores are found together.

    Args:
      scores: [m], higher is more likely.
      present: [m]; 1 where the class is in the image, -1 where it is not, 0 where that is not judged: such images are left out.

    Returns:
      In [0, 1]; NaN where no image has the class.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(present)
    order = np.argsort(-values[truth != 0], kind="stable")
    ranked, positive = values[truth != 0][order], (truth[truth != 0] > 0)[order]
    total = int(positive.sum())
    if not total:
        return float("nan")
    last = np.append(ranked[1:] != ranked[:-1], True)  # of images with that score
    found = positive.cumsum()[last]
    precision = found / (np.flatnonzero(last) + 1)
    # Whole numbers: recall >= i / 10 without rounding. The last image's recall is 1, so that each point has some.
    return float(np.mean([precision[10 * found >= point * total].max() for point in range(11)]))


def map11(scores: ArrayLike, labels: ArrayLike) -> float:
    """Mean of `average_precision_11` over the classes that some image has: scores [m, n_classes], labels 1, -1, 0 as there."""
    matrix, truth = feature_matrix(scores, "class scores"), np.asarray(labels)
    if truth.shape != matrix.shape:
        raise UserError(
            f"class scores: given labels of shape {truth.shape}, expected {matrix.shape}: all labels of an image"
        )
    each = [average_precision_11(own, present) for own, present in zip(matrix.T, truth.T, strict=True)]
    return float(np.nanmean(each)) if not np.isnan(each).all() else float("nan")


def by_metric(metric: str, scores: ArrayLike, labels: ArrayLike) -> float:
    """Scores [m, n_classes] judged by a metric's name: `top1`, `mean_per_class` (recall) or `map11`.

    Raises:
      UserError: an unknown metric, or what it raises.
    """
    metrics: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
        "top1": lambda scores, labels: top_k(scores, labels, 1),
        "mean_per_class": lambda scores, labels: float(np.nanmean(per_class_accuracy(scores, labels))),
        "map11": map11,
    }
    if metric not in metrics:
        raise unknown("metric", metric, metrics)
    return metrics[metric](scores, labels)
