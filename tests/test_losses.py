"""Every loss against float64 numpy written from the paper's equation, gradients against finite differences of that."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from ssljax import losses

N, D, Q, K = 6, 5, 11, 7  # batch, dimensions, queue, classes: all different, so that no axis can stand for another


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# The equations, image by image.


def numpy_info_nce(q, k, queue, temperature):
    q, k, total = unit(q), unit(k), 0.0
    for i in range(len(q)):
        positive = np.exp(q[i] @ k[i] / temperature)
        total -= np.log(positive / (positive + np.exp(queue @ q[i] / temperature).sum()))
    return total / len(q)


def numpy_nt_xent(z1, z2, temperature):
    z = unit(np.concatenate([z1, z2]))
    n, total = len(z1), 0.0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = sum(np.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i)
        total -= np.log(np.exp(z[i] @ z[j] / temperature) / others)
    return total / (2 * n)


def numpy_nnclr(neighbor, p, temperature):
    neighbor, p, total = unit(neighbor), unit(p), 0.0
    for i in range(len(p)):
        others = sum(np.exp(neighbor[i] @ p[j] / temperature) for j in range(len(p)))
        total -= np.log(np.exp(neighbor[i] @ p[i] / temperature) / others)
    return total / len(p)


def numpy_mocov3(p, k, temperature):
    p, k, total = unit(p), unit(k), 0.0
    for i in range(len(p)):
        others = sum(np.exp(p[i] @ k[j] / temperature) for j in range(len(k)))
        total -= np.log(np.exp(p[i] @ k[i] / temperature) / others)
    return 2 * temperature * total / len(p)


def numpy_byol(p, k):
    return np.mean([np.sum((unit(a) - unit(b)) ** 2) for a, b in zip(p, k)])


def numpy_simsiam(p, z):
    return np.mean([-(a @ b) / np.sqrt((a @ a) * (b @ b)) for a, b in zip(p, z)])


def numpy_soft_cross_entropy(logits, targets, temperature):
    return -np.mean([t @ log_softmax(row / temperature) for row, t in zip(logits, targets)])


def numpy_twist(a, b):
    p, q, eps = softmax(a, axis=1), softmax(b, axis=1), 1e-5
    total = 0.0
    for i in range(len(p)):
        for x, y in ((p[i], q[i]), (q[i], p[i])):
            total += x @ np.log((x + eps) / (y + eps)) - x @ np.log(x + eps)
    return (total / len(p) + sum(x.mean(0) @ np.log(x.mean(0) + eps) for x in (p, q))) / 2


def numpy_ressl(query, key, queue, temperature, target_temperature):
    total = 0.0
    for q, k in zip(unit(query), unit(key)):
        total -= softmax(queue @ k / target_temperature) @ log_softmax(queue @ q / temperature)
    return total / len(query)


def numpy_dino(student, target, center, temperature, target_temperature):
    total = 0.0
    for s, t in zip(student, target):
        total -= softmax((t - center) / target_temperature) @ log_softmax(s / temperature)
    return total / len(student)


ASSIGNMENT = np.array([3, -1, 0, 6, -1, 3])


def numpy_deepcluster(logits, temperature):
    return -np.mean([log_softmax(row / temperature)[a] for row, a in zip(logits, ASSIGNMENT) if a >= 0])


LABELS = np.array([3, 6, 0, 6, 1, 3])


def numpy_cross_entropy(logits):
    return -np.mean([row[label] - np.log(np.exp(row).sum()) for row, label in zip(logits, LABELS)])


def numpy_barlow_twins(z1, z2, lambda_, scale):
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (z1, z2))
    total = 0.0
    for i in range(z1.shape[1]):
        for j in range(z1.shape[1]):
            c = np.mean(a[:, i] * b[:, j])
            total += (c - 1) ** 2 if i == j else lambda_ * c**2
    return scale * total


def numpy_variance_and_invariance(z1, z2, invariance, variance):
    hinges = [np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean() for z in (z1, z2)]
    return invariance * ((z1 - z2) ** 2).mean() + variance * sum(hinges)


def numpy_vicreg(z1, z2, invariance, variance, covariance):
    total, d = 0.0, z1.shape[1]
    for c in (np.cov(z1, rowvar=False), np.cov(z2, rowvar=False)):
        total += sum(c[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    return numpy_variance_and_invariance(z1, z2, invariance, variance) + covariance * total


def numpy_vibcreg(z1, z2, invariance, variance, covariance):
    total, d = 0.0, z1.shape[1]
    for r in (np.corrcoef(z1, rowvar=False), np.corrcoef(z2, rowvar=False)):
        total += sum(r[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d**2
    return numpy_variance_and_invariance(z1, z2, invariance, variance) + covariance * total


class Case(NamedTuple):
    """One loss: `loss` and `equation` take the arrays, then the hyper-parameters by name."""

    loss: Callable
    equation: Callable
    arrays: tuple
    hypers: tuple  # of dicts: settings of the hyper-parameters, all tried as one vmapped program
    stopped: tuple = ()  # positions of arrays into which no gradient flows


rng = np.random.default_rng(0)


def draw(*shape):
    return rng.normal(size=shape).astype(np.float32)


TEMPERATURES = tuple(dict(temperature=t) for t in (0.07, 0.2, 1.0))
PAIRS = tuple(dict(temperature=t, target_temperature=u) for t, u in ((0.1, 0.04), (0.2, 0.07), (1.0, 0.5)))
# The last of each is nobody's: it tells the terms' weights apart.
WEIGHTS = tuple(dict(invariance=i, variance=v, covariance=c) for i, v, c in ((25, 25, 1), (25, 25, 200), (2, 3, 5)))

CASES = {
    "info_nce": Case(
        losses.info_nce, numpy_info_nce, (draw(N, D), draw(N, D), unit(draw(Q, D))), TEMPERATURES, stopped=(1, 2)
    ),
    "nt_xent": Case(losses.nt_xent, numpy_nt_xent, (draw(N, D), draw(N, D)), TEMPERATURES),
    "nnclr": Case(losses.nnclr, numpy_nnclr, (draw(N, D), draw(N, D)), TEMPERATURES, stopped=(0,)),
    "mocov3": Case(losses.mocov3, numpy_mocov3, (draw(N, D), draw(N, D)), TEMPERATURES, stopped=(1,)),
    "byol": Case(losses.byol, numpy_byol, (draw(N, D), draw(N, D)), ({},), stopped=(1,)),
    "simsiam": Case(losses.simsiam, numpy_simsiam, (draw(N, D), draw(N, D)), ({},), stopped=(1,)),
    "soft_cross_entropy": Case(
        losses.soft_cross_entropy,
        numpy_soft_cross_entropy,
        (draw(N, K), rng.dirichlet(np.ones(K), N).astype(np.float32)),
        TEMPERATURES,
        stopped=(1,),
    ),
    "twist": Case(losses.twist, numpy_twist, (3 * draw(N, K), 3 * draw(N, K)), ({},)),
    "ressl": Case(losses.ressl, numpy_ressl, (draw(N, D), draw(N, D), unit(draw(Q, D))), PAIRS, stopped=(1, 2)),
    "dino": Case(losses.dino, numpy_dino, (draw(N, K), draw(N, K), draw(K)), PAIRS, stopped=(1, 2)),
    "deepcluster": Case(
        lambda logits, temperature: losses.deepcluster(logits, jnp.asarray(ASSIGNMENT), temperature),
        numpy_deepcluster,
        (draw(N, K),),
        TEMPERATURES,
    ),
    "cross_entropy": Case(
        lambda logits: losses.cross_entropy(logits, jnp.asarray(LABELS)), numpy_cross_entropy, (draw(N, K),), ({},)
    ),
    "barlow_twins": Case(
        losses.barlow_twins,
        numpy_barlow_twins,
        (draw(N, D), draw(N, D)),
        (dict(lambda_=0.0051, scale=0.1), dict(lambda_=0.7, scale=1.3)),
    ),
    # Half the scale and an offset: some columns lie below the hinge, some above, and no term vanishes.
    "vicreg": Case(losses.vicreg, numpy_vicreg, (0.7 * draw(N, D) + 2, draw(N, D) - 1), WEIGHTS),
    "vibcreg": Case(losses.vibcreg, numpy_vibcreg, (0.7 * draw(N, D) + 2, draw(N, D) - 1), WEIGHTS),
}


@functools.cache
def value_and_gradients(name):
    """(stacked hyper-parameters, *arrays) -> values [settings] and, for each array, gradients [settings, ...]."""
    case = CASES[name]
    count = len(case.arrays)
    function = jax.value_and_grad(lambda hyper, *arrays: case.loss(*arrays, **hyper), tuple(range(1, 1 + count)))
    batched = jax.jit(jax.vmap(function, (0, *[None] * count), axis_size=len(case.hypers)))
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(leaves, jnp.float32), *case.hypers)
    return functools.partial(batched, stacked)


def finite_difference(function, x, direction, eps=1e-6):
    return (function(x + eps * direction) - function(x - eps * direction)) / (2 * eps)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_the_equations(name):
    case = CASES[name]
    exact = [x.astype(np.float64) for x in case.arrays]
    values, gradients = value_and_gradients(name)(*case.arrays)
    assert values.dtype == jnp.float32
    for setting, hyper in enumerate(case.hypers):
        np.testing.assert_allclose(values[setting], case.equation(*exact, **hyper), rtol=2e-5)
        for position, gradient in enumerate(gradients):
            if position in case.stopped:
                assert not np.any(gradient[setting])
                continue
            direction = np.random.default_rng(position).normal(size=exact[position].shape)

            def along(x, position=position, hyper=hyper):
                return case.equation(*exact[:position], x, *exact[position + 1 :], **hyper)

            slope = finite_difference(along, exact[position], direction)
            size = np.linalg.norm(gradient[setting])  # the slope may be small by chance of the direction
            np.testing.assert_allclose(np.sum(gradient[setting] * direction), slope, rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_inputs_are_computed_in_float32(name):
    case, hyper = CASES[name], CASES[name].hypers[-1]
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in case.arrays]
    value = case.loss(*rounded, **hyper)
    assert value.dtype == jnp.float32
    expected = case.equation(*(np.asarray(x, np.float64) for x in rounded), **hyper)
    np.testing.assert_allclose(value, expected, rtol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_zero_and_constant_rows_give_finite_values_and_gradients(name):
    for fill in (0.0, 0.1):  # the mean of equal .1's is not .1 in float32
        values, gradients = value_and_gradients(name)(*(np.full_like(x, fill) for x in CASES[name].arrays))
        assert all(np.isfinite(x).all() for x in (values, *gradients))


@pytest.mark.parametrize(  # the assignment of the one is permuted in a test of its own, the labels of the other are fixed
    "name", sorted(CASES.keys() - {"deepcluster", "cross_entropy"})
)
def test_the_order_of_images_does_not_matter(name):
    case, hyper = CASES[name], CASES[name].hypers[-1]
    order = np.random.default_rng(1).permutation(N)
    shuffled = [x[order] if len(x) == N else x for x in case.arrays]
    np.testing.assert_allclose(case.loss(*shuffled, **hyper), case.loss(*case.arrays, **hyper), rtol=1e-5)


SAME = np.ones((8, 4), np.float32)
ONE_QUEUE = np.full((24, 4), 0.5, np.float32)
LOGITS = np.full((8, 12), 0.3, np.float32)
CODES = np.random.default_rng(2).dirichlet(np.ones(12), 8).astype(np.float32)
# The hinge of a constant feature: its variance is 0, so sqrt(1e-4) is left of its deviation.
HINGE = 1 - 0.01
COLLAPSED = {
    # Every candidate is as likely as any other, so the loss is the logarithm of their number.
    "info_nce": (lambda: losses.info_nce(SAME, SAME, ONE_QUEUE, 0.1), np.log(25)),
    "nt_xent": (lambda: losses.nt_xent(SAME, SAME, 0.1), np.log(15)),
    "nnclr": (lambda: losses.nnclr(SAME, SAME, 0.1), np.log(8)),
    "mocov3": (lambda: losses.mocov3(SAME, SAME, 0.1), 2 * 0.1 * np.log(8)),
    "cross_entropy": (lambda: losses.cross_entropy(LOGITS, jnp.arange(8)), np.log(12)),
    "ressl": (lambda: losses.ressl(SAME, SAME, ONE_QUEUE, 0.1, 0.04), np.log(24)),
    "soft_cross_entropy": (lambda: losses.soft_cross_entropy(LOGITS, CODES, 0.1), np.log(12)),
    # What is said of a row is said of the mean row.
    "twist": (lambda: losses.twist(LOGITS, LOGITS), 0),
    "dino": (lambda: losses.dino(LOGITS, LOGITS, LOGITS[0], 0.1, 0.04), np.log(12)),
    "deepcluster": (lambda: losses.deepcluster(LOGITS, jnp.arange(8), 0.1), np.log(12)),
    # These two are at their minimum: nothing in them but the stopped gradient keeps networks from collapse.
    "byol": (lambda: losses.byol(SAME, SAME), 0),
    "simsiam": (lambda: losses.simsiam(SAME, SAME), -1),
    # No correlation is left: each of the 4 diagonal terms is (0 - 1)^2.
    "barlow_twins": (lambda: losses.barlow_twins(SAME, SAME), 0.1 * 4),
    "vicreg": (lambda: losses.vicreg(SAME, SAME, invariance=25, variance=25, covariance=1), 25 * 2 * HINGE),
    "vibcreg": (lambda: losses.vibcreg(SAME, SAME, invariance=25, variance=25, covariance=200), 25 * 2 * HINGE),
}


def test_the_collapse_table_knows_every_loss():
    assert set(COLLAPSED) == set(CASES)
    public = {n for n, f in vars(losses).items() if callable(f) and getattr(f, "__module__", "") == losses.__name__}
    assert {n for n in public if not n.startswith("_")} - {"normalize"} == set(CASES)


@pytest.mark.parametrize("name", COLLAPSED)
def test_collapse_gives_what_theory_gives(name):
    call, expected = COLLAPSED[name]
    np.testing.assert_allclose(call(), expected, rtol=1e-5, atol=1e-6)


def test_rounding_makes_no_correlation_of_constant_features():
    # The float32 mean of each of these columns is not its value, and the residues are equal from row to row.
    same = np.tile(np.float32([0.1, 1 / 3, 123.4, -7.7]), (333, 1))
    weights = dict(invariance=25, variance=25, covariance=200)
    np.testing.assert_allclose(losses.vibcreg(same, same, **weights), 50 * HINGE, rtol=1e-6)
    np.testing.assert_allclose(losses.barlow_twins(same, same, scale=1), 4, rtol=1e-6)


@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "nnclr", "mocov3", "byol", "simsiam", "ressl"])
def test_losses_of_cosines_ignore_norms_and_rotations(name):
    case, hyper = CASES[name], CASES[name].hypers[0]
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(D, D)))[0].astype(np.float32)
    lengths = np.random.default_rng(4).uniform(0.2, 5, (N, 1)).astype(np.float32)
    moved = [(x * lengths if len(x) == N else x) @ rotation for x in case.arrays]
    np.testing.assert_allclose(case.loss(*moved, **hyper), case.loss(*case.arrays, **hyper), rtol=2e-5)


def test_correlations_ignore_scale_and_offset_of_a_feature():
    z1, z2 = draw(N, D), draw(N, D)
    gain, offset = np.float32([1, 3, 0.5, 10, 2]), np.float32([0, 1, -2, 3, 4])
    # The eps of the standardisation is 1e-5 beside variances of order 1 here.
    np.testing.assert_allclose(losses.barlow_twins(z1 * gain + offset, z2), losses.barlow_twins(z1, z2), rtol=1e-3)
    only = dict(invariance=0, variance=0, covariance=1)
    np.testing.assert_allclose(
        losses.vibcreg(z1 * gain + offset, z2, **only), losses.vibcreg(z1, z2, **only), rtol=1e-4
    )
    both = dict(invariance=25, variance=25, covariance=1)
    np.testing.assert_allclose(
        losses.vicreg(z1 + offset, z2 + offset, **both), losses.vicreg(z1, z2, **both), rtol=1e-4
    )


def test_identical_whitened_views_are_the_optimum_of_the_feature_losses():
    # Orthogonal columns of mean 0 and deviation 1: every term is at its least.
    z = np.linalg.qr(np.c_[np.ones(16), np.random.default_rng(5).normal(size=(16, 4))])[0][:, 1:] * 4
    z = (z * np.sqrt(16 / 15)).astype(np.float32)
    weights = dict(invariance=25, variance=25, covariance=200)
    for loss in (
        losses.barlow_twins,
        lambda *a: losses.vicreg(*a, **weights),
        lambda *a: losses.vibcreg(*a, **weights),
    ):
        np.testing.assert_allclose(loss(z, z), 0, atol=1e-6)


def test_cross_entropy_is_least_where_the_student_equals_its_target():
    target, center = draw(N, K), draw(K)
    student = (target - center) / 0.04 * 0.1
    value, gradient = jax.value_and_grad(losses.dino)(student, target, center, 0.1, 0.04)
    p = softmax((target - center).astype(np.float64) / 0.04, axis=1)
    np.testing.assert_allclose(value, -np.mean(np.sum(p * np.log(p), axis=1)), rtol=1e-4)
    np.testing.assert_allclose(gradient, np.zeros((N, K)), atol=1e-5)


def test_sure_and_even_classes_that_the_views_agree_on_are_the_optimum_of_twist():
    sure = 100 * np.eye(8, dtype=np.float32)
    value = losses.twist(sure, sure)
    np.testing.assert_allclose(value, -np.log(8), rtol=1e-4)
    assert value < losses.twist(sure, sure[::-1])


def test_unassigned_rows_leave_deepcluster_alone():
    logits = draw(N, K)
    known = np.array([0, 2, 3, 5])
    value, gradient = jax.value_and_grad(losses.deepcluster)(logits, jnp.asarray(ASSIGNMENT), 0.2)
    np.testing.assert_allclose(value, losses.deepcluster(logits[known], jnp.asarray(ASSIGNMENT[known]), 0.2), rtol=1e-6)
    np.testing.assert_array_equal(np.any(gradient, axis=1), ASSIGNMENT >= 0)
    order = np.array([5, 4, 3, 2, 1, 0])
    np.testing.assert_allclose(losses.deepcluster(logits[order], jnp.asarray(ASSIGNMENT[order]), 0.2), value, rtol=1e-6)
    value, gradient = jax.value_and_grad(losses.deepcluster)(logits, jnp.full(N, -1), 0.2)
    assert value == 0
    assert not np.any(gradient)


def test_extreme_logits_do_not_overflow():
    logits = np.float32([[1e4, 0, -1e4], [0, 1e4, 5e3]])
    np.testing.assert_allclose(losses.dino(logits, logits, np.zeros(3, np.float32), 0.1, 0.04), 0, atol=1e-6)
    np.testing.assert_allclose(losses.deepcluster(logits, jnp.array([1, 1]), 1.0), 5e3, rtol=1e-6)


def test_normalize_is_numpys():
    x = draw(7, 3)
    np.testing.assert_allclose(losses.normalize(x), unit(x.astype(np.float64)), rtol=1e-6)
    np.testing.assert_array_equal(losses.normalize(jnp.zeros((1, 3))), np.zeros((1, 3)))
