"""Every method of the table through the same properties, and what one alone promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import config as config_lib
from ssljax import losses, pipeline, sweeps
from ssljax.errors import UserError
from ssljax.methods import METHODS, PRESETS, Batch, preset
from ssljax.methods.base import cosine_tau
from ssljax.models import backbone

TOTAL = 10


@pytest.fixture(scope="module", params=METHODS)
def case(request, tiny):
    """A method with its state, a batch of real digits, and its loss and gradients, compiled once."""
    config = config_lib.resolve(tiny(method=request.param, transforms="mnist_first"))
    network = backbone(config.backbone, width=config.width, convolution="matmul")
    method = METHODS[config.method].make(config, network, TOTAL)
    hyper = sweeps.hyper(config, sweeps.runs(config)[0])
    images = jax.random.uniform(jax.random.key(3), (2, config.batch_size, 8, 8, 1))
    batch = Batch(tuple(images), jnp.arange(config.batch_size))
    params, stats, memory = jax.jit(method.init)(jax.random.key(0), tuple(i[:1] for i in images))

    @jax.jit
    def evaluate(params, stats, memory, step):
        def loss(params, memory):
            return method.loss(params, stats, memory, batch, hyper, step, jax.random.key(1))

        floats = jax.tree.map(jnp.asarray, memory)
        (value, aux), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, floats)
        return value, aux, gradients

    return config, method, hyper, batch, (params, stats, memory), evaluate


def test_loss_and_gradients_are_finite_and_every_parameter_is_trained(case):
    _, _, _, _, (params, stats, memory), evaluate = case
    value, _, (gradients, _) = evaluate(params, stats, memory, 0)
    assert np.isfinite(value)
    assert value.dtype == jnp.float32
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients["projector"]))
    assert np.any(gradients["backbone"]["conv0"]["kernel"])


def test_no_gradient_reaches_the_memory(case):
    _, _, _, _, (params, stats, memory), evaluate = case
    _, _, (_, to_memory) = evaluate(params, stats, memory, 0)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(to_memory))


def test_temperature_changes_the_loss(case):
    _, method, hyper, batch, (params, stats, memory), evaluate = case
    value = evaluate(params, stats, memory, 0)[0]
    hotter = {**hyper, "temperature": hyper["temperature"] * 3}
    other = method.loss(params, stats, memory, batch, hotter, 0, jax.random.key(1))[0]
    assert abs(float(value - other)) > 1e-2


def test_every_preset_resolves_and_declares_what_it_sweeps(case):
    config, *_ = case
    for name in PRESETS:
        values = preset(config.method, name)
        resolved = config_lib.resolve(config_lib.Config(method=config.method, preset=name))
        assert resolved.learning_rate == values["learning_rate"]
        tree = sweeps.hyper(resolved, sweeps.runs(resolved)[0])
        for address in METHODS[config.method].HYPER:
            leaf = tree
            for part in address.split("."):
                leaf = leaf[part]
            assert float(leaf) == pytest.approx(getattr(resolved, address.replace(".", "_")))


def test_encode_is_the_backbone_in_evaluation_mode(case):
    config, method, _, batch, (params, stats, _), _ = case
    network = backbone(config.backbone, width=config.width, convolution="lax")
    expected = network.apply({"params": params["backbone"], "batch_stats": stats}, batch.views[0], train=False)
    np.testing.assert_allclose(method.encode(params, stats, batch.views[0]), expected, rtol=1e-3, atol=1e-5)


# --- MoCo v2+ -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moco(tiny):
    config = config_lib.resolve(tiny(method="mocov2plus", batch_size=16, queue_size=48))
    network = backbone(config.backbone, width=config.width, convolution="matmul")
    method = METHODS["mocov2plus"].make(config, network, TOTAL)
    views = tuple(jax.random.uniform(jax.random.key(3), (2, 16, 8, 8, 1)))
    state = method.init(jax.random.key(0), views)
    hyper = sweeps.hyper(config, sweeps.runs(config)[0])
    loss = jax.jit(
        lambda p, s, m, step: method.loss(p, s, m, Batch(views, jnp.arange(16)), hyper, step, jax.random.key(1))
    )
    return config, method, state, views, hyper, loss


def test_moco_loss_is_taken_on_the_old_queue_and_keys_enter_after_it(moco):
    config, _, (params, stats, memory), views, hyper, loss = moco
    value, (_, new, _) = loss(params, stats, memory, 4)  # fifth batch in a queue of three: the second place
    # The two terms by hand, from the functions of the network alone.
    network = backbone(config.backbone, width=config.width, convolution="matmul")

    def project(params, images):
        variables = {"params": params["backbone"], "batch_stats": stats}
        features, _ = network.apply(variables, images, train=True, mutable=["batch_stats"])
        head = params["projector"]
        hidden = np.maximum(features @ head["linear1"]["dense"]["kernel"] + head["linear1"]["dense"]["bias"], 0)
        return hidden @ head["linear2"]["dense"]["kernel"] + head["linear2"]["dense"]["bias"]

    q1, q2 = (project(params, v) for v in views)
    k1, k2 = (losses.normalize(project(memory["target"]["params"], v)) for v in views)
    old, t = memory["queue"], float(hyper["temperature"])
    expected = (losses.info_nce(q1, k2, old[1], t) + losses.info_nce(q2, k1, old[0], t)) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    for view, keys in enumerate((k1, k2)):
        np.testing.assert_allclose(new["queue"][view, 16:32], keys, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(new["queue"][view, :16], old[view, :16])
        np.testing.assert_array_equal(new["queue"][view, 32:], old[view, 32:])


def test_moco_memory_starts_as_documented(moco):
    config, _, (params, _, memory), *_ = moco
    np.testing.assert_allclose(np.linalg.norm(memory["queue"], axis=-1), 1, rtol=1e-5)
    assert memory["queue"].shape == (2, config.queue_size, config.output_dim)
    assert np.abs(np.corrcoef(memory["queue"][0].ravel(), memory["queue"][1].ravel())[0, 1]) < 0.2
    jax.tree.map(np.testing.assert_array_equal, memory["target"]["params"], params)


@pytest.mark.parametrize("step", [0, 4, TOTAL - 1])
def test_moco_target_is_the_moving_average_of_parameters_only(moco, step):
    _, method, (params, _, memory), _, hyper, _ = moco
    moved = jax.tree.map(lambda p: p + 1.0, params)
    new = method.update(moved, memory, hyper, jnp.int32(step))
    # By the cosine from base to final, as BYOL's equation in section 3.2.
    base, final = float(hyper["tau"]["base"]), float(hyper["tau"]["final"])
    tau = final - (final - base) * (np.cos(np.pi * step / (TOTAL - 1)) + 1) / 2
    old = memory["target"]["params"]["projector"]["linear1"]["dense"]["kernel"]
    actual = new["target"]["params"]["projector"]["linear1"]["dense"]["kernel"]
    np.testing.assert_allclose(actual, np.asarray(old) + (1 - tau), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(new["queue"], memory["queue"])
    jax.tree.map(np.testing.assert_array_equal, new["target"]["stats"], memory["target"]["stats"])


def test_tau_goes_from_base_to_final():
    values = [float(cosine_tau(jnp.float32(0.9), jnp.float32(1.0), s, TOTAL)) for s in range(TOTAL)]
    assert values[0] == pytest.approx(0.9)
    assert values[-1] == pytest.approx(1.0)
    assert np.all(np.diff(values) > 0)


def test_moco_refuses_a_queue_that_the_batch_does_not_divide(tiny):
    with pytest.raises(UserError, match=r"--queue_size: 100 .*--batch_size=64"):
        pipeline.untrained(pipeline.plan([tiny(queue_size=100)])[0])


def test_simclr_keeps_nothing(tiny):
    config = config_lib.resolve(tiny(method="simclr"))
    method = METHODS["simclr"].make(config, backbone(config.backbone, width=config.width), TOTAL)
    _, _, memory = method.init(jax.random.key(0), (jnp.zeros((1, 8, 8, 1)),) * 2)
    assert jax.tree.leaves(memory) == []
    assert method.update({}, memory, {}, 0) == {}
