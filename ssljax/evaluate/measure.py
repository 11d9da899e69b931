"""Measures as rows: what the result tables hold about one run.

The k-NN normalises its features to unit length (the measure is a cosine); K-means and the silhouette take
the features as they are unless told otherwise.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ssljax.errors import UserError
from ssljax.evaluate.arrays import Normalize, feature_matrix, label_vector, normalized
from ssljax.evaluate.clustering import Clustering, adjusted_mutual_information, kmeans, silhouette
from ssljax.evaluate.scores import average_precision_11, map11, per_class_accuracy, per_class_f1, top_k


class Measurement(NamedTuple):
    """One row of results.csv, less the columns that say which run it is."""

    evaluation: str
    target: str
    metric: str
    value: float


class ClassMeasurement(NamedTuple):
    """One row of per_class.csv, less the columns that say which run it is."""

    evaluation: str
    target: str
    class_name: str
    metric: str
    value: float


def classification(
    evaluation: str, scores: ArrayLike, labels: ArrayLike, class_names: Sequence[str], target: str = "label"
) -> tuple[list[Measurement], list[ClassMeasurement]]:
    """Rows for a classifier's scores: overall, and class by class.

    Overall: top1, top5 (only above 5 classes), mean_per_class, f1 (macro); class by class: accuracy, f1.
    All are fractions in [0, 1]. A class without images gives no row and is left out of the means.

    Args:
      evaluation: "linear", "knn", ...
      scores: [m, n_classes], higher is more likely.
      labels: integers [m].
      class_names: n_classes names.
      target: the label column scored against.
    """
    n_classes = np.asarray(scores).shape[-1]
    if len(class_names) != n_classes:
        raise UserError(f"{evaluation}: given {len(class_names)} class names, expected {n_classes}")
    by_metric = {"accuracy": per_class_accuracy(scores, labels), "f1": per_class_f1(scores, labels)}
    rows = [Measurement(evaluation, target, "top1", top_k(scores, labels, 1))]
    if n_classes > 5:
        rows.append(Measurement(evaluation, target, "top5", top_k(scores, labels, 5)))
    rows.append(Measurement(evaluation, target, "mean_per_class", float(np.nanmean(by_metric["accuracy"]))))
    rows.append(Measurement(evaluation, target, "f1", float(np.nanmean(by_metric["f1"]))))
    per_class = [
        ClassMeasurement(evaluation, target, name, metric, float(value))
        for metric, values in by_metric.items()
        for name, value in zip(class_names, values, strict=True)
        if not np.isnan(value)
    ]
    return rows, per_class


def many_labels(
    evaluation: str, scores: ArrayLike, labels: ArrayLike, class_names: Sequence[str], target: str = "label"
) -> tuple[list[Measurement], list[ClassMeasurement]]:
    """Rows for a classifier's scores where an image may have many labels: map11 overall, ap11 class by class.

    A class that no image has gives no row and is left out of the mean.

    Args:
      evaluation, class_names, target: as for `classification`.
      scores: [m, n_classes], higher is more likely.
      labels: [m, n_classes]; 1 present, -1 absent, 0 not judged.
    """
    matrix, truth = np.asarray(scores), np.asarray(labels)
    rows = [Measurement(evaluation, target, "map11", map11(matrix, truth))]
    each = [average_precision_11(own, present) for own, present in zip(matrix.T, truth.T, strict=True)]
    named = zip(class_names, each, strict=True)
    return rows, [ClassMeasurement(evaluation, target, name, "ap11", v) for name, v in named if not np.isnan(v)]


def means(
    evaluation: str,
    metric: str,
    values: ArrayLike,
    labels: ArrayLike | None,
    class_names: Sequence[str],
    target: str = "",
) -> tuple[list[Measurement], list[ClassMeasurement]]:
    """Rows for a measure that has one value an image: its mean, and class by class where there are labels.

    A class without images gives no row.

    Args:
      evaluation, metric: what the rows are called.
      values: [n].
      labels: integers [n], or None.
      class_names: by label.
      target: the label column scored against; none for a measure that scores against none.
    """
    each = np.asarray(values, np.float64)
    if labels is None:
        return [Measurement(evaluation, target, metric, float(each.mean()))], []
    truth = label_vector(labels, len(each), evaluation)
    per_class = [
        ClassMeasurement(evaluation, target, name, metric, float(each[truth == label].mean()))
        for label, name in enumerate(class_names)
        if (truth == label).any()
    ]
    return [Measurement(evaluation, target, metric, float(each.mean()))], per_class


def clustering_measurements(
    features: ArrayLike,
    labels: ArrayLike | None,
    *,
    n_clusters: int,
    random_state: int,
    normalize: Normalize = "none",
    evaluation: str = "kmeans",
    target: str = "label",
    columns: Mapping[str, ArrayLike] | None = None,
) -> tuple[list[Measurement], Clustering]:
    """Rows for K-means on a representation: ami, silhouette, ami against further columns and against shuffled labels.

    The shuffled row (its target is "shuffled") is the same clusters against the labels permuted by
    `random_state`: what the score gives by chance. Without labels there is only the silhouette.

    Args:
      features: [n, d] of held-out images.
      labels: integers [n], or None.
      n_clusters: K.
      random_state: seed of the K-means starts and of the permutation.
      normalize: "none" clusters the features as they are, "l2" on the unit sphere.
      evaluation: "kmeans", or "kmeans@k4" to tell several apart.
      target: the label column scored against.
      columns: name -> text [n], also scored against, each the target of a row. An image whose text is empty is left out; a column
        that is the same for all has no row.

    Returns:
      The rows, and the clustering they describe.
    """
    points = normalized(feature_matrix(features, evaluation), normalize)
    clusters = kmeans(points, n_clusters, random_state=random_state)
    rows = [
        Measurement(evaluation, name, "ami", adjusted_mutual_information(codes, clusters.assignment[known]))
        for name, column in (columns or {}).items()
        for known in [np.asarray(column) != ""]
        for values, codes in [np.unique(np.asarray(column)[known], return_inverse=True)]
        if len(values) > 1
    ]
    if labels is not None:
        truth = label_vector(labels, len(points), evaluation)
        shuffled = np.random.default_rng(random_state).permutation(truth)
        ours, chance = (
            Measurement(evaluation, name, "ami", adjusted_mutual_information(against, clusters.assignment))
            for name, against in ((target, truth), ("shuffled", shuffled))
        )
        rows = [ours, *rows, chance]
    rows.append(Measurement(evaluation, target, "silhouette", silhouette(points, clusters.assignment)))
    return rows, clusters
