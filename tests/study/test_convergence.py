"""The solvers' convergence: the papers' iterations; flat scores are Sinkhorn-Knopp's easy case; batches are each run's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

from ssljax import measuring, pipeline, representation
from ssljax.errors import UserError
from ssljax.evaluate.features import random_scores
from ssljax.study import convergence
from ssljax.study.convergence import Problem, curves, steps_to
from ssljax.train.step import to_unit

N, K = 24, 7


def peaked(scale=1.0):
    rng = np.random.default_rng(0)
    prototypes, noise = rng.normal(size=(K, 5)), rng.normal(size=(N, 5))
    x = prototypes[rng.choice(K, size=N, p=np.arange(K, 0, -1) / (K * (K + 1) / 2))] + 0.7 * noise
    cosines = x @ prototypes.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(prototypes, axis=1)
    return scale * cosines


def mira_labels(scores, problem, steps):
    """Equations 5 to 7 as the paper writes them, from u = 1/K."""
    p = softmax(scores / problem.temperature, axis=1)
    power, odds = 1 / (1 - problem.beta), problem.beta / (1 - problem.beta)
    u = np.full(K, 1 / K)
    for _ in range(steps):
        w = p**power * u**-odds
        u = (p**power / w.sum(axis=1, keepdims=True)).mean(axis=0) ** (1 - problem.beta)
    w = p**power * u**-odds
    return w / w.sum(axis=1, keepdims=True)


def sinkhorn_labels(scores, epsilon, steps):
    """SwAV's pseudocode: columns to 1/K, then rows to 1/N, that often; rows last."""
    q = np.exp(scores / epsilon)
    q /= q.sum()
    for _ in range(steps):
        q /= q.sum(axis=0) * K
        q /= q.sum(axis=1, keepdims=True) * N
    return q * N


@pytest.mark.parametrize("problem", [Problem(), Problem(0.15, 0.9, 0.1)])
def test_the_curves_are_the_papers_iterations_in_float64(problem):
    scores = peaked()
    found = curves(scores, problem)
    assert found.errors.shape == (3, 100) and found.errors.dtype == np.float64
    for solver, labels in (
        (0, lambda steps: mira_labels(scores, problem, steps)),
        (1, lambda steps: sinkhorn_labels(scores, problem.epsilon, steps)),
    ):
        solution = labels(1000)
        for steps in (1, 2, 3, 10, 30):
            expected = ((labels(steps) - solution) ** 2).sum()
            np.testing.assert_allclose(found.errors[solver, steps - 1], expected, rtol=1e-4, atol=1e-26)
        assert found.errors[solver, 0] > 1e-3
    # The accelerated search starts with a plain step, goes to the same solution, and is there first.
    np.testing.assert_allclose(found.errors[2, 0], found.errors[0, 0], rtol=1e-10)
    assert steps_to(found.errors[2], 1e-9) < steps_to(found.errors[0], 1e-9)
    assert found.errors[2, -1] < 1e-20
    flat = [
        entropy(softmax(scores / t, axis=1), axis=1).mean() / np.log(K)
        for t in (problem.temperature * (1 - problem.beta), problem.epsilon)
    ]
    np.testing.assert_allclose(found.flatness, [flat[0], flat[1], flat[0]], rtol=1e-10)


def test_sinkhorn_needs_few_steps_on_flat_scores_and_many_on_peaked_ones():
    """A step divides the error by what tells samples apart: hardly anything does on flat scores, everything on peaked ones."""
    counts = {
        scale: [steps_to(each, 1e-6) for each in curves(peaked(scale), Problem()).errors] for scale in (1, 0.1, 0.01)
    }
    mira, sinkhorn, accelerated = counts[0.1]
    assert counts[0.01][1] <= 3 < sinkhorn < 10
    assert counts[1][1] is None and counts[1][0] < 20  # MIRA's damping is what helps on peaked ones
    assert accelerated <= mira < sinkhorn
    assert curves(peaked(0.01), Problem()).flatness[1] > 0.99 > 0.9 > curves(peaked(), Problem()).flatness[1]


def test_steps_are_counted_from_one_and_to_stay():
    errors = np.array([1.0, 1e-4, 1e-2, 1e-4, 1e-7])
    assert [steps_to(errors, level) for level in (2, 1e-1, 1e-3, 1e-6, 1e-9)] == [1, 2, 4, 5, None]
    assert steps_to(np.array([np.nan, 1e-9]), 1e-3) == 2 and steps_to(np.array([1e-9, np.nan]), 1e-3) is None


def test_rows_say_when_what_was_reached_and_leave_out_what_was_not():
    errors = np.tile(10.0 ** -np.arange(100.0), (3, 1))
    errors[1] = 1e-4
    rows = {
        row[:3]: row.value for row in convergence.measurements(convergence.Curves(errors, np.array([0.5, 0.9, 0.5])))
    }
    assert rows["convergence@mira", "", "steps_to_1e-3"] == 4
    assert rows["convergence@mira", "", "sse_3"] == pytest.approx(1e-2)
    assert rows["convergence@mira_accelerated", "", "steps_to_1e-9"] == 10
    assert rows["convergence@sinkhorn", "", "steps_to_1e-3"] == 1
    assert ("convergence@sinkhorn", "", "steps_to_1e-6") not in rows
    assert rows["convergence@sinkhorn", "", "flatness"] == pytest.approx(0.9)


def test_a_run_is_solved_with_its_own_numbers_where_its_method_has_them():
    mira = {"target_temperature": jnp.float32(0.15), "beta": {"base": jnp.float32(0.5), "final": jnp.float32(0.75)}}
    assert convergence.problem_of(mira) == pytest.approx((0.15, 0.75, 0.05))
    swav = {"sinkhorn": {"epsilon": jnp.float32(0.1), "iterations": jnp.float32(3)}, "temperature": jnp.float32(0.1)}
    assert convergence.problem_of(swav) == pytest.approx((0.225, 2 / 3, 0.1))


@pytest.fixture(scope="module")
def untrained(tiny, one_layer):
    """A MIRA program of two seeds and two rotations of view 1, at its start."""
    config = tiny(
        method="mira", backbone=one_layer, image_size=8, seeds=(1, 2), sweep=("view1.rotation.degrees=0,90",),
        transforms="rotation(degrees=0)|rotation(degrees=45)", evaluations=("convergence",), convergence_batches=3,
        convergence_batch_size=16,
    )  # fmt: skip
    program = pipeline.plan([config])[0]
    return program, pipeline.untrained(program)


def test_batches_are_each_seeds_own_images_as_view_1_shows_them(untrained):
    program, trained = untrained
    batches = list(random_scores(program.config, trained, batches=3, batch_size=16))
    assert len(batches) == 3 and batches[0].shape == (4, 16, 12)
    names = [run.name for run in trained.runs]
    assert [run.swept["view1.rotation.degrees"] for run in trained.runs] == [0, 0, 90, 90]

    # Without rotation each row is the score of one whole image, and no two of a batch are of the same.
    @jax.jit
    @jax.vmap
    def whole(state):
        return trained.program.scores(state, to_unit(trained.data.images), trained.data)

    of_all = np.asarray(whole(trained.state))
    seen = {}
    for run in (0, 1):
        for number, batch in enumerate(batches):
            distance = np.abs(batch[run][:, None] - of_all[run][None]).max(axis=2)
            assert distance.min(axis=1).max() < 1e-5
            found = distance.argmin(axis=1)
            assert len(set(found)) == 16
            seen[run, number] = set(found)
    assert len(set(map(frozenset, seen.values()))) == 6, names
    rotated = np.abs(batches[0][2][:, None] - of_all[2][None]).max(axis=2).min(axis=1)
    assert np.median(rotated) > 1e-3  # the same images, turned
    again = next(iter(random_scores(program.config, trained, batches=1, batch_size=16)))
    np.testing.assert_array_equal(again, batches[0])


def test_the_evaluation_is_the_mean_over_batches_run_by_run(untrained, tmp_path):
    program, trained = untrained
    shown = representation.represent(program.config, trained, program.dataset, "mira")
    rows, _ = measuring.measure(program.config, program.dataset, shown, tmp_path / "a.npz")
    problem = convergence.problem_of({"target_temperature": trained.hyper["target_temperature"][0],
                                      "beta": {"final": trained.hyper["beta"]["final"][0]}})  # fmt: skip
    assert (problem.temperature, problem.beta) == pytest.approx((0.15, 0.9))  # the digits preset's
    with np.load(tmp_path / "a.npz") as file:
        saved = file["convergence"]
    for i, run in enumerate(trained.runs):
        each = [
            curves(batch[i], problem).errors
            for batch in random_scores(program.config, trained, batches=3, batch_size=16)
        ]
        np.testing.assert_allclose(saved[i], np.mean(each, axis=0), rtol=1e-9, atol=1e-30)
        own = {(r["evaluation"], r["metric"]): r["value"] for r in rows if r["run"] == f"mira/{run.name}"}
        assert own["convergence@mira", "sse_3"] == pytest.approx(np.mean(each, axis=0)[0, 2])
    baseline = representation.pixels(program.dataset, (1,), "pixels")
    rows, _ = measuring.measure(program.config, program.dataset, baseline, tmp_path / "b.npz")
    assert not rows
    start = shown._replace(columns={**shown.columns, "method": "random", "transforms": ""})
    assert not measuring.measure(program.config, program.dataset, start, tmp_path / "c.npz")[0]


@pytest.mark.parametrize(
    "given, what",
    [
        (dict(method="simclr"), "given --method=simclr"),
        (dict(method="swav", second_transforms="none_of_it"), ""),
        (dict(pretrained="random", method="mira"), "given --pretrained=random"),
    ],
)
def test_methods_without_scores_are_refused_before_training(tiny, one_layer, given, what):
    if "second_transforms" in given:
        given, what = {**given, "second_transforms": "rotation"}, "given --method=swav with a second loss"
    config = tiny(backbone="vgg11_bn" if "pretrained" in given else one_layer, evaluations=("convergence",), **given)
    with pytest.raises(
        UserError, match=f"--evaluations: convergence is of a method that solves for its labels .*{what}"
    ):
        pipeline.plan([config])


def test_wide_scores_stay_finite():
    assert np.isfinite(curves(10 * peaked(), Problem()).errors).all()
    assert logsumexp(10 * peaked() / 0.05) > 100
