"""AMI against its formula, the silhouette against its definition, K-means and the rows made of them."""

import numpy as np
import pytest
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from ssljax.errors import UserError
from ssljax.evaluate import clustering
from ssljax.evaluate.clustering import adjusted_mutual_information, kmeans, nearest_to_centers, silhouette
from ssljax.evaluate.measure import clustering_measurements


def planted(n=240, k=4, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    return (rng.normal(size=(k, 6)) * 4)[labels] + rng.normal(0, spread, (n, 6)), labels


def ami_by_formula(x, y):
    """Appendix D.3 of the paper: (MI - E) / (max(H(X), H(Y)) - E)."""
    n = len(x)
    table = np.array([[np.sum((x == a) & (y == b)) for b in np.unique(y)] for a in np.unique(x)])
    joint, p, q = table / n, table.sum(1) / n, table.sum(0) / n
    some = joint > 0
    mutual = np.sum(joint[some] * np.log(joint[some] / np.outer(p, q)[some]))
    expected = expected_mutual_information(contingency_matrix(x, y, sparse=True), n)
    larger = max(-np.sum(p * np.log(p)), -np.sum(q * np.log(q)))
    return (mutual - expected) / (larger - expected)


@pytest.mark.parametrize("seed", range(4))
def test_ami_is_the_papers_formula(seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(5, size=150)
    y = np.where(rng.random(150) < 0.6, x // 2, rng.integers(3, size=150))  # unequal entropies: max matters
    assert adjusted_mutual_information(x, y) == pytest.approx(ami_by_formula(x, y), abs=1e-10)


def test_ami_of_planted_partitions():
    rng = np.random.default_rng(0)
    x = rng.integers(6, size=400)
    assert adjusted_mutual_information(x, (x * 5 + 3) % 7) == pytest.approx(1)  # the same partition, renamed
    values = [adjusted_mutual_information(x, rng.permutation(x)) for _ in range(40)]
    assert abs(np.mean(values)) < 0.003
    assert min(values) < 0  # below chance is negative, not clipped
    assert adjusted_mutual_information(x, np.zeros(400, int)) == 0


def test_silhouette_is_its_definition():
    points, labels = planted(n=40, k=3, spread=2.0)
    points = np.concatenate([points, [[30.0] * 6]])  # and one alone in its cluster, which counts 0
    labels = np.append(labels, 3)
    values = []
    for i, point in enumerate(points):
        away = np.sqrt(((points - point) ** 2).sum(1))
        own = (labels == labels[i]) & (np.arange(len(points)) != i)
        if not own.any():
            values.append(0.0)
            continue
        a = away[own].mean()
        b = min(away[labels == other].mean() for other in set(labels) - {labels[i]})
        values.append((b - a) / max(a, b))
    assert silhouette(points, labels) == pytest.approx(np.mean(values), abs=1e-10)


def test_silhouette_of_one_cluster_is_undefined():
    points, _ = planted()
    assert np.isnan(silhouette(points, np.zeros(len(points), int)))
    assert np.isnan(silhouette(points, np.arange(len(points))))


def test_silhouette_of_a_sample_is_near_the_whole(monkeypatch):
    points, labels = planted(n=900, spread=1.5)
    whole = silhouette(points, labels)
    monkeypatch.setattr(clustering, "SILHOUETTE_SAMPLE", 450)
    sampled = silhouette(points, labels)
    assert sampled != whole and sampled == pytest.approx(whole, abs=0.02)
    assert sampled == silhouette(points, labels)


def test_kmeans_finds_planted_clusters_and_its_own_distances():
    points, labels = planted()
    found = kmeans(points, 4, random_state=3)
    assert adjusted_mutual_information(labels, found.assignment) == pytest.approx(1)
    for cluster in range(4):
        own = points[found.assignment == cluster]
        np.testing.assert_allclose(found.centers[cluster], own.mean(0), rtol=1e-6)
    for i in (0, 17, 101):
        expected = np.sqrt(((points[i] - found.centers[found.assignment[i]]) ** 2).sum())
        assert found.distance[i] == pytest.approx(expected)
    again = kmeans(points, 4, random_state=3)
    np.testing.assert_array_equal(found.assignment, again.assignment)


def test_nearest_to_centers():
    points, _ = planted(n=30)
    found = kmeans(points, 4, random_state=0)
    nearest = nearest_to_centers(found, 12)
    for cluster, row in enumerate(nearest):
        members = [i for i in range(30) if found.assignment[i] == cluster]
        ranked = sorted(members, key=lambda i: np.linalg.norm(points[i] - found.centers[cluster]))[:12]
        assert row.tolist() == ranked + [-1] * (12 - len(ranked))
    assert (nearest == -1).any()  # the case was met


def test_rows_of_planted_clusters():
    points, labels = planted(n=400)
    rows, found = clustering_measurements(points, labels, n_clusters=4, random_state=1)
    values = {(row.evaluation, row.target, row.metric): row.value for row in rows}
    assert values.keys() == {
        ("kmeans", "label", "ami"),
        ("kmeans", "shuffled", "ami"),
        ("kmeans", "label", "silhouette"),
    }
    assert values["kmeans", "label", "ami"] == pytest.approx(1)
    assert abs(values["kmeans", "shuffled", "ami"]) < 0.02
    assert values["kmeans", "label", "silhouette"] == silhouette(points, found.assignment)


def test_rows_without_labels_and_on_the_sphere():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    # Classes are directions; lengths vary so much that only the sphere shows them.
    points = np.eye(3)[labels] * rng.uniform(0.1, 50, (200, 1)) + rng.normal(0, 0.005, (200, 3))
    rows, _ = clustering_measurements(points, None, n_clusters=3, random_state=0)
    assert [row.metric for row in rows] == ["silhouette"]
    raw, _ = clustering_measurements(points, labels, n_clusters=3, random_state=0)
    sphere, _ = clustering_measurements(points, labels, n_clusters=3, random_state=0, normalize="l2")
    assert sphere[0].value == pytest.approx(1) and raw[0].value < 0.9


def test_a_collapsed_representation_scores_nothing():
    rows, found = clustering_measurements(np.ones((50, 4)), np.arange(50) % 5, n_clusters=5, random_state=0)
    assert set(found.assignment) == {0}
    assert [row.value for row in rows[:2]] == [0, 0] and np.isnan(rows[2].value)


def test_bad_input():
    with pytest.raises(UserError, match="given 6 clusters for 5 points"):
        kmeans(np.random.default_rng(0).normal(size=(5, 2)), 6, random_state=0)
    with pytest.raises(UserError, match="did you mean|known: l2, none"):
        clustering_measurements(np.ones((5, 2)), None, n_clusters=2, random_state=0, normalize="L3x")
