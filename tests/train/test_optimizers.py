"""Update rules and the schedule against their formulas in float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.train import optimizers

rng = np.random.default_rng(1)
MATRIX, BIAS = rng.normal(size=(4, 3)), rng.normal(size=3)
DECAY, MOMENTUM, LR, STEPS = 0.03, 0.9, 0.1, 4
GRADIENTS = [(rng.normal(size=(4, 3)), rng.normal(size=3)) for _ in range(STEPS)]


def by_library(name):
    hyper = {"weight_decay": jnp.float32(DECAY), "momentum": jnp.float32(MOMENTUM)}
    params = {"w": jnp.float32(MATRIX), "b": jnp.float32(BIAS)}
    rule = optimizers.rule(name, hyper, {"w": jnp.float32(LR), "b": jnp.float32(LR)})
    state = rule.init(params)
    for w, b in GRADIENTS:
        direction, state = rule.update({"w": jnp.float32(w), "b": jnp.float32(b)}, state, params)
        params = jax.tree.map(lambda p, d: p - LR * d, params, direction)
    return params


def by_formula(direction, matrix):
    """SGD with momentum on `direction(g, p)`, as PyTorch accumulates it: v <- m v + d, p <- p - lr v."""
    p = MATRIX if matrix else BIAS
    velocity = np.zeros_like(p)
    for pair in GRADIENTS:
        velocity = MOMENTUM * velocity + direction(pair[0 if matrix else 1], p)
        p = p - LR * velocity
    return p


def adam(matrix, decoupled):
    p = MATRIX if matrix else BIAS
    m = v = np.zeros_like(p)
    for t, pair in enumerate(GRADIENTS, 1):
        g = pair[0 if matrix else 1] + (0 if decoupled else DECAY * p)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        p = p - LR * (step + (DECAY * p if decoupled else 0))
    return p


def lars(g, p):
    g = g + DECAY * p
    return 1e-3 * np.linalg.norm(p) / np.linalg.norm(g) * g


def lars_solo_unclipped(g, p):
    return 0.02 * np.linalg.norm(p) / (np.linalg.norm(g) + DECAY * np.linalg.norm(p) + 1e-8) * (g + DECAY * p)


def lars_solo(g, p):
    ratio = 0.02 * np.linalg.norm(p) / (np.linalg.norm(g) + DECAY * np.linalg.norm(p) + 1e-8)
    return min(ratio / LR, 1) * (g + DECAY * p)


EXPECTED = {
    "sgd": [by_formula(lambda g, p: g + DECAY * p, m) for m in (True, False)],
    "adam": [adam(m, decoupled=False) for m in (True, False)],
    "adamw": [adam(m, decoupled=True) for m in (True, False)],
    # Biases and norms take the plain gradient and no decay.
    "lars": [by_formula(lars, True), by_formula(lambda g, p: g, False)],
    "lars_solo": [by_formula(lars_solo, True), by_formula(lambda g, p: g, False)],
    "lars_solo_unclipped": [by_formula(lars_solo_unclipped, True), by_formula(lambda g, p: g, False)],
}


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_rule_is_its_formula(name):
    params = by_library(name)
    # Adam divides by 1 - .999^t, which float32 holds to 6e-5 at t = 1.
    np.testing.assert_allclose(params["w"], EXPECTED[name][0], rtol=2e-4)
    np.testing.assert_allclose(params["b"], EXPECTED[name][1], rtol=2e-4)


def test_lars_takes_the_plain_gradient_where_a_norm_is_zero():
    g = jnp.ones((2, 2))
    np.testing.assert_array_equal(optimizers.lars_direction(g, jnp.zeros((2, 2)), 0.1), g)
    assert np.isfinite(optimizers.lars_direction(jnp.zeros((2, 2)), jnp.zeros((2, 2)), 0.1)).all()
    assert np.isfinite(optimizers.lars_solo_direction(g, g, 0.1, jnp.float32(0))).all()


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_what_is_held_is_left_alone_by_gradient_decay_and_momentum(name):
    """Held for two steps, then released: the array then moves as if it had just begun (Adam's common count apart)."""
    hyper = {"weight_decay": jnp.float32(DECAY), "momentum": jnp.float32(MOMENTUM)}
    rates = {"w": jnp.float32(LR), "b": jnp.float32(LR)}
    rule = optimizers.rule(name, hyper, rates)
    start = params = {"w": jnp.float32(MATRIX), "b": jnp.float32(BIAS)}
    first = state = rule.init(params)
    for held, (w, b) in zip((1, 1, 0), GRADIENTS):
        mask = {"w": jnp.bool_(not held), "b": 1.0}
        gradients = {"w": jnp.float32(w), "b": jnp.float32(b)}
        direction, new = rule.update(gradients, state, params)
        state = optimizers.hold(rule, mask, new, state)
        params = jax.tree.map(lambda p, d, m: p - LR * d * m, params, direction, mask)
        if held:
            np.testing.assert_array_equal(params["w"], start["w"])
    if "adam" not in name:
        fresh, _ = rule.update(gradients, first, start)
        np.testing.assert_allclose(params["w"], start["w"] - LR * fresh["w"], rtol=1e-5)
    free, _ = rule.update(gradients, new, params)
    assert np.abs(np.asarray(free["b"])).max() > 0


SCHEDULE = dict(total_steps=100, warmup_steps=jnp.float32(10))


@pytest.mark.parametrize(("start", "end"), [(3e-5, 0.0), (0.0, 6e-4)])
def test_schedule_warms_up_linearly_and_falls_by_a_cosine(start, end):
    peak, steps = 0.4, np.arange(101)
    actual = jax.vmap(lambda s: optimizers.learning_rate(jnp.float32(peak), s, **SCHEDULE, start=start, end=end))(steps)
    expected = np.where(
        steps < 10,
        start + (peak - start) * steps / 10,
        end + (peak - end) * 0.5 * (1 + np.cos(np.pi * (steps - 10) / 90)),
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_a_learning_rate_of_zero_stays_zero_and_no_warm_up_starts_at_the_peak():
    rate = optimizers.learning_rate(jnp.float32(0), jnp.arange(20), **SCHEDULE, start=3e-5, end=6e-4)
    np.testing.assert_array_equal(rate, np.zeros(20))
    at_once = optimizers.learning_rate(
        jnp.float32(0.4), 0, total_steps=9, warmup_steps=jnp.float32(0), start=0.0, end=0.0
    )
    assert float(at_once) == pytest.approx(0.4)
