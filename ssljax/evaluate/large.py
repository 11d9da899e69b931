"""K-means and principal components of features that need not fit in memory: a memory map's rows are read in pieces."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import pairwise_distances_argmin_min
from threadpoolctl import threadpool_limits

from ssljax.evaluate.clustering import kmeans

ROWS = 4096  # of features in memory at a time: 32 MiB of the widest backbone's (our choice)
WHOLE = 20_000  # images up to which K-means is that of the evaluations; it takes a minute there (our choice)
PASSES = 5  # over the images of mini-batch K-means: planted clusters move no more after two or three (our choice)


def pieces(features: NDArray[np.floating]) -> Iterator[NDArray[np.floating]]:
    """The rows in order, `ROWS` at a time."""
    for start in range(0, len(features), ROWS):
        yield np.asarray(features[start : start + ROWS])


def clusters(
    features: NDArray[np.floating], n_clusters: int, *, random_state: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """K-means of features [n, d]: that of the evaluations up to `WHOLE` rows, mini-batch K-means above.

    Args:
      features: finite; a memory map, say.
      n_clusters: from 1 to n.
      random_state: seed of the starts, and of the order in which mini-batches are drawn.

    Returns:
      The cluster of each row, and its Euclidean distance to the centre of that cluster.

    References:
      Sculley, "Web-scale k-means clustering" (2010), for mini-batches.
    """
    if len(features) <= WHOLE:
        found = kmeans(features, n_clusters, random_state=random_state)
        return found.assignment, found.distance.astype(np.float32)
    model = MiniBatchKMeans(n_clusters, random_state=random_state)
    random, rows = np.random.default_rng(random_state), max(ROWS, 2 * n_clusters)
    with threadpool_limits(1):  # as in the evaluations: the same sums on every machine
        for _ in range(PASSES):
            order = random.permutation(len(features))
            for start in range(0, len(order), rows):
                # Rows of a folder stand class by class: a batch is drawn from all of them.
                model.partial_fit(features[np.sort(order[start : start + rows])])
        nearest = [pairwise_distances_argmin_min(piece, model.cluster_centers_) for piece in pieces(features)]
    assignment, distance = (np.concatenate(parts) for parts in zip(*nearest))
    return assignment.astype(np.int32), distance.astype(np.float32)


def principal_components(features: NDArray[np.floating], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean [d] of features [n, d] and the directions [d, count] of their greatest variance, greatest first.

    They are the covariance's eigenvectors, exact whatever the number of rows; of each sign the one whose largest entry is positive.
    Directions that the features do not have (count > d) are zero.
    """
    n, dim = features.shape
    mean = sum((piece.sum(0, dtype=np.float64) for piece in pieces(features)), np.zeros(dim)) / n
    covariance = np.zeros((dim, dim))
    for piece in pieces(features):
        centred = piece - mean
        covariance += centred.T @ centred
    _, vectors = np.linalg.eigh(covariance)
    vectors = vectors[:, ::-1][:, :count]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], axis=0)
    vectors = vectors * np.where(largest < 0, -1.0, 1.0)
    return mean, np.pad(vectors, ((0, 0), (0, count - vectors.shape[1])))


def projected(
    features: NDArray[np.floating], mean: NDArray[np.float64], directions: NDArray[np.float64]
) -> NDArray[np.float32]:
    """(features - mean) @ directions, [n, count]."""
    return np.concatenate([((piece - mean) @ directions).astype(np.float32) for piece in pieces(features)])
