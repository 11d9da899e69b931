"""Multinomial logistic regression on frozen features, its L2 penalty searched on validation images: how transfer is measured.

The protocol of L. Ericsson et al., "How well do self-supervised models transfer?" (CVPR 2021), which the MIRA paper follows: 45
penalties, each fit started from the one before; the best on validation is fitted again on training and validation images.
"""

import copy
import logging
import time
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from ssljax.errors import UserError
from ssljax.evaluate.arrays import feature_matrix
from ssljax.evaluate.scores import by_metric

log = logging.getLogger("ssljax")

STRENGTHS = tuple(np.logspace(-6, 5, 45).tolist())  # Ericsson et al., section 4.1: log-spaced from 1e-6 to 1e5

# Images x features x classes from which on the products are worth several threads: about 10 ms in one. Below, threads wait for
# each other, and on busy cores very long: 4,000 x 512 x 40 took 8 to 15 times as long in two threads (two cores, load 6).
_WORTH_THREADS = 2e8


def fit_scores(
    train: ArrayLike,
    labels: ArrayLike,
    validation: ArrayLike,
    validation_labels: ArrayLike,
    test: ArrayLike,
    *,
    metric: str,
    n_classes: int,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[NDArray[np.float64], float]:
    """Class scores of the test images by the penalty that does best on the validation images.

    Minimised is the sum over images of the cross entropy of softmax(W x + b) plus lambda/2 |W|^2; b is not penalised and features
    are taken as they are. Each fit is at most 100 steps of L-BFGS from the fit of the next stronger penalty. The chosen one is
    fitted again, from where it was, on training and validation images together.

    Args:
      train, validation, test: features [n, d], [v, d], [m, d].
      labels, validation_labels: integers [n], [v] in [0, n_classes); or, where an image may have many labels, int8
        [n, n_classes], [v, n_classes]: 1 present, -1 absent, 0 not to be judged. There each class is fitted against the rest on
        the images where it is judged, and lambda is one for all.
      metric: what is searched by, a name of `ssljax.evaluate.scores.by_metric`.
      n_classes: columns of the scores. A class that no training image has is never the likeliest.
      strengths: the values of lambda to choose from; of equally good ones the strongest is taken.

    Returns:
      (scores float64 [m, n_classes], the chosen lambda).

    Raises:
      UserError: features that are not finite, or no penalty to choose from.
    """
    x, held, seen = (
        feature_matrix(each, f"logistic regression, {name} features").astype(np.float64, copy=False)
        for each, name in ((train, "training"), (validation, "validation"), (test, "test"))
    )
    y, held_y = np.asarray(labels), np.asarray(validation_labels)
    if not len(strengths):
        raise UserError("logistic regression: given no penalty, expected at least one")
    with threadpool_limits(None if x.size * n_classes > _WORTH_THREADS else 1, user_api="blas"):
        chosen, fits = _search(x, y, held, held_y, metric, n_classes, strengths)
        both = _fitted(fits, np.concatenate([x, held]), np.concatenate([y, held_y]), chosen)
        return _scores(both, seen, y.ndim == 2, n_classes), chosen


def _search(
    x: np.ndarray,
    y: np.ndarray,
    held: np.ndarray,
    held_y: np.ndarray,
    metric: str,
    n_classes: int,
    strengths: Sequence[float],
) -> tuple[float, list[LogisticRegression | None]]:
    """The penalty that does best on the held-out images, and its fits."""
    fits: list[LogisticRegression | None] = [None] * (n_classes if y.ndim == 2 else 1)
    best, chosen, best_fits = -np.inf, 0.0, fits
    told = time.monotonic()
    for number, strength in enumerate(sorted(strengths, reverse=True)):
        fits = _fitted(fits, x, y, strength)
        value = by_metric(metric, _scores(fits, held, y.ndim == 2, n_classes), held_y)
        if value > best or not number:
            best, chosen, best_fits = value, strength, copy.deepcopy(fits)
        if time.monotonic() - told > 15:
            log.info("logistic regression: %d of %d penalties", number + 1, len(strengths))
            told = time.monotonic()
    return chosen, best_fits


def _fitted(
    before: Sequence[LogisticRegression | None], x: np.ndarray, labels: np.ndarray, strength: float
) -> list[LogisticRegression | None]:
    """The fits of one penalty, each started from the one before; None where there is one class alone."""
    if labels.ndim == 1:
        return [_fit(before[0], x, labels, strength)]
    judged = labels != 0
    return [_fit(fit, x[judged[:, c]], labels[judged[:, c], c], strength) for c, fit in enumerate(before)]


def _fit(fit: LogisticRegression | None, x: np.ndarray, y: np.ndarray, strength: float) -> LogisticRegression | None:
    classes = np.unique(y)
    if len(classes) < 2:
        return None
    if fit is None or not np.array_equal(fit.classes_, classes):
        fit = LogisticRegression(warm_start=True)
    # Of two classes scikit-learn fits w = W_1 - W_0 alone; at the optimum W_1 = -W_0, so that |W|^2 = |w|^2 / 2.
    fit.C = (2 if len(classes) == 2 else 1) / strength
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit.fit(x, y)


def _scores(
    fits: Sequence[LogisticRegression | None], x: np.ndarray, many: bool, n_classes: int
) -> NDArray[np.float64]:
    """Scores [m, n_classes] of the fits; what was not fitted scores alike everywhere."""
    if many:
        return np.stack([np.zeros(len(x)) if fit is None else fit.decision_function(x) for fit in fits], axis=1)
    (fit,) = fits
    if fit is None:
        raise UserError("logistic regression: given training images of one class, expected two classes or more")
    of_classes = fit.decision_function(x)
    if of_classes.ndim == 1:
        of_classes = np.stack([-of_classes / 2, of_classes / 2], axis=1)
    scores = np.repeat(of_classes.min(axis=1, keepdims=True) - 1, n_classes, axis=1)
    scores[:, fit.classes_] = of_classes
    return scores
