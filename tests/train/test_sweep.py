"""A sweep is its runs: one batched program gives, run for run, what single runs give; seeds differ."""

import jax
import numpy as np
import pytest

from ssljax import config as config_lib
from ssljax import pipeline, sweeps
from ssljax.methods import METHODS
from ssljax.sweeps import Run
from ssljax.train import loop
from ssljax.train.checkpoints import Checkpoints
from ssljax.train.step import over_runs

STEPS = 3
# Batched matrix products add in another order than single ones, an error of about 1e-7 a step, and Adam's first steps
# divide by gradients that may be near zero and so enlarge it. Real differences (another seed) are above 1e-2.
TOLERANCE = dict(rtol=2e-3, atol=2e-4)


def train(config, steps=STEPS):
    """A few steps of a config's runs, without a workdir: (state, losses [steps, runs])."""
    program = pipeline.plan([config])[0]
    trained = pipeline.untrained(program)
    step = loop.sweep_step(program.config, trained.program, 1)
    order = jax.jit(over_runs(trained.program.order, (0, None)))(trained.hyper, 0)
    state, losses = trained.state, []
    for i in range(steps):
        state, metrics = step(state, trained.hyper, trained.data, order, i)
        losses.append(np.asarray(metrics["loss"][0]))
    return state, np.stack(losses), program.runs


# A second value for everything that a run of the tiny config can differ in; the first is the config's own.
OTHER = {
    "learning_rate": 0.2,
    "weight_decay": 0.1,
    "momentum": 0.0,
    "temperature": 1.0,
    "tau.base": 0.5,
    "tau.final": 0.0,
    "rotation.degrees": 180.0,
    "color_inversion.probability": 0.0,
    "warmup_epochs": 0.0,
    "warmup_learning_rate": 0.03,
    "lambda": 1.0,
    "scale": 1.0,
    "invariance": 1.0,
    "variance": 1.0,
    "covariance": 50.0,
    "target_temperature": 0.1,
    "sinkhorn.epsilon": 0.5,
    "sinkhorn.iterations": 1.0,
    "freeze_epochs": 0.0,
    "kmeans.iterations": 1.0,
    "target_temperature.base": 0.1,
    "center_momentum": 0.0,
    "beta.base": 0.3,
    "beta.final": 0.0,
    "solver.tolerance": 0.5,
    "solver.max_iter": 1.0,
    "self_labelling.epoch": 0.0,
    "loss_weights.first": 0.1,
    "loss_weights.second": 5.0,
    "second.rotation.degrees": 90.0,
    "second.tau.base": 0.5,
}

# What acts only after the few steps that are trained here.
LATER = {
    "min_learning_rate", "queue_start_epoch", "target_temperature.final", "target_temperature.warmup_epochs", "second.tau.final",
    "self_labelling.fraction.base", "self_labelling.fraction.final", "self_labelling.learning_rate", "self_labelling.warmup_epochs",
}  # fmt: skip


# A second loss adds the same numbers again and the weights.
CASES = {name: dict(method=name) for name in METHODS} | {
    "two losses": dict(method="simclr", second_method="byol", second_transforms="mnist_rotation_crop")
}


QUICK = ("mocov2plus", "deepclusterv2")  # target and queue; bank and clusters


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_a_sweep_equals_single_runs_and_a_resumed_one(tiny, one_layer, tmp_path, case):
    """One program in which every run differs from the first by one traced value, or by its seed."""
    config = tiny(**CASES[case], backbone=one_layer, optimizer="sgd", learning_rate=0.05, seeds=(5,))
    program = pipeline.plan([config])[0]
    data = pipeline.untrained(program).data
    values = sweeps.hyper(program.config, program.runs[0])
    addresses = set(sweeps.addresses({k: v for k, v in values.items() if k not in ("transforms", "seed")}))
    addresses = {a for a in addresses if ".transforms." not in a and a not in LATER}
    own = [
        a
        for a in OTHER
        if a in addresses or a.removeprefix("second.").endswith((".degrees", "color_inversion.probability"))
    ]
    own = [a for a in own if not a.startswith("second.") or program.config.second]
    assert addresses <= set(own)
    runs = (
        Run("plain", 5, {}),
        *(Run(address, 5, {address: OTHER[address]}) for address in own),
        Run("another seed", 6, {}),
    )
    functions = loop.program_of(program.config, len(data.images), data.images.shape[-1], program.dataset.classes)
    step = loop.sweep_step(program.config, functions, 1)

    @jax.jit
    def start_of(hyper):
        state = over_runs(functions.init, (0,))(hyper)
        order = over_runs(functions.order, (0, None))(hyper, 0)
        if functions.fill is not None:
            for i in range(2):  # a part of the pass over the images is enough to tell the runs' banks apart
                state = over_runs(functions.fill, (0, 0, None, 0, None))(state, hyper, data, order, i)
        return order, over_runs(functions.on_epoch, (0, 0, None))(state, hyper, 0)

    def start(runs):
        hyper = sweeps.stack([sweeps.hyper(program.config, run) for run in runs])
        return hyper, *start_of(hyper)

    def steps(state, hyper, order, first, count):
        losses = []
        for i in range(first, first + count):
            state, metrics = step(state, hyper, data, order, i)
            losses.append(np.asarray(metrics["loss"][0]))
        return state, losses

    def go(runs):
        hyper, order, state = start(runs)
        state, losses = steps(state, hyper, order, 0, STEPS)
        return [np.asarray(leaf) for leaf in jax.tree.leaves((state.params, state.memory))], np.stack(losses)

    batched, losses = go(runs)

    hyper, order, state = start(runs)
    state, _ = steps(state, hyper, order, 0, 1)
    store = Checkpoints(tmp_path, 1)
    store.save(1, state)
    _, restored = store.restore(state)
    store.close()
    resumed, _ = steps(restored, hyper, order, 1, STEPS - 1)
    for once, again in zip(batched, jax.tree.leaves((resumed.params, resumed.memory))):
        np.testing.assert_array_equal(once, again)  # to the last bit

    for i, run in enumerate(runs):
        single, loss = go((run,))
        np.testing.assert_allclose(losses[:, i], loss[:, 0], **TOLERANCE, err_msg=run.name)
        for many, one in zip(batched, single):
            np.testing.assert_allclose(many[i], one[0], **TOLERANCE, err_msg=run.name)
        if run.name != "plain":  # and the value acts: without it the test would hold of a program that ignores it
            assert max(np.abs(leaf[i] - leaf[0]).max() for leaf in batched) > 1e-5, run.name


@pytest.mark.slow
@pytest.mark.parametrize("how", ["map", "unroll"])
def test_the_ways_to_run_the_axis_agree(tiny, how):
    _, la, _ = train(tiny(method="simclr", seeds=(1, 2), run_axis="vmap"))
    _, lb, _ = train(tiny(method="simclr", seeds=(1, 2), run_axis=how))
    np.testing.assert_allclose(la, lb, **TOLERANCE)
    assert np.abs(la[:, 0] - la[:, 1]).max() > 1e-3


@pytest.mark.slow
def test_several_steps_in_one_call_are_the_same_steps(tiny):
    program = pipeline.plan([tiny(method="simclr", seeds=(1, 2))])[0]
    results = []
    for calls, size in ((4, 1), (1, 4)):
        trained = pipeline.untrained(program)
        step = loop.sweep_step(program.config, trained.program, size)
        order = jax.jit(over_runs(trained.program.order, (0, None)))(trained.hyper, 0)
        state, losses = trained.state, []
        for i in range(calls):
            state, metrics = step(state, trained.hyper, trained.data, order, i * size)
            losses.append(np.asarray(metrics["loss"]))
        results.append(np.concatenate(losses))
    np.testing.assert_allclose(*results, **TOLERANCE)


def test_each_seed_sees_every_image_once_an_epoch_in_an_order_of_its_own(tiny):
    program = pipeline.plan([tiny(seeds=(1, 2))])[0]
    trained = pipeline.untrained(program)
    order_of = jax.jit(over_runs(trained.program.order, (0, None)))
    first, second = np.asarray(order_of(trained.hyper, 0)), np.asarray(order_of(trained.hyper, 1))
    for order in (*first, *second):
        np.testing.assert_array_equal(np.sort(order), np.arange(1438))
    assert np.mean(first[0] == first[1]) < 0.02
    assert np.mean(first[0] == second[0]) < 0.02


def test_a_run_that_diverges_is_frozen_and_the_others_go_on_untouched(tiny):
    settings = dict(method="simclr", optimizer="sgd", seeds=(5,))
    sick, _, _ = train(tiny(**settings, sweep=("learning_rate=0.01,1e30",)), steps=5)
    healthy, _, _ = train(tiny(**settings, sweep=("learning_rate=0.01,0.02",)), steps=5)
    assert np.asarray(sick.alive).tolist() == [True, False]
    for a, b in zip(jax.tree.leaves(sick.params), jax.tree.leaves(healthy.params)):
        np.testing.assert_array_equal(a[0], b[0])
        # frozen where it last was finite
        assert np.isfinite(a[1]).all()


def test_linear_scaling_multiplies_by_batch_over_256(tiny):
    plain, *_ = train(tiny(method="simclr", optimizer="sgd", learning_rate=0.05), steps=2)
    scaled, *_ = train(tiny(method="simclr", optimizer="sgd", learning_rate=0.2, lr_scaling="linear"), steps=2)
    # .2 x 64/256 = .05, but warm-up starts at the same 3e-5 in both
    for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(scaled.params)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_settings_that_are_not_given_come_from_the_preset(tiny):
    config = config_lib.resolve(config_lib.Config(method="mocov2plus", preset="paper"))
    # The paper's appendix D.1: lr .3, weight decay 1e-4, queue 32768, T .2, tau .99, 1000 epochs, batch 512
    assert (config.learning_rate, config.weight_decay, config.queue_size) == (0.3, 1e-4, 32768)
    assert (config.temperature, config.tau_base, config.epochs, config.batch_size) == (0.2, 0.99, 1000, 512)
    assert config.optimizer == "sgd"
