"""K-means on a representation, and how well the clusters agree with labels and hold together.

No Free Lunch in SSL (2023), section 2.1 and appendix D.3: K-means on the representations of the test set,
adjusted mutual information (Vinh et al., 2010) and silhouette (Rousseeuw, 1987).
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_mutual_info_score, silhouette_score
from threadpoolctl import threadpool_limits

from ssljax.errors import UserError
from ssljax.evaluate.arrays import feature_matrix, label_vector

# The silhouette compares every pair of points: above this many it is computed on a sample (our choice).
SILHOUETTE_SAMPLE = 10_000


class Clustering(NamedTuple):
    """A K-means result.

    Attributes:
      assignment: int32 [n], the cluster of each point.
      centers: [n_clusters, d].
      distance: [n], Euclidean distance of each point to the centre of its own cluster.
    """

    assignment: NDArray[np.int32]
    centers: NDArray[np.floating]
    distance: NDArray[np.floating]


def kmeans(features: ArrayLike, n_clusters: int, *, random_state: int, n_init: int = 10) -> Clustering:
    """Lloyd's K-means with k-means++ starts; the best of `n_init` by inertia.

    It runs in one thread: sums are then in one order on every machine, and scikit-learn's threads, which spin
    while they wait, made 300 points take 2.2 s instead of .02 s on two busy cores.

    Args:
      features: [n, d], used as they are.
      n_clusters: from 1 to n. A collapsed representation may fill fewer.
      random_state: seed of the starts.
      n_init: number of starts. 10 is our choice; the papers do not say.

    Raises:
      UserError: features that are not a finite matrix, or fewer points than clusters.
    """
    points = feature_matrix(features, "K-means")
    if not 1 <= n_clusters <= len(points):
        raise UserError(f"K-means: given {n_clusters} clusters for {len(points)} points, expected no more")
    with warnings.catch_warnings():
        # Fewer distinct points than clusters: a collapsed encoder, which the scores below show plainly.
        warnings.simplefilter("ignore", ConvergenceWarning)
        with threadpool_limits(1):
            model = KMeans(n_clusters, n_init=n_init, random_state=random_state).fit(points)
    distance = np.linalg.norm(points - model.cluster_centers_[model.labels_], axis=1)
    return Clustering(model.labels_.astype(np.int32), model.cluster_centers_, distance)


def adjusted_mutual_information(labels: ArrayLike, clusters: ArrayLike) -> float:
    """(MI - E[MI]) / (max(H(labels), H(clusters)) - E[MI]): 1 for the same partition, about 0 by chance.

    Normalised by the larger entropy, as the paper's appendix D.3 defines it. May be negative; not clipped.

    Args:
      labels: integers [n].
      clusters: integers [n].
    """
    given = np.asarray(labels)
    found = label_vector(clusters, len(given), "adjusted mutual information")
    return float(adjusted_mutual_info_score(given, found, average_method="max"))


def silhouette(features: ArrayLike, clusters: ArrayLike) -> float:
    """Mean over points of (b - a) / max(a, b), in [-1, 1]; higher is better separated. No labels involved.

    a is a point's mean Euclidean distance to its own cluster, b that to the nearest other cluster; a point
    alone in its cluster counts 0. Above 10,000 points it is the value on a fixed random sample of 10,000.

    Args:
      features: [n, d], used as they are.
      clusters: integers [n].

    Returns:
      The silhouette, or NaN where it is undefined: a single cluster, or every point its own cluster.
    """
    points = feature_matrix(features, "silhouette")
    assigned = label_vector(clusters, len(points), "silhouette")
    if len(points) > SILHOUETTE_SAMPLE:
        sample = np.random.default_rng(0).choice(len(points), SILHOUETTE_SAMPLE, replace=False)
        points, assigned = points[sample], assigned[sample]
    if not 2 <= len(np.unique(assigned)) < len(points):
        return float("nan")
    return float(silhouette_score(points, assigned))


def nearest_to_centers(clustering: Clustering, count: int) -> NDArray[np.int64]:
    """Indices [n_clusters, count] of the points nearest each centre; -1 fills a smaller cluster."""
    nearest = np.full((len(clustering.centers), count), -1, dtype=np.int64)
    for cluster, row in enumerate(nearest):
        members = np.flatnonzero(clustering.assignment == cluster)
        chosen = members[np.argsort(clustering.distance[members], kind="stable")[:count]]
        row[: len(chosen)] = chosen
    return nearest
