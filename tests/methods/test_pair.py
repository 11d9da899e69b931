"""Two losses at once: the weighted sum of two methods is the sum of their losses on one encoder, and nothing else."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import config as config_lib
from ssljax import pipeline, sweeps
from ssljax.methods import METHODS, Batch, Course, build
from ssljax.models import backbone
from ssljax.train import loop
from ssljax.train.step import over_runs

N, SIZE = 48, 8
COURSE = Course(images=100, steps_per_epoch=2, total_steps=10, classes=7)
LABELS = jnp.arange(N) % 7
VIEWS = tuple(jax.random.uniform(jax.random.key(3), (4, N, SIZE, SIZE, 1)))
SETS = dict(transforms="mnist_first", second_transforms="mnist_second")


@pytest.fixture(scope="module")
def pair(tiny, one_layer):
    def make(**given):
        settings = dict(backbone=one_layer, image_size=SIZE, batch_size=N, queue_size=3 * N, **SETS)
        config = config_lib.resolve(tiny(**{**settings, **given}))
        network = backbone(config.backbone)
        methods = [METHODS[c.method].make(c, network, COURSE) for c in (config, config.second)]
        return config, build(config, network, COURSE), methods, sweeps.hyper(config, sweeps.runs(config)[0])

    return make


def parts(tree, side):
    return {"backbone": tree["backbone"], **tree[side]}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("mocov2plus", "mocov2plus"),
        ("simclr", "dino"),
        ("vicreg", "byol"),
        ("swav", "deepclusterv2"),
        ("simclr", "supervised"),
    ],
)
def test_the_loss_is_the_weighted_sum_and_each_memory_its_own(pair, first, second):
    _, both, (one, two), hyper = pair(
        method=first, second_method=second, loss_weights_first=0.4, loss_weights_second=1.5
    )
    params, stats, memory = both.init(jax.random.key(0), VIEWS)
    index, key = jnp.arange(N), jax.random.key(1)
    views = VIEWS[: len(both.views)]

    @jax.jit
    def whole(params):
        return both.loss(params, stats, memory, Batch(views, index, LABELS), hyper, jnp.int32(0), key)

    @jax.jit
    def separately(params):
        a, (new, ma, _) = one.loss(
            parts(params, "first"), parts(stats, "first"), memory["first"], Batch(VIEWS[:2], index), hyper, 0, key
        )
        mine = {**parts(stats, "second"), "backbone": new["backbone"]}
        b, (last, mb, _) = two.loss(
            parts(params, "second"), mine, memory["second"], Batch(views[2:], index, LABELS), hyper["second"], 0, key
        )
        return 0.4 * a + 1.5 * b, (a, b, last["backbone"], ma, mb)

    (value, (new, memories, told)), gradient = jax.value_and_grad(whole, has_aux=True)(params)
    (expected, (a, b, last, ma, mb)), expected_gradient = jax.value_and_grad(separately, has_aux=True)(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose([told["loss.first"], told["loss.second"]], [a, b], rtol=1e-5)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)  # noqa: E731
    jax.tree.map(close, gradient, expected_gradient)
    jax.tree.map(close, new["backbone"], last)
    jax.tree.map(close, memories, {"first": ma, "second": mb})
    for side in ("first", "second"):  # both pull at the one encoder, and each at its own head
        assert any(np.any(g) for g in jax.tree.leaves(gradient[side])) or second == "deepclusterv2"
    assert set(params) == {"backbone", "first", "second"}
    heads = [params[side]["projector"]["linear1"]["dense"]["kernel"][:, :7] for side in ("first", "second")]
    assert np.abs(np.asarray(heads[0]) - heads[1]).max() > 1e-2  # heads start apart


@pytest.mark.parametrize("heads", ["own", "shared"])
def test_targets_of_both_losses_start_as_copies_of_what_they_follow_and_follow_it(pair, heads):
    _, both, _, hyper = pair(method="mocov2plus", second_heads=heads, set=("second.tau.base=0.5",))
    params, _, memory = both.init(jax.random.key(0), VIEWS)
    moved = jax.tree.map(lambda p: p + 1.0, params)
    after = both.update(moved, memory, hyper, jnp.int32(0))
    for side, tau in (("first", 0.99), ("second", 0.5)):
        followed = params if heads == "shared" else parts(params, side)
        target = memory[side]["target"]["params"]
        jax.tree.map(np.testing.assert_array_equal, target, {part: followed[part] for part in target})
        for old, new in zip(jax.tree.leaves(target), jax.tree.leaves(after[side]["target"]["params"])):
            np.testing.assert_allclose(new, old + (1 - tau), rtol=1e-5, atol=1e-6)
    queues = [memory[side]["queue"] for side in ("first", "second")]
    assert abs(np.corrcoef(queues[0].ravel(), queues[1].ravel())[0, 1]) < 0.2
    assert set(params) == ({"backbone", "projector"} if heads == "shared" else {"backbone", "first", "second"})


def test_masks_and_rates_of_each_method_reach_its_own_heads(pair):
    _, both, _, hyper = pair(method="simsiam", second_method="swav")
    params, _, _ = both.init(jax.random.key(0), VIEWS)
    mask = both.trainable(params, jnp.int32(0), hyper)
    assert not np.any(mask["second"]["prototypes"])
    assert all(float(m) == 1 for m in jax.tree.leaves((mask["backbone"], mask["first"], mask["second"]["projector"])))
    rates = both.rates(params, jnp.float32(0.1), jnp.float32(0.5))
    assert {float(r) for r in jax.tree.leaves(rates["first"]["predictor"])} == {0.5}
    rest = (rates["backbone"], rates["first"]["projector"], rates["second"])
    np.testing.assert_allclose(jax.tree.leaves(rest), 0.1, rtol=1e-6)


def test_addresses_reach_the_first_the_second_or_both(pair):
    config, *_ = pair(method="mocov2plus", second_method="simclr")
    run = sweeps.Run("x", 1, {"temperature": 0.3, "rotation.degrees": 7.0, "second.rotation.degrees": 9.0})
    tree = sweeps.hyper(config, run)
    assert float(tree["temperature"]) == float(tree["second"]["temperature"]) == pytest.approx(0.3)
    assert float(tree["transforms"]["view2"]["rotation"]["degrees"]) == 7
    assert float(tree["second"]["transforms"]["view1"]["rotation"]["degrees"]) == 9
    alone = sweeps.hyper(config, sweeps.Run("x", 1, {"second.temperature": 0.6, "second.view2.rotation.degrees": 1.0}))
    assert float(alone["temperature"]) == pytest.approx(0.2)
    assert float(alone["second"]["temperature"]) == pytest.approx(0.6)
    assert float(alone["second"]["transforms"]["view1"]["rotation"]["degrees"]) == 180
    first = sweeps.hyper(config, sweeps.Run("x", 1, {"first.temperature": 0.5, "second.temperature": 0.6}))
    assert float(first["temperature"]) == pytest.approx(0.5)
    assert float(first["second"]["temperature"]) == pytest.approx(0.6)
    with pytest.raises(config_lib.UserError, match="both mean second.temperature"):
        sweeps.hyper(config, sweeps.Run("x", 1, {"temperature": 0.3, "second.temperature": 0.6}))


def test_what_is_given_is_given_for_both_and_the_rest_is_as_each_method_s_preset_says(tiny):
    config = config_lib.resolve(
        config_lib.Config(preset="paper", method="mocov2plus", second_method="barlow_twins", hidden_dim=64, **SETS)
    )
    assert (config.output_dim, config.second.output_dim) == (256, 2048)
    assert (config.hidden_dim, config.second.hidden_dim) == (64, 64)


def test_filling_the_memory_of_one_side_leaves_the_other_s_alone(tiny, one_layer):
    config = tiny(backbone=one_layer, method="mocov2plus", second_method="deepclusterv2", **SETS)
    trained = pipeline.untrained(pipeline.plan([config])[0])
    before = jax.tree.map(np.asarray, trained.state.memory)
    after = loop.fill_memory(config_lib.resolve(config), trained, "pair").memory
    jax.tree.map(np.testing.assert_array_equal, after["first"], before["first"])
    norms = np.linalg.norm(after["second"]["bank"], axis=-1)
    np.testing.assert_allclose(norms[norms > 0], 1, rtol=1e-5)
    assert (norms > 0).mean() == pytest.approx(1408 / 1438)  # the whole batches of the set, in both banks


def test_resolving_twice_is_resolving_once_and_a_ready_made_second_is_refused(tiny):
    config = config_lib.Config(preset="solo", method="mocov2plus", second_method="nnclr", **SETS)
    once = config_lib.resolve(config)
    assert config_lib.resolve(once) == once
    assert (once.queue_size, once.second.queue_size) == (32768, 65536)
    with pytest.raises(config_lib.UserError, match="second_transforms"):
        tiny(second=once)


def test_one_loss_beside_two_have_names_of_their_own(tiny):
    programs = pipeline.plan([tiny(second_transforms=s) for s in ("none", "mnist_second")])
    assert [p.name for p in programs] == ["none", "mnist_second"]
    assert programs[0].config.second is None


def test_a_list_of_sets_may_hold_the_sum_of_two(tiny):
    """`A & B` is A with the second set B; the weights are the sum's, and the single set's to pass by."""
    weighted = dict(loss_weights_first=0.4, seeds=(1,))
    whole = config_lib.resolve(tiny(transforms="mnist_first & mnist_second", **weighted))
    assert whole == config_lib.resolve(tiny(**SETS, **weighted))
    sets = ("mnist_first", "mnist_first & mnist_second")
    alone, both = pipeline.plan([tiny(transforms=each, **weighted) for each in sets])
    assert alone.config.second is None and both.config == dataclasses.replace(
        whole, run_axis=both.config.run_axis, stream=both.config.stream
    )
    assert (alone.name, both.name) == ("none", "mnist_second")
    several = pipeline.plan([tiny(transforms=each, **weighted) for each in (*sets[:1], "mnist_second & mnist_first")])
    assert [program.name for program in several] == ["mnist_first", "mnist_second-mnist_first"]
    with pytest.raises(config_lib.UserError, match=r"--loss_weights.first: there is no second loss"):
        pipeline.plan([tiny(transforms=each, **weighted) for each in ("mnist_first", "mnist_second")])


def test_local_crops_go_to_the_side_that_takes_them(tiny):
    settings = dict(
        method="simclr", second_method="dino", local_crops=2, **{**SETS, "second_transforms": "mnist_first"}
    )
    program = pipeline.plan([tiny(**settings)])[0]
    assert (program.config.local_crops, program.config.second.local_crops) == (0, 2)
    assert "local" in sweeps.hyper(program.config, program.runs[0])["second"]["transforms"]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), itertools.pairwise([*METHODS, next(iter(METHODS))]))
def test_any_method_trains_beside_the_next(tiny, one_layer, first, second):
    """Every method once as the first and once as the second of two, for an epoch, as a sweep over the second's weight."""
    config = tiny(
        backbone=one_layer, method=first, second_method=second, sweep=("loss_weights.second=0,1",), seeds=(5,), **SETS
    )
    program = pipeline.plan([config])[0]
    trained = pipeline.untrained(program)
    order = jax.jit(over_runs(trained.program.order, (0, None)))(trained.hyper, 0)
    state = loop.fill_memory(program.config, trained, "pair")
    state = jax.jit(over_runs(trained.program.on_epoch, (0, 0, None)))(state, trained.hyper, 0)
    step = loop.sweep_step(program.config, trained.program, 1)
    for i in range(trained.program.steps_per_epoch):
        state, metrics = step(state, trained.hyper, trained.data, order, i)
    assert np.asarray(state.alive).all()
    assert np.isfinite(metrics["loss.second"]).all()
    encoder = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params["backbone"])]
    assert max(np.abs(leaf[0] - leaf[1]).max() for leaf in encoder) > 1e-4  # the second loss acts on the encoder
