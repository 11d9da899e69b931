"""Weighted k-nearest-neighbour classification on frozen features.

Wu et al., "Unsupervised feature learning via non-parametric instance discrimination" (2018), section 3.4;
the MIRA paper evaluates the same way with k = 20 and temperature .07.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssljax.errors import UserError
from ssljax.evaluate.arrays import feature_matrix, label_vector, normalized

NEIGHBOURS = 20  # MIRA paper, k-NN evaluation (after Caron et al.)
TEMPERATURE = 0.07  # the same place; Wu et al. too

# Similarities held at once: 2**24 float32 values are 64 MiB, whatever the size of the two sets (our choice).
_SIMILARITIES_AT_ONCE = 2**24


def knn_scores(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    features: ArrayLike,
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    n_classes: int,
) -> NDArray[np.float64]:
    """The share of the neighbours' vote that each class gets, for each image.

    The k most similar training images (cosine) vote for their class with the weight exp(similarity / T).
    Features are L2-normalised here. Of training images that tie at the k-th place, any may be taken.

    Args:
      train_features: [n, d], raw.
      train_labels: integers [n] in [0, n_classes).
      features: [m, d], raw; none of them should be among the training images.
      k: neighbours that vote, at least 1; all n when k is larger than n.
      temperature: T > 0; smaller trusts the nearest more.
      n_classes: number of columns of the result.

    Returns:
      [m, n_classes] float64; each row is non-negative and sums to 1.

    Raises:
      UserError: shapes that do not fit, features that are not finite, labels or k or T out of range.
    """
    bank = normalized(feature_matrix(train_features, "k-NN training features"), "l2")
    queries = normalized(feature_matrix(features, "k-NN features"), "l2")
    labels = label_vector(train_labels, len(bank), "k-NN")
    if bank.shape[1] != queries.shape[1]:
        raise UserError(
            f"k-NN: given features of {queries.shape[1]} dimensions, expected {bank.shape[1]} as in training"
        )
    if labels.min() < 0 or labels.max() >= n_classes:
        raise UserError(f"k-NN: given labels from {labels.min()} to {labels.max()}, expected 0 to {n_classes - 1}")
    if k < 1 or not temperature > 0:
        raise UserError(f"k-NN: given k={k}, temperature={temperature}, expected k >= 1 and temperature > 0")

    k = min(k, len(bank))
    rows = max(1, _SIMILARITIES_AT_ONCE // len(bank))
    scores = np.empty((len(queries), n_classes))
    for start in range(0, len(queries), rows):
        similarity = queries[start : start + rows] @ bank.T
        nearest = np.argpartition(similarity, len(bank) - k, axis=1)[:, len(bank) - k :]
        logits = np.take_along_axis(similarity, nearest, axis=1).astype(np.float64) / temperature
        # Shares do not change when a row's weights share a factor; taking out the largest avoids overflow.
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        cell = np.arange(len(similarity))[:, None] * n_classes + labels[nearest]
        votes = np.bincount(cell.ravel(), weights.ravel(), len(similarity) * n_classes)
        scores[start : start + rows] = votes.reshape(-1, n_classes)
    return scores / scores.sum(axis=1, keepdims=True)
