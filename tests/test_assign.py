"""Solvers by their own mathematics: Sinkhorn's marginals and fixed point, k-means' monotone objective, nearest rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.metrics import adjusted_rand_score

from ssljax import assign, losses


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cosines(n, k, seed=0):
    rng = np.random.default_rng(seed)
    return (unit(rng.normal(size=(n, 16))) @ unit(rng.normal(size=(k, 16))).T).astype(np.float32)


# One program for all tests of Sinkhorn-Knopp at one shape: the number of iterations is traced.
sinkhorn = jax.jit(assign.sinkhorn_knopp)


def numpy_sinkhorn(scores, epsilon, iterations):
    """SwAV's algorithm as its paper prints it, linear and in float64: [prototypes, samples], samples last."""
    q = np.exp(scores.astype(np.float64) / epsilon).T
    k, n = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= k * q.sum(axis=1, keepdims=True)
        q /= n * q.sum(axis=0, keepdims=True)
    return n * q.T


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_sinkhorn_is_swavs_algorithm_in_its_order(iterations):
    scores = cosines(24, 10)
    codes = sinkhorn(scores, 0.05, iterations)
    assert codes.dtype == jnp.float32
    np.testing.assert_allclose(codes, numpy_sinkhorn(scores, 0.05, iterations), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(codes.sum(axis=1), np.ones(24), rtol=1e-5)


def test_sinkhorn_uses_every_prototype_equally_though_all_samples_prefer_one():
    scores = cosines(24, 10)
    scores[:, 0] += 1
    assert np.argmax(scores, axis=1).max() == 0
    codes = sinkhorn(scores, 0.05, 1000)
    np.testing.assert_allclose(codes.sum(axis=0), np.full(10, 2.4), rtol=1e-4)


def test_sinkhorn_converges_to_the_solution_of_entropic_transport():
    """The optimum is the one plan with these marginals whose logarithm is scores / epsilon + u_i + v_j."""
    scores = cosines(24, 10, seed=1)
    codes = np.asarray(sinkhorn(scores, 0.2, 1000), np.float64)
    np.testing.assert_allclose(codes.sum(axis=0), np.full(10, 2.4), rtol=1e-5)
    rest = np.log(codes) - scores / 0.2
    interaction = rest - rest.mean(axis=0) - rest.mean(axis=1, keepdims=True) + rest.mean()
    np.testing.assert_allclose(interaction, np.zeros((24, 10)), atol=1e-5)


def test_sinkhorn_survives_scores_that_overflow():
    scores = cosines(24, 10) / 0.9 * 500  # up to 1e4 after the division by epsilon
    codes = sinkhorn(scores, 0.05, 3)
    log_codes = scores.astype(np.float64) / 0.05
    for _ in range(3):
        log_codes -= logsumexp(log_codes, axis=0)
        log_codes -= logsumexp(log_codes, axis=1, keepdims=True)
    # A float32 of size 1e4 is good to 5e-4, and that error is in a logarithm here.
    np.testing.assert_allclose(codes, np.exp(log_codes), atol=5e-3)
    np.testing.assert_allclose(codes.sum(axis=1), np.ones(24), rtol=1e-5)


def test_sinkhorn_passes_no_gradient_and_runs_inside_vmap_of_grad():
    scores = np.stack([cosines(24, 10), cosines(24, 10, seed=1)])
    epsilons, iterations = jnp.array([0.05, 0.1]), jnp.array([3, 5])

    def loss(scores, epsilon, iterations):
        codes = assign.sinkhorn_knopp(scores, epsilon, iterations)
        return losses.soft_cross_entropy(jnp.zeros_like(scores), codes, 1.0) + jnp.sum(codes**2), codes

    (_, codes), gradient = jax.jit(jax.vmap(jax.value_and_grad(loss, has_aux=True)))(scores, epsilons, iterations)
    assert not np.any(gradient)
    for run in range(2):
        expected = numpy_sinkhorn(scores[run], float(epsilons[run]), int(iterations[run]))
        np.testing.assert_allclose(codes[run], expected, rtol=1e-4, atol=1e-7)


def test_sinkhorn_computes_bfloat16_scores_in_float32():
    scores = jnp.asarray(cosines(24, 10), jnp.bfloat16)
    np.testing.assert_array_equal(sinkhorn(scores, 0.05, 3), sinkhorn(scores.astype(jnp.float32), 0.05, 3))


# k-means


def points(n, d=8, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(n, d))).astype(np.float32)


def numpy_kmeans(x, centroids, iterations):
    """Lloyd's algorithm on the sphere, cluster by cluster, in float64."""
    x, centroids = x.astype(np.float64), centroids.astype(np.float64).copy()
    for _ in range(iterations):
        own = np.argmax(x @ centroids.T, axis=1)
        for j in range(len(centroids)):
            if np.any(own == j):
                centroids[j] = unit(x[own == j].sum(axis=0))
    own = np.argmax(x @ centroids.T, axis=1)
    return centroids, own, np.mean([row @ centroids[j] for row, j in zip(x, own)])


@pytest.fixture(scope="module")
def trajectory():
    """300 points of which every third was never seen, and their clusterings after 0 to 10 iterations, from one start."""
    x = points(300)
    x[::3] = 0
    solve = jax.jit(jax.vmap(lambda i: assign.spherical_kmeans(x, 7, jax.random.key(1), i)))
    return x, solve(jnp.arange(11))


def test_kmeans_starts_from_distinct_seen_rows(trajectory):
    x, clusterings = trajectory
    start = np.asarray(clusterings.centroids[0])
    rows = [np.flatnonzero((x == c).all(axis=1)) for c in start]
    assert all(len(r) == 1 and r[0] % 3 for r in rows)
    assert len({int(r[0]) for r in rows}) == 7


def test_kmeans_is_lloyds_algorithm_over_the_seen_rows(trajectory):
    x, clusterings = trajectory
    seen = np.arange(300) % 3 > 0
    start = np.asarray(clusterings.centroids[0])
    for i in range(11):
        centroids, own, objective = numpy_kmeans(x[seen], start, i)
        np.testing.assert_allclose(clusterings.centroids[i], centroids, atol=1e-5)
        np.testing.assert_array_equal(clusterings.assignment[i][seen], own)
        np.testing.assert_allclose(clusterings.objective[i], objective, rtol=1e-5)
    assert clusterings.assignment.dtype == jnp.int32
    assert np.all(clusterings.assignment[:, ~seen] == -1)


def test_kmeans_objective_never_falls(trajectory):
    _, clusterings = trajectory
    objective = np.asarray(clusterings.objective)
    assert np.all(np.diff(objective) > -1e-6)
    assert objective[-1] > objective[0] + 0.05


def test_kmeans_finds_planted_clusters():
    rng = np.random.default_rng(3)
    truth = rng.integers(5, size=200)
    x = unit(np.eye(8)[truth] + 0.1 * rng.normal(size=(200, 8))).astype(np.float32)
    _, _, planted = numpy_kmeans(x, np.eye(8)[:5], 10)
    solve = jax.jit(jax.vmap(lambda key: assign.spherical_kmeans(x, 5, key)))
    clusterings = solve(jax.random.split(jax.random.key(0), 16))
    best = int(np.argmax(clusterings.objective))  # one start of several: Lloyd's algorithm stops at local optima
    assert adjusted_rand_score(truth, clusterings.assignment[best]) == 1
    np.testing.assert_allclose(clusterings.objective[best], planted, rtol=1e-5)
    assert np.all(clusterings.objective < planted + 1e-6)


@pytest.mark.parametrize("seen", [0, 2, 5])
def test_kmeans_with_as_many_or_fewer_rows_than_clusters(seen):
    x = np.zeros((40, 8), np.float32)
    x[10 : 10 + seen] = points(seen)
    centroids, assignment, objective = assign.spherical_kmeans(x, 5, jax.random.key(0), 3)
    own = np.full(40, -1)
    own[10 : 10 + seen] = assignment[10 : 10 + seen]
    np.testing.assert_array_equal(assignment, own)
    # Each row is a centroid, and a centroid that lost its rows to a twin stays a copy of one.
    np.testing.assert_allclose(objective, 1 if seen else 0, rtol=1e-6)
    np.testing.assert_allclose(centroids[own[10 : 10 + seen]], x[10 : 10 + seen], atol=1e-6)
    assert len(np.unique(np.round(centroids, 5), axis=0)) == max(seen, 1)


def test_kmeans_leaves_a_centroid_without_members_where_it_is():
    # Opposite members sum to zero, which has no direction either.
    x = np.array([[1, 0], [1, 0], [-1, 0], [-1, 0]], np.float32)
    for key in range(4):
        centroids, _, _ = assign.spherical_kmeans(x, 3, jax.random.key(key), 5)
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), np.ones(3), rtol=1e-6)
        assert np.all(np.any(np.all(np.isclose(centroids[:, None], x), axis=2), axis=1))


def test_kmeans_in_chunks_is_kmeans_and_needs_less_memory(monkeypatch):
    x = points(20_000)  # several chunks, the last not full
    key = jax.random.key(0)
    program = jax.jit(lambda x: assign.spherical_kmeans(x, 64, key, 3)).lower(x).compile()
    assert program.memory_analysis().temp_size_in_bytes < 20_000 * 64 * 4
    chunked = program(x)
    monkeypatch.setattr(assign.clustering, "_CHUNK", 1 << 30)
    whole = jax.jit(lambda x: assign.spherical_kmeans(x, 64, key, 3))(x)
    np.testing.assert_allclose(chunked.centroids, whole.centroids, atol=1e-4)
    # Summed in another order, a row half-way between two centroids may go either way.
    assert np.mean(np.asarray(chunked.assignment) != np.asarray(whole.assignment)) < 1e-3
    np.testing.assert_allclose(chunked.objective, whole.objective, rtol=1e-5)
    counts = np.bincount(chunked.assignment, minlength=64)
    assert counts.sum() == 20_000
    assert counts.min() > 0


def test_kmeans_passes_no_gradient():
    x = points(30)
    gradient = jax.grad(lambda x: assign.spherical_kmeans(x, 3, jax.random.key(0)).objective)(x)
    assert not np.any(gradient)


# Nearest rows


def test_nearest_is_the_row_of_least_distance_and_passes_no_gradient():
    x, queue = 3 * points(20), points(50, seed=1)
    rows, index = assign.nearest(x, queue)
    distances = np.linalg.norm(unit(x.astype(np.float64))[:, None] - queue, axis=2)
    np.testing.assert_array_equal(index, np.argmin(distances, axis=1))
    np.testing.assert_array_equal(rows, queue[np.argmin(distances, axis=1)])
    for gradient in jax.grad(lambda *arrays: jnp.sum(assign.nearest(*arrays)[0]), (0, 1))(x, queue):
        assert not np.any(gradient)
