"""MIRA's solver against convex solvers and the paper's iteration in float64, by its certificate, and by its invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from scipy.optimize import minimize
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import entropy

from ssljax import assign, losses

TAU = 0.225

# One program a shape for all temperatures, betas and tolerances.
mira = jax.jit(assign.mira, static_argnames="axis_name")
sinkhorn = jax.jit(assign.sinkhorn)
objective = jax.jit(assign.mira_objective)
duality_gap = jax.jit(assign.duality_gap, static_argnames="axis_name")


def solve64(solver, *arrays, **options):
    """A solver, or another function of arrays, in float64; as numpy arrays."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, solver(*(jnp.asarray(x, jnp.float64) for x in arrays), **options))


def cosines(n, k, *, d=16, noise=None, seed=0):
    """Unit vectors times unit prototypes; with noise, each vector is near a prototype, of which some are dear to many."""
    rng = np.random.default_rng(seed)
    prototypes, x = rng.normal(size=(k, d)), rng.normal(size=(n, d))
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    if noise is not None:
        share = 1 / np.arange(1, k + 1)
        x = prototypes[rng.choice(k, size=n, p=share / share.sum())] + noise * x / np.sqrt(d)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ prototypes.T


def log_p(logits):
    return log_softmax(logits / TAU, axis=1)


def labels_at(log_u, logits, beta):
    """Equation 5."""
    return softmax((log_p(logits) - beta * log_u) / (1 - beta), axis=1)


def papers_iteration(logits, beta, steps, log_u=0.0):
    """Equation 7 as printed, but for logarithms, then equation 5; from any constant u."""
    log_u = np.full(logits.shape[1], log_u)
    powers = log_p(logits) / (1 - beta)
    for _ in range(steps):
        log_sum = np.logaddexp.reduce(powers - beta / (1 - beta) * log_u, axis=1, keepdims=True)
        log_u = (1 - beta) * (np.logaddexp.reduce(powers - log_sum, axis=0) - np.log(len(logits)))
    return labels_at(log_u, logits, beta)


def mirror_descent(logits, beta, start, steps=1200):
    """Exponentiated gradients of half a unit on equation 4, all samples' rows at once."""
    log_w = log_softmax(start, axis=1)
    for _ in range(steps):
        log_mean = np.logaddexp.reduce(log_w, axis=0) - np.log(len(logits))
        log_w = log_softmax(log_w - 0.5 * ((1 - beta) * log_w + beta * log_mean - log_p(logits)), axis=1)
    return np.exp(log_w)


def equation_4(w, logits, beta):
    mean = w.mean(axis=0)
    inner = -w * log_p(logits) + (1 - beta) * w * np.log(np.maximum(w, 1e-300))
    return inner.sum() / len(w) + beta * np.sum(mean * np.log(np.maximum(mean, 1e-300)))


def constrained(logits, beta, *, equipartition=False):
    """Equation 4's minimum over the simplices by scipy's SLSQP, with equal columns if asked for."""
    n, k = logits.shape

    def gradient(flat):
        w = flat.reshape(n, k)
        terms = -log_p(logits) + (1 - beta) * (np.log(w) + 1) + beta * (np.log(w.mean(axis=0)) + 1)
        return terms.reshape(-1) / n

    rows = np.kron(np.eye(n), np.ones(k))
    columns = np.kron(np.ones(n), np.eye(k))[:-1]  # the last column's sum follows from the others
    matrix = np.concatenate([rows, columns]) if equipartition else rows
    target = np.concatenate([np.ones(n), np.full(k - 1, n / k)]) if equipartition else np.ones(n)
    found = minimize(
        lambda flat: equation_4(flat.reshape(n, k), logits, beta),
        np.full(n * k, 1 / k),
        jac=gradient,
        bounds=[(1e-12, 1)] * (n * k),
        constraints={"type": "eq", "fun": lambda flat: matrix @ flat - target, "jac": lambda flat: matrix},
        method="SLSQP",
        options={"maxiter": 2000, "ftol": 1e-16},
    )
    return found.x.reshape(n, k)


# Against independent solvers


@pytest.mark.parametrize("beta", [0.3, 2 / 3, 0.9])
def test_labels_are_those_of_a_constrained_convex_solver(beta):
    logits = 0.3 * np.random.default_rng(0).normal(size=(5, 3))
    labels = solve64(mira, logits, beta=beta, tol=1e-12, max_iter=500).labels
    np.testing.assert_allclose(labels, constrained(logits, beta), atol=1e-6)
    assert np.abs(labels - softmax(logits / TAU, axis=1)).max() > 0.01


@pytest.mark.parametrize("beta", [0.5, 2 / 3, 0.95])
def test_mirror_descent_ends_at_the_same_labels_from_every_start(beta):
    logits = cosines(40, 12, noise=0.5)
    labels = solve64(mira, logits, beta=beta, tol=1e-12, max_iter=500).labels
    for scale in (0, 1, 10):
        start = scale * np.random.default_rng(scale).normal(size=logits.shape)
        np.testing.assert_allclose(mirror_descent(logits, beta, start), labels, atol=1e-6)
    np.testing.assert_allclose(mira(logits, beta=beta, max_iter=200).labels, labels, atol=3e-5)


@pytest.mark.parametrize("steps", [0, 1, 3, 30])
def test_a_fixed_number_of_steps_is_the_papers_iteration_from_any_constant(steps):
    logits = cosines(40, 12, noise=0.5)
    for beta in (0.5, 0.9):
        result = solve64(mira, logits, beta=beta, steps=steps)
        assert result.steps == steps
        for constant in (0.0, -np.log(12)):
            expected = papers_iteration(logits, beta, steps, constant)
            np.testing.assert_allclose(result.labels, expected, atol=1e-12)
        np.testing.assert_allclose(result.marginal, expected.mean(axis=0), atol=1e-12)


def test_equipartition_turns_the_problem_into_swavs():
    """The paper's footnote 4: with equal columns, the marginal's entropy is constant and Sinkhorn-Knopp solves the rest."""
    logits, beta = 0.3 * np.random.default_rng(1).normal(size=(6, 3)), 2 / 3
    codes = solve64(sinkhorn, log_p(logits), epsilon=1 - beta, tol=1e-12, max_iter=1000)
    assert codes.residual <= 1e-12
    np.testing.assert_allclose(constrained(logits, beta, equipartition=True), codes.labels, atol=1e-6)
    assert np.abs(constrained(logits, beta) - codes.labels).max() > 0.01


# The certificate


def residual_of(result, logits, beta):
    """How far the labels' marginal is from being the marginal of the labels that it gives, in float64."""
    marginal = np.asarray(result.marginal, np.float64)
    again = labels_at(np.log(np.maximum(marginal, 1e-300)), logits, beta).mean(axis=0)
    return np.abs(again - marginal).sum()


@pytest.mark.parametrize("dtype, tol", [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("noise", [None, 0.5])
def test_the_tolerance_is_met_up_to_beta_95(dtype, tol, noise):
    logits = cosines(64, 150, noise=noise).astype(dtype)
    for beta in (0, 0.5, 2 / 3, 0.75, 0.9, 0.95):
        with jax.enable_x64(dtype == "float64"):
            result = jax.tree.map(np.asarray, mira(jnp.asarray(logits), beta=beta, tol=tol, max_iter=150))
        assert result.labels.dtype == result.residual.dtype == dtype
        assert result.steps < 150
        assert result.residual <= tol
        # Labels answer to a change of the marginal by beta / (1 - beta) at most.
        assert residual_of(result, logits.astype(np.float64), beta) <= 20 * tol
        np.testing.assert_allclose(result.labels.sum(axis=1), np.ones(64), rtol=1e-6)
        np.testing.assert_allclose(result.marginal, result.labels.mean(axis=0), atol=1e-7)


@pytest.mark.parametrize("beta", [0.0, 0.3, 2 / 3, 0.9])
def test_the_duality_gap_is_that_of_the_dual_and_bounds_what_is_above_the_optimum(beta):
    rng = np.random.default_rng(0)
    logits = 0.3 * rng.normal(size=(5, 3))
    least = float(solve64(objective, constrained(logits, beta), logits, beta=beta)) if beta else 0.0

    def dual(u):  # written from its definition, in the paper's words
        p = softmax(logits / TAU, axis=1)
        sums = (p ** (1 / (1 - beta)) * u ** (-beta / (1 - beta))).sum(axis=1)
        return -(1 - beta) * np.log(sums).mean()

    guesses = [softmax(logits / TAU, axis=1), np.full((5, 3), 1 / 3), *rng.dirichlet(np.ones(3), size=(4, 5))]
    for labels in guesses:
        gap = float(solve64(duality_gap, labels, logits, beta=beta))
        value = float(solve64(objective, labels, logits, beta=beta))
        np.testing.assert_allclose(gap, value - dual(labels.mean(axis=0)), atol=1e-12)
        assert gap >= value - least - 1e-8  # SLSQP's optimum is that far off
        assert gap > 1e-3 or (beta == 0 and labels is guesses[0])
    assert all(dual(u) <= least + 1e-8 for u in rng.dirichlet(np.ones(3), size=20))


def test_the_duality_gap_closes_as_the_search_goes_on_and_is_0_at_its_end():
    logits = cosines(64, 150, noise=0.5)
    gaps = [
        float(solve64(duality_gap, solve64(mira, logits, beta=0.9, max_iter=steps).labels, logits, beta=0.9))
        for steps in (1, 3, 10)
    ]
    assert gaps[0] > 2 * gaps[1] > 20 * gaps[2] > 0
    exact = solve64(mira, logits, beta=0.9, tol=1e-12, max_iter=500).labels
    np.testing.assert_allclose(solve64(duality_gap, exact, logits, beta=0.9), 0, atol=1e-13)
    rounded = mira(logits, beta=0.9, max_iter=200).labels
    assert abs(float(duality_gap(rounded, logits, beta=0.9))) < 1e-6  # float32
    dead = np.zeros((4, 3))
    dead[:, 0] = 1e4  # all labels are the first; two columns are dead
    assert abs(float(duality_gap(mira(dead).labels, dead))) < 1e-6


def test_the_duality_gap_of_a_batch_in_shards_is_that_of_the_whole():
    logits = jnp.asarray(cosines(24, 7, noise=0.5), jnp.float32)
    labels = jax.nn.softmax(3 * logits, axis=1)
    spread = jax.vmap(lambda w, x: duality_gap(w, x, axis_name="shards"), axis_name="shards")
    found = spread(labels.reshape(4, 6, 7), logits.reshape(4, 6, 7))
    np.testing.assert_allclose(found, [float(duality_gap(labels, logits))] * 4, rtol=1e-5)


def test_the_residual_tells_when_the_steps_were_too_few():
    logits = cosines(64, 150, noise=0.5)
    residuals = [float(mira(logits, beta=0.9, max_iter=steps).residual) for steps in (1, 3, 10)]
    assert residuals[0] > residuals[1] > residuals[2] > 1e-5
    labels = [mira(logits, beta=0.9, max_iter=steps).labels for steps in (1, 3, 10)]
    exact = solve64(mira, logits, beta=0.9, tol=1e-12, max_iter=1000).labels
    errors = [np.abs(label - exact).sum() for label in labels]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("beta, times", [(2 / 3, 1.5), (0.9, 2.5), (0.95, 3)])
def test_acceleration_saves_most_steps_of_the_papers_iteration(beta, times):
    for noise in (0.5, 2):
        logits = cosines(64, 150, noise=noise)
        result = solve64(mira, logits, beta=beta, tol=1e-8, max_iter=500)
        plain = solve64(mira, logits, beta=beta, steps=int(times * result.steps))
        assert result.residual < plain.residual


@pytest.mark.parametrize("n, k", [(4, 65_536), (300, 2), (1, 5)])
def test_few_labels_and_many(n, k):
    logits = cosines(n, k, d=8).astype(np.float32)
    result = mira(logits)
    assert result.residual <= 1e-5
    np.testing.assert_allclose(result.labels, papers_iteration(logits.astype(np.float64), 2 / 3, 50), atol=2e-5)


# Properties


def batches(low, high):
    return hnp.arrays(np.float32, (12, 7), elements=st.floats(low, high, width=32))


betas = st.floats(0, 0.95)
few = settings(max_examples=50, deadline=None, derandomize=True, database=None)


@few
@given(batches(-2, 2), betas)
def test_no_labels_are_better_than_the_solution(logits, beta):
    result = mira(logits, beta=beta, max_iter=500)
    best = float(objective(result.labels, logits, beta=beta))
    assert result.residual <= 1e-5
    codes = sinkhorn(logits, tol=1e-6, max_iter=200).labels
    own = jax.nn.softmax(logits / TAU, axis=1)
    for other in (own, codes, jnp.full((12, 7), 1 / 7), jnp.eye(7)[jnp.argmax(logits, axis=1)]):
        assert best <= float(objective(other, logits, beta=beta)) + 1e-5
    information = assign.mutual_information(result.labels)
    assert float(information.mutual) >= float(assign.mutual_information(own).mutual) - 1e-4


@few
@given(batches(-2, 2), betas, st.permutations(range(12)), st.permutations(range(7)), st.floats(-5, 5))
def test_labels_follow_permutations_and_ignore_shifts(logits, beta, rows, columns, shift):
    options = {"beta": beta, "tol": 1e-9, "max_iter": 500}
    labels = solve64(mira, logits, **options).labels
    permuted = solve64(mira, logits[np.array(rows)][:, np.array(columns)], **options).labels
    np.testing.assert_allclose(permuted, labels[np.array(rows)][:, np.array(columns)], atol=1e-7)
    shifts = shift * np.arange(12)[:, None]
    np.testing.assert_allclose(solve64(mira, logits + shifts, **options).labels, labels, atol=1e-7)


@few
@given(batches(-1e4, 1e4), betas)
def test_labels_of_logits_of_any_size_are_probabilities(logits, beta):
    result = mira(logits, beta=beta)
    assert all(np.isfinite(leaf).all() for leaf in result)
    np.testing.assert_allclose(result.labels.sum(axis=1), np.ones(12), rtol=1e-5)
    assert np.min(result.labels) >= 0


@pytest.mark.parametrize("beta", [0.3, 2 / 3, 0.9])
def test_dead_labels_stay_dead_and_leave_the_others_alone(beta):
    logits = cosines(40, 12, noise=0.5)
    alive = np.arange(12) % 3 > 0
    expected = solve64(mira, logits[:, alive], beta=beta, tol=1e-10, max_iter=500).labels
    logits[:, ~alive] = -1e4
    result = mira(logits, beta=beta, max_iter=300)
    assert result.residual <= 1e-5
    assert not np.any(result.labels[:, ~alive] > 1e-9)
    np.testing.assert_allclose(result.labels[:, alive], expected, atol=5e-5)


def test_labels_that_the_uniform_start_underflows_are_found():
    """At beta .95 a logit's power is 20: columns too small for float32 at the start are not small at the solution."""
    logits = 0.225 * np.concatenate([np.zeros((30, 1)), np.random.default_rng(0).normal(-8, 1, size=(30, 6))], axis=1)
    result = mira(logits.astype(np.float32), beta=0.95, max_iter=500)
    expected = papers_iteration(logits, 0.95, 3000)
    assert expected.mean(axis=0)[1:].min() > 1e-4
    assert result.residual <= 1e-5
    np.testing.assert_allclose(result.labels, expected, atol=5e-4)


def test_beta_0_gives_the_models_probabilities():
    logits = cosines(40, 12, noise=0.5).astype(np.float32)
    np.testing.assert_allclose(mira(logits, beta=0).labels, jax.nn.softmax(logits / TAU, axis=1), rtol=1e-5)


# JAX


def test_runs_of_their_own_temperature_and_beta_side_by_side():
    logits = np.stack([cosines(40, 12, noise=0.5, seed=seed) for seed in range(3)]).astype(np.float32)
    temperatures, betas = np.array([0.1, 0.225, 1], np.float32), np.array([0.9, 2 / 3, 0], np.float32)
    together = jax.jit(jax.vmap(lambda x, t, b: assign.mira(x, temperature=t, beta=b, max_iter=100)))(
        logits, temperatures, betas
    )
    for run in range(3):
        alone = mira(logits[run], temperature=temperatures[run], beta=betas[run], max_iter=100)
        assert together.steps[run] == alone.steps
        np.testing.assert_allclose(together.labels[run], alone.labels, atol=1e-5)


def test_a_batch_in_shards_has_one_marginal():
    logits = cosines(40, 12, noise=0.5).astype(np.float32)
    whole = mira(logits)
    split = jax.jit(jax.vmap(functools.partial(assign.mira, axis_name="shards"), axis_name="shards"))
    sharded = split(logits.reshape(4, 10, 12))
    np.testing.assert_allclose(sharded.labels.reshape(40, 12), whole.labels, atol=1e-5)
    for shard in range(4):
        np.testing.assert_allclose(sharded.marginal[shard], whole.marginal, atol=1e-6)
    mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(AxisType.Auto,))
    specs = assign.Assignment(P("batch"), P(), P(), P())
    on_devices = functools.partial(assign.mira, axis_name="batch")
    on_mesh = jax.jit(jax.shard_map(on_devices, mesh=mesh, in_specs=P("batch"), out_specs=specs))(logits)
    np.testing.assert_allclose(on_mesh.labels, whole.labels, atol=1e-5)
    information = jax.vmap(functools.partial(assign.mutual_information, axis_name="shards"), axis_name="shards")(
        sharded.labels
    )
    np.testing.assert_allclose(
        information.mutual, np.full(4, assign.mutual_information(whole.labels).mutual), rtol=1e-5
    )


def test_no_gradient_passes():
    logits = cosines(40, 12).astype(np.float32)

    def loss(logits, temperature, beta):
        labels = assign.mira(logits, temperature=temperature, beta=beta).labels
        return losses.soft_cross_entropy(jnp.zeros_like(logits), labels, 1.0) + jnp.sum(labels**2)

    for gradient in jax.jit(jax.grad(loss, (0, 1, 2)))(logits, TAU, 2 / 3):
        assert not np.any(gradient)


def test_bfloat16_logits_are_computed_in_float32():
    logits = jnp.asarray(cosines(40, 12), jnp.bfloat16)
    low, high = mira(logits), mira(logits.astype(jnp.float32))
    assert low.labels.dtype == jnp.float32
    np.testing.assert_array_equal(low.labels, high.labels)


# Sinkhorn-Knopp with the same interface


def test_sinkhorn_stops_at_its_tolerance_and_at_no_earlier_step():
    scores = cosines(24, 10)
    result = sinkhorn(scores, epsilon=0.1, tol=1e-4, max_iter=200)
    assert 3 < result.steps < 200
    assert result.residual <= 1.01e-4
    np.testing.assert_allclose(result.residual, np.abs(result.labels.mean(axis=0) - 0.1).sum(), atol=1e-6)
    fixed = [sinkhorn(scores, epsilon=0.1, steps=int(result.steps) - earlier) for earlier in (0, 1)]
    np.testing.assert_allclose(fixed[0].labels, result.labels, atol=1e-6)
    assert fixed[1].residual > 1e-4
    assert sinkhorn(scores, epsilon=0.1, tol=1e-9, max_iter=5).steps == 5


# Information


def shared(p):
    """The mutual information of sample and label, by Kullback and Leibler's divergence from independence."""
    joint = p / len(p)
    return rel_entr(joint, joint.sum(axis=0) / len(p)).sum()


def test_information_is_that_of_the_joint_distribution():
    p = softmax(3 * np.random.default_rng(0).normal(size=(30, 8)), axis=1)
    p[0] = np.eye(8)[2]  # zeros are allowed
    row, marginal, mutual = assign.mutual_information(p)
    np.testing.assert_allclose(row, entropy(p, axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(marginal, entropy(p.mean(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(mutual, shared(p), rtol=1e-5)


def test_information_is_none_where_all_samples_share_a_label_and_log_k_where_labels_are_equal_and_sure():
    np.testing.assert_allclose(assign.mutual_information(np.tile(np.eye(5)[1], (10, 1))), [0, 0, 0], atol=1e-6)
    balanced = np.eye(5)[np.arange(10) % 5]
    np.testing.assert_allclose(assign.mutual_information(balanced), [0, np.log(5), np.log(5)], atol=1e-6)


def test_the_objective_is_equation_4():
    logits = cosines(30, 8)
    labels = softmax(5 * np.random.default_rng(0).normal(size=(30, 8)), axis=1)
    for beta in (0, 2 / 3, 0.9):
        np.testing.assert_allclose(objective(labels, logits, beta=beta), equation_4(labels, logits, beta), rtol=1e-5)
    own = softmax(logits / TAU, axis=1)
    mutual = shared(own)
    np.testing.assert_allclose(objective(own, logits, beta=0.9), -0.9 * mutual, atol=1e-6)
