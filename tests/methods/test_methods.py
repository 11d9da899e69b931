"""Every method of the table through the same properties, and what one alone promises of its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import entropy

from ssljax import assign, losses, pipeline, sweeps
from ssljax import config as config_lib
from ssljax.errors import UserError
from ssljax.methods import METHODS, PRESETS, Batch, Course, build, preset, twist
from ssljax.methods.base import cosine_schedule
from ssljax.methods.describe import describe
from ssljax.models import MLP, backbone
from ssljax.train import step as step_lib

N, SIZE, IMAGES = 48, 8, 100
CLASSES = 7
COURSE = Course(images=IMAGES, steps_per_epoch=2, total_steps=10, classes=CLASSES)
INDEX = np.random.default_rng(0).permutation(IMAGES)[:N]
LABELS = INDEX % CLASSES
VIEWS = tuple(jax.random.uniform(jax.random.key(3), (2, N, SIZE, SIZE, 1)))


def tree_paths(tree):
    """{dotted path: leaf} of a pytree of dicts."""
    return {
        ".".join(str(getattr(k, "key", k)) for k in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def changed(before, after, depth=1):
    """The first names of the paths whose values differ."""
    before, after = tree_paths(before), tree_paths(after)
    assert before.keys() == after.keys()
    return {".".join(p.split(".")[:depth]) for p in before if not np.array_equal(before[p], after[p])}


class Case:
    """A method on a backbone of one layer, its state, and its loss with gradients, compiled once."""

    def __init__(self, config):
        self.config = config = config_lib.resolve(config)
        self.backbone = backbone(config.backbone, precision=config.precision)
        self.method = build(config, self.backbone, COURSE)
        self.hyper = sweeps.hyper(config, sweeps.runs(config)[0])
        blank = tuple(jnp.zeros((1, view.size, view.size, 1)) for view in self.method.views)
        self.state = jax.jit(self.method.init)(jax.random.key(0), blank)
        self.views = tuple(view[:, : v.size, : v.size] for v, view in zip(self.method.views, VIEWS * 4))

        @jax.jit
        def evaluate(params, stats, memory, views, hyper, step):
            integers = jax.tree.map(lambda m: not jnp.issubdtype(m.dtype, jnp.floating), memory)
            floats = jax.tree.map(lambda m, i: jnp.zeros(0) if i else m, memory, integers)

            def loss(params, floats):
                full = jax.tree.map(lambda f, m, i: m if i else f, floats, memory, integers)
                batch = Batch(views, jnp.asarray(INDEX), jnp.asarray(LABELS) if self.method.labels else ())
                return self.method.loss(params, stats, full, batch, hyper, step, jax.random.key(1))

            (value, aux), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, floats)
            return value, aux, gradients

        self.evaluate = evaluate

    def __call__(self, params=None, stats=None, memory=None, views=None, hyper=None, step=0):
        state = [given if given is not None else own for given, own in zip((params, stats, memory), self.state)]
        return self.evaluate(*state, views or self.views, hyper or self.hyper, jnp.int32(step))

    def z(self, views, params=None, stats=None):
        """Projections [views, N, out] in train mode, by the modules themselves."""
        config, (own, own_stats, _) = self.config, self.state
        params, stats = params or own, stats or own_stats
        out = []
        for view in views:
            variables = {"params": params["backbone"], "batch_stats": stats["backbone"]}
            features, _ = self.backbone.apply(variables, view, train=True, mutable=["batch_stats"])
            head = MLP((config.hidden_dim, config.output_dim), normalise="bn1" in params["projector"])
            if "linear3" in params["projector"]:
                norm = "affine" if "bn3" in params["projector"] else ""
                head = MLP((config.hidden_dim, config.hidden_dim, config.output_dim), output_norm=norm)
            variables = {"params": params["projector"], "batch_stats": stats["projector"]}
            out.append(head.apply(variables, features, train=True, mutable=["batch_stats"])[0])
        return jnp.stack(out)


@pytest.fixture(scope="module")
def settings(tiny, one_layer):
    return lambda **given: tiny(
        **{"backbone": one_layer, "image_size": SIZE, "batch_size": N, "queue_size": 3 * N, **given}
    )


@pytest.fixture(scope="module", params=METHODS)
def case(request, settings):
    return Case(settings(method=request.param))


@pytest.fixture(scope="module")
def of(settings):
    """A `Case` by name and settings, made once."""
    made = {}

    def get(method, **given):
        key = (method, *given.items())
        if key not in made:
            made[key] = Case(settings(method=method, **given))
        return made[key]

    return get


def test_loss_and_gradients_are_finite_float32_and_every_part_is_trained(case):
    value, (stats, memory, _), (gradients, _) = case(memory=seen(case))
    assert np.isfinite(value)
    assert value.dtype == jnp.float32
    for path, leaf in tree_paths(gradients).items():
        assert np.isfinite(leaf).all(), path
        assert leaf.dtype == np.float32
    for part, leaves in gradients.items():
        assert any(np.any(leaf) for leaf in jax.tree.leaves(leaves)), part
    assert jax.tree.structure((stats, memory)) == jax.tree.structure(case.state[1:])


def seen(case):
    """Memory in which every image has a cluster, for the one method whose loss is 0 without; others as they are."""
    memory = case.state[2]
    if case.method.on_epoch is None:
        return memory
    bank = losses.normalize(jax.random.normal(jax.random.key(5), memory["bank"].shape))
    return case.method.on_epoch(case.state[0], {**memory, "bank": bank}, case.hyper, jax.random.key(6))


def test_no_gradient_reaches_the_memory(case):
    _, _, (_, to_memory) = case(memory=seen(case), step=4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(to_memory))


# What a step's loss and its `update` change in memory; nothing else may.
MEMORY = {
    "barlow_twins": (set(), set()),
    "byol": ({"target.stats"}, {"target.params"}),
    "deepclusterv2": ({"bank"}, set()),
    "dino": ({"target.stats", "center"}, {"target.params"}),
    "mira": ({"target.stats"}, {"target.params"}),
    "mocov2plus": ({"target.stats", "queue"}, {"target.params"}),
    "mocov3": ({"target.stats"}, {"target.params"}),
    "nnbyol": ({"target.stats", "queue"}, {"target.params"}),
    "nnclr": ({"queue"}, set()),
    "ressl": ({"target.stats", "queue"}, {"target.params"}),
    "simclr": (set(), set()),
    "simsiam": (set(), set()),
    "supervised": (set(), set()),
    "swav": ({"queue"}, set()),
    "twist": (set(), set()),
    "vibcreg": (set(), set()),
    "vicreg": (set(), set()),
}


def test_memory_changes_as_documented_and_by_nothing_else(case):
    params, stats, memory = case.state
    by_loss, by_update = MEMORY[case.config.method]
    _, (new_stats, new, _), _ = case()
    assert changed(memory, new, depth=2) == by_loss
    assert "backbone" in changed(stats, new_stats)
    moved = jax.tree.map(lambda p: p + 1.0, params)
    updated = case.method.update(moved, memory, case.hyper, jnp.int32(0))
    assert changed(memory, updated, depth=2) == by_update
    if (
        by_update
    ):  # at the first step tau is its base, and the target of a part is tau of the old and the rest of the new
        tau = float(case.hyper["tau"]["base"])
        for path, leaf in tree_paths(updated["target"]["params"]).items():
            old = tree_paths(memory["target"]["params"])[path]
            np.testing.assert_allclose(leaf, old + (1 - tau), rtol=1e-5, atol=1e-6, err_msg=path)
        mine = tree_paths(params)
        for path, leaf in tree_paths(memory["target"]["params"]).items():
            np.testing.assert_array_equal(leaf, mine[path], err_msg=path)  # starts as a copy


def test_every_swept_name_is_documented_and_changes_the_loss_or_the_memory(case):
    page = describe(case.config.method)
    other = {
        "queue_start_epoch": 9.0,
        "sinkhorn.iterations": 1.0,
        "center_momentum": 0.5,
        "beta.base": 0.5,
        "beta.final": 0.5,
    }
    other |= {"solver.tolerance": 1.0, "solver.max_iter": 1.0, "self_labelling.epoch": 0.0}
    # One number acts through another function than the loss: when it moves, or what k-means gives. Or within a stage only.
    elsewhere = {"tau.base", "tau.final", "freeze_epochs", "kmeans.iterations"}
    elsewhere |= {
        f"self_labelling.{name}" for name in ("fraction.base", "fraction.final", "learning_rate", "warmup_epochs")
    }
    for address in METHODS[case.config.method].HYPER:
        assert address in page
        if address in elsewhere:
            continue
        (value,) = [v for path, v in tree_paths(case.hyper).items() if path == address]
        swept = {address: other.get(address, float(value) * 2)}
        hyper = sweeps.hyper(case.config, sweeps.Run("x", 5, swept))
        step = 8 if address == "queue_start_epoch" else 2
        memory = seen(case)
        before, after = case(memory=memory, step=step), case(memory=memory, hyper=hyper, step=step)
        differs = abs(float(before[0] - after[0])) > 1e-6 or changed(before[1][1], after[1][1])
        assert differs, address


def test_trainable_holds_and_releases_as_documented(case):
    """The prototypes of SwAV and DINO do not move before `freeze_epochs`; everything else always does."""
    params = case.state[0]
    if case.method.trainable is None:
        assert "freeze_epochs" not in METHODS[case.config.method].HYPER
        return
    last = int(case.hyper["freeze_epochs"]) * COURSE.steps_per_epoch - 1
    for step, expected in ((0, 0), (last, 0), (last + 1, 1)):
        mask = case.method.trainable(params, jnp.int32(step), case.hyper)
        for path, leaf in tree_paths(mask).items():
            assert float(leaf) == (expected if path == "prototypes" else 1), (path, step)


def test_bfloat16_keeps_losses_memory_and_statistics_in_float32(case, of):
    low = of(case.config.method, precision="bfloat16")
    memory = seen(low)
    value, (stats, new, _), (gradients, _) = low(memory=memory)
    assert value.dtype == jnp.float32
    for path, leaf in tree_paths((stats, new, gradients)).items():
        assert leaf.dtype in (np.float32, np.int32), path
    full = case(memory=seen(case))[0]
    np.testing.assert_allclose(value, full, rtol=0.05, atol=0.02)
    own, exact = (tree_paths(g["backbone"]) for g in (gradients, case(memory=seen(case))[2][0]))
    assert any(not np.array_equal(own[path], exact[path]) for path in own)  # it was computed in bfloat16


def test_every_preset_resolves_and_declares_what_it_sweeps(case):
    method = case.config.method
    sets = {
        "paper@mnist": "mnist",
        "paper@imagenet100": "imagenet100:x",
        "paper@imagenet2012": "imagenet2012:5.1.0",
        "paper@bbbc021": "bbbc021:x",
        "paper@crops": "crops:x.npz",
        "solo@imagenet100": "imagenet100:x",
    }
    for name in METHODS[method].PRESETS:
        dataset = sets.get(name, "digits")
        values = preset(method, name.partition("@")[0], dataset)
        given = config_lib.Config(method=method, preset=name.partition("@")[0], dataset=dataset)
        resolved = config_lib.resolve(given)
        assert resolved.learning_rate == values["learning_rate"]
        tree = tree_paths(sweeps.hyper(resolved, sweeps.runs(resolved)[0]))
        for address, traced in METHODS[method].HYPER.items():
            field = config_lib.fields().get(address)
            expected = values[field.name] if field else values.get(address, traced.default)
            assert tree[address] == pytest.approx(expected)


# METHODS table of the papers' appendix D.1 / B.1: learning rate, weight decay, output, batch, and what else it states.
PAPER = {
    "barlow_twins": (0.3, 1e-4, 2048, 512, {}),
    "byol": (1.0, 1e-5, 256, 512, {"tau_base": 0.99}),
    "deepclusterv2": (0.6, 1e-6, 128, 512, {"prototypes": 3000, "warmup_epochs": 11}),
    "dino": (0.3, 1e-4, 256, 256, {"prototypes": 4096, "tau_base": 0.9995}),
    "mocov2plus": (0.3, 1e-4, 256, 512, {"queue_size": 32768, "temperature": 0.2, "tau_base": 0.99}),
    "nnbyol": (1.0, 1e-5, 256, 512, {"tau_base": 0.99}),
    "nnclr": (0.4, 1e-5, 256, 512, {"queue_size": 65536, "temperature": 0.2}),
    "ressl": (0.05, 1e-4, 256, 512, {"tau_base": 0.99}),
    "simclr": (0.4, 1e-5, 256, 512, {"temperature": 0.2}),
    "simsiam": (0.5, 1e-5, 2048, 512, {}),
    "swav": (0.6, 1e-6, 128, 512, {"queue_size": 3840, "prototypes": 3000}),
    "vibcreg": (0.3, 1e-4, 2048, 512, {}),
    "vicreg": (0.3, 1e-4, 2048, 256, {}),
}


@pytest.mark.parametrize("method", PAPER)
def test_the_paper_preset_is_the_papers(method):
    rate, decay, out, batch, more = PAPER[method]
    config = config_lib.resolve(config_lib.Config(method=method, preset="paper"))
    assert (config.learning_rate, config.weight_decay, config.output_dim) == (rate, decay, out)
    assert (config.batch_size, config.epochs, config.optimizer, config.lr_scaling) == (batch, 1000, "sgd", "none")
    assert {name: getattr(config, name) for name in more} == more


def test_what_the_papers_say_of_mnist_and_imagenet100():
    mnist = config_lib.resolve(config_lib.Config(method="byol", preset="paper", dataset="mnist:3.0.1"))
    assert (mnist.learning_rate, mnist.weight_decay, mnist.output_dim, mnist.batch_size) == (0.01, 1e-5, 256, 32)
    assert (mnist.optimizer, mnist.epochs, mnist.backbone) == ("adam", 250, "vgg11")
    large = {
        m: config_lib.resolve(config_lib.Config(method=m, preset="paper", dataset="imagenet100:/data"))
        for m in ("byol", "mocov2plus", "simclr", "vicreg")
    }
    assert {m: (c.learning_rate, c.weight_decay) for m, c in large.items()} == {
        "byol": (0.45, 1e-5), "mocov2plus": (0.3, 1e-4), "simclr": (0.4, 1e-5), "vicreg": (0.3, 1e-4),
    }  # fmt: skip
    assert {(c.batch_size, c.epochs) for c in large.values()} == {(128, 400)}
    with pytest.raises(UserError, match="--preset: 'paper' has no values for dino on imagenet100, only for byol"):
        config_lib.resolve(config_lib.Config(method="dino", preset="paper", dataset="imagenet100:/data"))


@pytest.mark.parametrize("dataset", ["bbbc021:/cells", "crops:/cells/crops.npz"])
def test_what_the_papers_say_of_cells(dataset):
    cells = {
        method: config_lib.resolve(config_lib.Config(method=method, preset="paper", dataset=dataset))
        for method in ("byol", "mocov2plus", "vicreg")
    }
    for config in cells.values():
        assert (config.optimizer, config.batch_size, config.epochs) == ("adam", 128, 400)
        assert (config.learning_rate, config.weight_decay, config.lr_scaling) == (1e-3, 1e-4, "none")
        assert (config.backbone, config.image_size, config.probe_transforms) == ("vgg13", 196, "none")
    assert (cells["mocov2plus"].queue_size, cells["mocov2plus"].temperature) == (1024, 0.07)
    with pytest.raises(UserError, match="--preset: 'paper' has no values for dino on "):
        config_lib.resolve(config_lib.Config(method="dino", preset="paper", dataset=dataset))


def test_encode_is_the_backbone_in_evaluation_mode(case):
    params, stats, _ = case.state
    variables = {"params": params["backbone"], "batch_stats": stats["backbone"]}
    expected = case.backbone.apply(variables, VIEWS[0], train=False)
    np.testing.assert_allclose(case.method.encode(params, stats, VIEWS[0]), expected, rtol=1e-4, atol=1e-6)


# --- Collapse: all images alike, so that all outputs are alike ---------------------------------------------------------

ALIKE = tuple(jnp.broadcast_to(view[:1], view.shape) for view in (VIEWS[0], VIEWS[0]))

# The value that theory gives when every output is one vector (and the queue holds nothing but it). Of an output that
# batch normalisation centred, every entry is its offset, here 0, and so its standard deviation.
COLLAPSE = {
    "simclr": lambda c: np.log(2 * N - 1),  # every one of the 2N - 1 others is as near
    "mocov2plus": lambda c: np.log(1 + 3 * N),
    "mocov3": lambda c: 2 * 2 * c.temperature * np.log(N),  # two directions, each times 2T
    "nnclr": lambda c: np.log(N),
    "ressl": lambda c: np.log(3 * N),
    "barlow_twins": lambda c: 0.1 * c.output_dim,  # C = 0
    "vicreg": lambda c: 25 * 2 * (1 - np.sqrt(1e-4)),  # no variance, no covariance
    "vibcreg": lambda c: 25 * 2 * (1 - np.sqrt(1e-4)),
}


@pytest.mark.parametrize("method", COLLAPSE)
def test_collapse_gives_what_theory_gives(of, method):
    case = of(method)
    memory = case.state[2]
    if "queue" in memory:
        _, (_, filled, _), _ = case(views=ALIKE)
        key = filled["queue"][..., :1, :]  # what the first step wrote
        memory = {**memory, "queue": jnp.broadcast_to(key, memory["queue"].shape)}
    value = case(memory=memory, views=ALIKE)[0]
    np.testing.assert_allclose(value, COLLAPSE[method](case.config), rtol=1e-3)


@pytest.mark.parametrize("method", ["byol", "simsiam", "nnbyol", "dino", "swav", "deepclusterv2"])
def test_collapse_costs_a_clustering_method_its_ceiling_and_the_others_nothing(of, method):
    """Outputs that are all one vector: least loss where nothing repels, log K or more where clusters must be even."""
    case = of(method)
    params, _, memory = case.state
    k = case.config.prototypes
    if method in ("byol", "nnbyol", "simsiam"):
        # A predictor that says one thing whatever it sees: what the target, the neighbour or the other projection is.
        last = params["predictor"]["linear2"]["dense"]
        z = jnp.ones(case.config.output_dim) if method == "simsiam" else losses.normalize(case.z(ALIKE)[0, 0])
        constant = {"kernel": jnp.zeros_like(last["kernel"]), "bias": z}
        params = {**params, "predictor": {**params["predictor"], "linear2": {"dense": constant}}}
        if method == "nnbyol":
            memory = {**memory, "queue": jnp.broadcast_to(z, memory["queue"].shape)}
        # SimSiam's projection ends in batch normalisation, which makes one vector 0: so is its cosine, the least being -1.
        np.testing.assert_allclose(case(params=params, memory=memory, views=ALIKE)[0], 0, atol=1e-4)
    elif method == "deepclusterv2":
        memory = seen(case)
        memory["prototypes"] = jnp.broadcast_to(memory["prototypes"][:, :1], memory["prototypes"].shape)
        np.testing.assert_allclose(case(memory=memory, views=ALIKE)[0], np.log(k), rtol=1e-4)
    else:
        if (
            method == "dino"
        ):  # without offsets the output would be the direction of a zero vector, which is rounding noise
            last = params["projector"]["linear3"]["dense"]
            offset = {**last, "bias": jnp.linspace(-1, 2, case.config.output_dim)}
            params = {**params, "projector": {**params["projector"], "linear3": {"dense": offset}}}
            memory = {**memory, "target": {**memory["target"], "params": params}}
        value = float(case(params=params, memory=memory, views=ALIKE)[0])
        if method == "dino":
            scores = np.asarray(dino_logits(case, ALIKE, params)[0, 0], np.float64)
        else:
            z, directions = losses.normalize(case.z(ALIKE)[0, 0]), losses.normalize(params["prototypes"])
            scores = np.asarray(directions @ z, np.float64)
        # Codes are even over prototypes when all images score alike, and the cross entropy with the even distribution is
        # the mean of -log softmax; DINO's centre starts at 0, so its target is its own sharpened distribution.
        log_p = scores / 0.1 - np.log(np.exp(scores / 0.1).sum())
        sharp = np.exp(scores / 0.04) / np.exp(scores / 0.04).sum()
        np.testing.assert_allclose(value, -log_p.mean() if method == "swav" else -(sharp * log_p).sum(), rtol=1e-3)
        if method == "swav":
            assert value >= np.log(k)


# --- Each memory by the values it should hold --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mocov2plus", "nnclr", "nnbyol", "ressl"])
def test_keys_enter_the_queue_after_the_look_up_at_the_place_of_the_step(of, method):
    case = of(method)
    _, _, memory = case.state
    target = memory.get("target", {"params": None, "stats": None})
    z1, z2 = losses.normalize(case.z(VIEWS, target["params"], target["stats"]))
    expected = {"mocov2plus": jnp.stack([z1, z2]), "nnclr": z1, "nnbyol": z1, "ressl": z2}[method]
    old = memory["queue"]
    value, (_, new, _), _ = case(step=4)  # the fifth batch in a queue of three: the second place
    np.testing.assert_allclose(new["queue"][..., N : 2 * N, :], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(new["queue"][..., :N, :], old[..., :N, :])
    np.testing.assert_array_equal(new["queue"][..., 2 * N :, :], old[..., 2 * N :, :])
    np.testing.assert_allclose(np.linalg.norm(old, axis=-1), 1, rtol=1e-5)
    # The loss saw the old queue: with the new one in its place it is another.
    assert abs(float(case(memory=new, step=4)[0] - value)) > 1e-4


def test_moco_is_two_terms_each_with_the_queue_of_its_key(of):
    case = of("mocov2plus")
    memory = case.state[2]
    target, queue, t = memory["target"], memory["queue"], float(case.hyper["temperature"])
    q1, q2 = case.z(VIEWS)
    moved = jax.tree.map(lambda p: p * 1.3, target["params"])  # so that keys are not queries
    k1, k2 = losses.normalize(case.z(VIEWS, moved, target["stats"]))
    expected = (losses.info_nce(q1, k2, queue[1], t) + losses.info_nce(q2, k1, queue[0], t)) / 2
    value = case(memory={**memory, "target": {**target, "params": moved}})[0]
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert np.abs(np.corrcoef(queue[0].ravel(), queue[1].ravel())[0, 1]) < 0.2


def test_mocov3_is_two_terms_with_the_moved_targets_keys_of_the_other_view(of):
    """From the parameters, in float64: heads of two layers without offsets, all batch-normalised, the last without affine."""
    case = of("mocov3")
    params, stats, memory = case.state
    t, tau = float(case.hyper["temperature"]), float(case.hyper["tau"]["base"])
    assert set(params) == {"backbone", "projector", "predictor"}
    for head in ("projector", "predictor"):
        assert set(tree_paths(params[head])) == {
            "linear1.dense.kernel",
            "bn1.scale",
            "bn1.bias",
            "linear2.dense.kernel",
        }

    def head(x, own):
        for i in (1, 2):
            x = x @ np.asarray(own[f"linear{i}"]["dense"]["kernel"], np.float64)
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
            if i == 1:
                x = np.maximum(x * np.asarray(own["bn1"]["scale"]) + np.asarray(own["bn1"]["bias"]), 0)
        return x

    def z(params):
        variables = {"params": params["backbone"], "batch_stats": stats["backbone"]}
        for view in VIEWS:
            features, _ = case.backbone.apply(variables, view, train=True, mutable=["batch_stats"])
            yield head(np.asarray(features, np.float64), params["projector"])

    noise = jax.random.split(jax.random.key(2), len(jax.tree.leaves(params)))
    keys = jax.tree.unflatten(jax.tree.structure(params), list(noise))
    moved = jax.tree.map(lambda p, key: p + jax.random.normal(key, p.shape), params, keys)  # by the optimiser, say
    new = {name: jax.tree.map(lambda a, b: tau * a + (1 - tau) * b, params[name], moved[name]) for name in params}
    p1, p2 = (unit(head(each, moved["predictor"])) for each in z(moved))
    k1, k2 = (unit(each) for each in z(new))
    terms = [
        -np.diag(p @ k.T / t - logsumexp(p @ k.T / t, axis=1, keepdims=True)).mean() for p, k in ((p1, k2), (p2, k1))
    ]
    value = case(params=moved, memory=case.method.update(moved, memory, case.hyper, jnp.int32(0)), step=1)[0]
    np.testing.assert_allclose(value, 2 * t * sum(terms), rtol=1e-3)
    assert abs(float(case(params=moved, step=1)[0] - value)) > 1e-4  # the keys are of the target that moved


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_supervised_is_logistic_regression_on_the_features_of_one_view(of):
    case = of("supervised")
    params, stats, _ = case.state
    assert case.method.labels and [(v.source, v.size) for v in case.method.views] == [("view1", SIZE)]
    variables = {"params": params["backbone"], "batch_stats": stats["backbone"]}
    x, _ = case.backbone.apply(variables, VIEWS[0], train=True, mutable=["batch_stats"])
    x, linear = np.asarray(x, np.float64), params["projector"]["linear1"]["dense"]
    scores = x @ np.asarray(linear["kernel"], np.float64) + np.asarray(linear["bias"], np.float64)
    assert scores.shape == (N, CLASSES)
    log_p = scores - logsumexp(scores, axis=1, keepdims=True)
    value, (_, _, told), (gradients, _) = case()
    np.testing.assert_allclose(value, -log_p[np.arange(N), LABELS].mean(), rtol=1e-5)
    np.testing.assert_allclose(told["accuracy"], np.mean(log_p.argmax(axis=1) == LABELS), rtol=1e-6)
    wrong = (np.exp(log_p) - np.eye(CLASSES)[LABELS]) / N
    found = gradients["projector"]["linear1"]["dense"]
    np.testing.assert_allclose(found["kernel"], x.T @ wrong, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found["bias"], wrong.sum(0), rtol=1e-3, atol=1e-6)


def test_of_all_methods_only_the_supervised_sees_labels(case):
    assert case.method.labels == (case.config.method == "supervised")


def test_ressl_sees_view_1_with_the_student_and_view_2_with_the_target(of):
    case = of("ressl")
    (q, _), (_, k) = case.z(VIEWS), losses.normalize(case.z(VIEWS))
    expected = losses.ressl(q, k, case.state[2]["queue"], 0.1, 0.04)
    np.testing.assert_allclose(case()[0], expected, rtol=1e-4)
    swapped = case(views=VIEWS[::-1])[0]
    assert abs(float(swapped - expected)) > 1e-4


def test_nnclr_looks_up_and_predicts_crosswise(of):
    case = of("nnclr")
    params, stats, memory = case.state
    z1, z2 = case.z(VIEWS)
    predictor = MLP((case.config.predictor_dim, case.config.output_dim))
    variables = {"params": params["predictor"], "batch_stats": stats["predictor"]}
    p1, p2 = (predictor.apply(variables, z, train=True, mutable=["batch_stats"])[0] for z in (z1, z2))
    queue = np.asarray(memory["queue"])
    n1, n2 = (queue[np.argmax(np.asarray(losses.normalize(z)) @ queue.T, axis=1)] for z in (z1, z2))
    expected = (losses.nnclr(n1, p2, 0.2) + losses.nnclr(n2, p1, 0.2)) / 2
    np.testing.assert_allclose(case()[0], expected, rtol=1e-4)


def test_swav_queue_is_newest_first_and_used_from_its_epoch_on(of):
    case = of("swav")
    z = losses.normalize(case.z(VIEWS))
    memory = case.state[2]
    for step in range(4):
        value, (_, memory, _), _ = case(memory=memory, step=step)
    np.testing.assert_allclose(memory["queue"][:, :N], z, rtol=1e-3, atol=1e-4)
    hyper = {**case.hyper, "queue_start_epoch": jnp.float32(2)}
    scores = z @ losses.normalize(case.state[0]["prototypes"]).T

    def expected(rows):
        codes = [assign.sinkhorn_knopp(jnp.concatenate([s] + rows(i)))[:N] for i, s in enumerate(scores)]
        terms = [losses.soft_cross_entropy(scores[1 - i], codes[i], 0.1) for i in (0, 1)]
        return sum(terms) / 2

    noise = losses.normalize(jax.random.normal(jax.random.key(9), memory["queue"].shape))
    queued = noise @ losses.normalize(case.state[0]["prototypes"]).T
    for step, rows in ((3, lambda i: []), (4, lambda i: [queued[i]])):
        value = case(memory={"queue": noise}, hyper=hyper, step=step)[0]
        np.testing.assert_allclose(value, expected(rows), rtol=1e-3)


def test_deepcluster_writes_its_bank_by_image_and_learns_the_clusters_of_it(of):
    case = of("deepclusterv2")
    z = losses.normalize(case.z(VIEWS))
    _, (_, memory, _), _ = case()
    np.testing.assert_allclose(memory["bank"][:, INDEX], z, rtol=1e-3, atol=1e-4)
    others = np.setdiff1d(np.arange(IMAGES), INDEX)
    assert not np.any(memory["bank"][:, others])
    assert float(case()[0]) == 0  # nothing has a cluster yet
    clustered = case.method.on_epoch(None, memory, case.hyper, jax.random.key(1))
    assert changed(memory, clustered) == {"prototypes", "assignment"}
    assignment, centroids = np.asarray(clustered["assignment"]), np.asarray(clustered["prototypes"])
    assert (assignment[:, others] == -1).all()
    for head in range(2):  # head h clusters bank h mod 2
        nearest = np.argmax(np.asarray(z[head % 2]) @ centroids[head].T, axis=1)
        assert np.mean(nearest == assignment[head, INDEX]) > 0.95
    terms = []
    for head in range(2):
        log_p = jax.nn.log_softmax(z @ centroids[head].T / 0.1)
        terms.append(-np.mean([log_p[v, np.arange(N), assignment[head, INDEX]] for v in (0, 1)]))
    np.testing.assert_allclose(case(memory=clustered)[0], np.mean(terms), rtol=1e-3)


def test_dino_uses_the_old_centre_and_sharpens_by_epoch(of):
    case = of("dino")
    memory = case.state[2]
    center = jnp.linspace(-0.5, 0.5, case.config.prototypes)
    hyper = {**case.hyper, "target_temperature": {"base": 0.04, "final": 0.08, "warmup_epochs": 3.0}}
    hyper = jax.tree.map(jnp.float32, {**hyper, "seed": 0.0})
    head = case.state[0]
    logits = dino_logits(case)
    for step, sharp in ((0, 0.04), (3, 0.06), (4, 0.08), (9, 0.08)):  # two steps an epoch
        value, (_, new, _), _ = case(memory={**memory, "center": center}, hyper=hyper, step=step)
        terms = [losses.dino(logits[b], logits[a], center, 0.1, sharp) for a, b in ((0, 1), (1, 0))]
        np.testing.assert_allclose(value, np.mean(terms), rtol=1e-3)
        np.testing.assert_allclose(new["center"], 0.9 * center + 0.1 * logits.mean((0, 1)), rtol=1e-3, atol=1e-5)
    assert set(head) == {"backbone", "projector", "prototypes"}


def dino_logits(case, views=VIEWS, params=None):
    """Cosines [views, N, prototypes] from the parameters, in numpy: three layers with GELU, no batch normalisation."""
    from scipy.special import erf

    own, stats, _ = case.state
    params = params or own
    variables = {"params": params["backbone"], "batch_stats": stats["backbone"]}
    out = []
    for view in views:
        x = np.asarray(case.backbone.apply(variables, view, train=True, mutable=["batch_stats"])[0], np.float64)
        for i in (1, 2, 3):
            layer = params["projector"][f"linear{i}"]["dense"]
            x = x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])
            if i < 3:
                x = x * (1 + erf(x / np.sqrt(2))) / 2
        w = np.asarray(params["prototypes"], np.float64)
        out.append((x / np.linalg.norm(x, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T)
    return jnp.asarray(np.stack(out), jnp.float32)


def test_simsiam_predictor_keeps_the_highest_rate_and_resnets_start_at_zero(of, settings):
    case = of("simsiam")
    rates = tree_paths(case.method.rates(case.state[0], jnp.float32(0.1), jnp.float32(0.5)))
    for path, rate in rates.items():
        assert float(rate) == pytest.approx(0.5 if path.startswith("predictor") else 0.1)
    config = config_lib.resolve(settings(method="simsiam", backbone="resnet18", width=1 / 32))
    method = METHODS["simsiam"].make(config, backbone("resnet18", width=1 / 32), COURSE)
    params, _, _ = jax.eval_shape(method.init, jax.random.key(0), (jnp.zeros((1, 8, 8, 1)),) * 2)
    assert params["backbone"]["layer1_0"]["bn2"]["scale"].shape == (2,)
    real = METHODS["simsiam"].make(config, backbone("resnet18", width=1 / 32), COURSE).init
    scale = jax.jit(lambda: real(jax.random.key(0), (jnp.zeros((1, 8, 8, 1)),) * 2)[0]["backbone"]["layer1_0"]["bn2"])()
    assert not np.any(scale["scale"])


def logits_in_float64(case, views, params, directions=None):
    """Logits [views, N, outputs] of a head of three layers, batch-normalised but for the last, from the parameters.

    With directions they are cosines of the output with these, as in methods of prototypes.
    """
    stats, out = case.state[1], []
    variables = {"params": params["backbone"], "batch_stats": stats["backbone"]}
    for view in views:
        x = np.asarray(case.backbone.apply(variables, view, train=True, mutable=["batch_stats"])[0], np.float64)
        for i in (1, 2, 3):
            dense = params["projector"][f"linear{i}"]["dense"]
            x = x @ np.asarray(dense["kernel"], np.float64) + np.asarray(dense["bias"], np.float64)
            if i < 3:
                affine = params["projector"][f"bn{i}"]
                x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * np.asarray(affine["scale"]) + np.asarray(
                    affine["bias"]
                )
                x = np.maximum(x, 0)
        out.append(x if directions is None else unit(x) @ unit(np.asarray(directions, np.float64)).T)
    return np.stack(out)


def perturbed(tree, seed):
    """The same tree with Gaussian noise on every number."""
    noise = jax.random.split(jax.random.key(seed), len(jax.tree.leaves(tree)))
    keys = jax.tree.unflatten(jax.tree.structure(tree), list(noise))
    return jax.tree.map(lambda p, key: p + 0.3 * jax.random.normal(key, p.shape), tree, keys)


def softmax(logits):
    return np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))


def equation_7(logits, temperature, beta, steps=2000):
    """MIRA's labels by the paper's own iteration from u = 1."""
    p, u = softmax(logits / temperature) ** (1 / (1 - beta)), np.ones(logits.shape[1])
    for _ in range(steps):
        u = (p / (p @ u ** (-beta / (1 - beta)))[:, None]).mean(0) ** (1 - beta)
    w = u ** (-beta / (1 - beta)) * p
    return w / w.sum(1, keepdims=True)


def of_the_paper(hyper):
    """MIRA's traced numbers with those of its paper, section 4.1."""
    beta = jnp.float32(2 / 3)
    return {**hyper, "target_temperature": jnp.float32(0.225), "beta": {"base": beta, "final": beta}}


def swapped_prediction(student, labels, temperature):
    """Equation 8: view 2 predicts the labels of view 1, and the reverse."""
    log_q = student / temperature - logsumexp(student / temperature, axis=-1, keepdims=True)
    return -sum((labels[a] * log_q[b]).sum(1).mean() for a, b in ((0, 1), (1, 0)))


def test_mira_predicts_the_labels_that_its_problem_gives_the_targets_outputs(of):
    case = of("mira")
    memory = case.state[2]
    params = perturbed(case.state[0], 1)
    target = {name: perturbed(part, 2) for name, part in memory["target"]["params"].items()}
    assert set(target) == {"backbone", "projector"}  # both networks take the trained prototypes
    hyper = {**case.hyper, "target_temperature": jnp.float32(0.225)}
    hyper["beta"] = {"base": jnp.float32(0.8), "final": jnp.float32(0.6)}
    hyper["solver"] = {"tolerance": jnp.float32(1e-6), "max_iter": jnp.float32(500)}
    student = logits_in_float64(case, VIEWS, params, params["prototypes"])
    logits = logits_in_float64(case, VIEWS, target, params["prototypes"])
    values = []
    for step, beta in ((0, 0.8), (9, 0.6)):  # the first and the last
        labels = np.stack([equation_7(view, 0.225, beta) for view in logits])
        given = {"target": {**memory["target"], "params": target}}
        value, (_, _, told), _ = case(params=params, memory=given, hyper=hyper, step=step)
        np.testing.assert_allclose(value, swapped_prediction(student, labels, 0.1), rtol=1e-3)
        for name, p in (("student", softmax(student / 0.1)), ("target", softmax(logits / 0.225)), ("labels", labels)):
            row, marginal = entropy(p, axis=2).mean(), entropy(p.mean(1), axis=1).mean()
            np.testing.assert_allclose(told[f"{name}.row_entropy"], row, rtol=1e-3)
            np.testing.assert_allclose(told[f"{name}.marginal_entropy"], marginal, rtol=1e-3)
            np.testing.assert_allclose(told[f"{name}.mutual_information"], marginal - row, rtol=2e-2)
        assert float(told["solver.residual"]) <= 1e-5 and 2 < int(told["solver.steps"]) < 500
        values.append(value)
    assert abs(float(values[0] - values[1])) > 1e-3


def test_mira_takes_as_many_of_the_papers_steps_as_asked_for(of):
    case = of("mira", target_network="self", solver="plain")
    params = perturbed(case.state[0], 1)
    student = logits_in_float64(case, VIEWS, params, params["prototypes"])
    expected = {}
    for steps in (1, 2, 2000):
        labels = np.stack([equation_7(view, 0.225, 2 / 3, steps) for view in student])
        expected[steps] = swapped_prediction(student, labels, 0.1)
    assert min(abs(expected[2] - expected[1]), abs(expected[2] - expected[2000])) > 5e-4 * expected[2]
    for steps in (2, 1):  # one program: their number is traced, and no tolerance ends them early
        solver = {"max_iter": jnp.float32(steps), "tolerance": jnp.float32(10)}
        value, (_, _, told), _ = case(params=params, hyper={**of_the_paper(case.hyper), "solver": solver})
        np.testing.assert_allclose(value, expected[steps], rtol=2e-4)
        assert int(told["solver.steps"]) == steps


def test_mira_without_a_target_labels_its_own_outputs_and_learns_nothing_through_them(of):
    case = of("mira", target_network="self")
    assert case.state[2] == {}
    params = perturbed(case.state[0], 1)
    student = logits_in_float64(case, VIEWS, params, params["prototypes"])
    labels = np.stack([equation_7(view, 0.225, 2 / 3) for view in student])
    value, _, (gradients, _) = case(params=params, hyper=of_the_paper(case.hyper))
    np.testing.assert_allclose(value, swapped_prediction(student, labels, 0.1), rtol=1e-3)
    # With the labels held fixed, along a direction of the prototypes.
    direction = np.random.default_rng(0).normal(size=params["prototypes"].shape)

    def moved(by):
        prototypes = np.asarray(params["prototypes"], np.float64) + by * direction
        return swapped_prediction(logits_in_float64(case, VIEWS, params, prototypes), labels, 0.1)

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    np.testing.assert_allclose(np.sum(gradients["prototypes"] * direction), slope, rtol=1e-2)


def test_mira_takes_images_that_are_all_alike_at_the_models_word(of):
    """No information is in such a batch, so that the nearest labels are the model's probabilities themselves."""
    case = of("mira")
    params = case.state[0]
    last = params["projector"]["linear3"]["dense"]
    offset = {**last, "bias": jnp.linspace(-1, 2, case.config.output_dim)}
    params = {**params, "projector": {**params["projector"], "linear3": {"dense": offset}}}
    target = {**case.state[2]["target"], "params": {name: params[name] for name in ("backbone", "projector")}}
    logits = logits_in_float64(case, ALIKE, params, params["prototypes"])
    value, (_, _, told), _ = case(params=params, memory={"target": target}, views=ALIKE, hyper=of_the_paper(case.hyper))
    np.testing.assert_allclose(value, swapped_prediction(logits, softmax(logits / 0.225), 0.1), rtol=1e-3)
    np.testing.assert_allclose(told["labels.mutual_information"], 0, atol=1e-4)


def twist_in_float64(p, q):
    """Equations 1 to 3, with 1e-5 inside the logarithms."""

    def h(x):
        return -(x * np.log(x + 1e-5)).sum(-1)

    kl = [(a * (np.log(a + 1e-5) - np.log(b + 1e-5))).sum(1).mean() for a, b in ((p, q), (q, p))]
    return (sum(kl) + h(p).mean() + h(q).mean() - h(p.mean(0)) - h(q.mean(0))) / 2


def normalized(logits):
    """Of mean 0 and deviation 1 over views and images."""
    centred = logits - logits.mean((0, 1))
    return centred / np.sqrt((centred**2).mean((0, 1)) + 1e-5)


def test_twist_is_the_mean_over_each_global_view_with_each_later_view(of):
    case = of("twist", local_crops=2, local_size=SIZE)
    views = (*VIEWS, *(jnp.flip(view, axis=1) for view in VIEWS))
    params = perturbed(case.state[0], 1)
    p = softmax(normalized(logits_in_float64(case, views, params)))
    terms = [twist_in_float64(p[a], p[b]) for a, b in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3))]
    value, (_, memory, told), _ = case(params=params, views=views)
    np.testing.assert_allclose(value, np.mean(terms), rtol=1e-3)
    assert memory == {}
    marginal = entropy(p[:2].mean(1), axis=1).mean()
    np.testing.assert_allclose(told["student.marginal_entropy"], marginal, rtol=1e-3)
    np.testing.assert_allclose(of("twist")(views=ALIKE)[0], 0, atol=1e-3)  # collapse: far from the least value, -log K


def test_twist_normalises_the_views_of_a_group_together_and_groups_apart():
    logits = np.random.default_rng(0).normal(2, 3, (3, 8, 5))
    expected = np.concatenate([normalized(logits[:, :4]), normalized(logits[:, 4:])], axis=1)
    np.testing.assert_allclose(twist.normalize_groups(jnp.float32(logits), 4), expected, rtol=1e-4, atol=1e-5)


def test_twist_labels_the_surest_images_from_its_stage_on(of):
    case = of("twist", local_crops=2, local_size=SIZE)
    views = (*VIEWS, *(jnp.flip(view, axis=1) for view in VIEWS))
    params = perturbed(case.state[0], 1)
    logits = normalized(logits_in_float64(case, views, params))
    p = softmax(logits)
    hyper = {**case.hyper, "self_labelling": {"epoch": 2.0, "fraction": {"base": 0.25, "final": 0.75}}}
    hyper = {**jax.tree.map(jnp.float32, {**hyper, "seed": 0}), "seed": hyper["seed"]}
    sure = p[:2].max(2)
    order = np.argsort(-sure.max(0))
    for step, count in ((4, 12), (9, 36)):  # the stage's first and last: a quarter and three quarters of 48
        terms = []
        for i in order[:count]:
            teacher = int(sure[1, i] > sure[0, i])
            label = p[teacher, i].argmax()
            terms += [-np.log(p[view, i, label]) for view in (1 - teacher, 2, 3)]
        np.testing.assert_allclose(
            case(params=params, views=views, hyper=hyper, step=step)[0], np.mean(terms), rtol=1e-3
        )
    before = case(params=params, views=views, hyper=hyper, step=3)[0]
    assert float(before) == pytest.approx(float(case(params=params, views=views, step=3)[0]), rel=1e-6)


def test_twist_trains_its_second_stage_as_if_after_the_first(settings):
    """Warm-up, cosine to the end of the stage, and again with the second's own rate; both scaled by the batch alike."""
    batch = 2 * N
    given = dict(batch_size=batch, lr_scaling="linear", epochs=10, learning_rate=0.5, optimizer="sgd")
    given |= dict(warmup_epochs=2, min_learning_rate=0.0, warmup_learning_rate=0.001, sweep=())
    numbers = {"self_labelling.epoch": 6.0, "self_labelling.learning_rate": 0.05, "self_labelling.warmup_epochs": 1.0}
    config = config_lib.resolve(settings(method="twist", queue_size=None, **given))
    program = step_lib.make_program(config, 3 * batch, 1)  # 3 steps an epoch
    data = step_lib.Data(jnp.zeros((3 * batch, SIZE, SIZE, 1), jnp.uint8), jnp.zeros(1), jnp.ones(1))

    @jax.jit
    def rates(values):
        state, order = program.init(values), program.order(values, 0)
        each = jax.vmap(lambda step: program.step(state, values, data, order, step)[1]["learning_rate"])
        return each(jnp.arange(30))

    scale = batch / 256

    def stage(step, peak, warmup, steps):
        if step < warmup:
            return 0.001 + (peak - 0.001) * step / warmup
        return peak * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup))) / 2

    first = [stage(step, 0.5 * scale, 6, 18) for step in range(18)]
    expected = {True: first + [stage(step, 0.05 * scale, 3, 12) for step in range(12)]}
    expected[False] = [stage(step, 0.5 * scale, 6, 30) for step in range(30)]
    for staged in (True, False):  # without it, one schedule
        values = sweeps.hyper(config, sweeps.Run("x", 5, numbers if staged else {}))
        np.testing.assert_allclose(rates(values), expected[staged], rtol=1e-4)


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"self_labelling.epoch": 8.0, "self_labelling.warmup_epochs": 2.0},
            "--sweep: self_labelling.warmup_epochs: 2 is not below",
        ),
        (
            {"self_labelling.epoch": 2.0},
            "--sweep: self_labelling.epoch: the 2 epochs before it are no more than --warmup_epochs=2",
        ),
    ],
)
def test_twist_refuses_a_stage_that_is_over_before_its_warm_up(settings, values, message):
    config = config_lib.resolve(settings(method="twist", epochs=10, warmup_epochs=2, queue_size=None))
    with pytest.raises(UserError, match=message):
        sweeps.hyper(config, sweeps.Run("x", 5, values))


@pytest.mark.parametrize("name, network", [("mira", "ema"), ("mira", "self"), ("swav", None)])
def test_scores_are_cosines_of_the_labelled_network_in_evaluation_mode(of, name, network):
    case = of(name, **({"target_network": network} if network else {}))
    params, stats, memory = case.state
    params, stats = perturbed(params, 1), perturbed(stats, 3)
    labelled = {"params": params, "stats": stats}
    if network == "ema":
        target = {"params": perturbed(memory["target"]["params"], 2), "stats": perturbed(memory["target"]["stats"], 4)}
        memory, labelled = {"target": target}, target
    found = case.method.scores(params, stats, memory, VIEWS[0])
    z = np.asarray(VIEWS[0], np.float64)
    own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), labelled)
    x = z.mean(3).reshape(N, -1)[:, ::3]

    def linear(x, part):
        return x @ part["kernel"] + part.get("bias", 0.0)

    def norm(x, part, stat):
        return (x - stat["mean"]) / np.sqrt(stat["var"] + 1e-5) * part["scale"] + part["bias"]

    weights, moments = own["params"], own["stats"]
    x = np.maximum(
        norm(linear(x, weights["backbone"]["dense"]), weights["backbone"]["bn"], moments["backbone"]["bn"]), 0
    )
    head, mean = weights["projector"], moments["projector"]
    last = 3 if "linear3" in head else 2
    for i in range(1, last + 1):
        x = linear(x, head[f"linear{i}"]["dense"])
        if i < last:
            x = np.maximum(norm(x, head[f"bn{i}"], mean[f"bn{i}"]), 0)
    prototypes = np.asarray(params["prototypes"], np.float64)
    if name == "mira":
        prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    expected = x / np.linalg.norm(x, axis=1, keepdims=True) @ prototypes.T
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.asarray(found).std() > 0.05


def test_twist_moves_the_less_sure_view_towards_the_label_and_not_the_surer_one():
    logits = np.random.default_rng(0).normal(size=(2, 6, 5))
    gradient = jax.grad(lambda x: twist.labelled(x, jnp.float32(0.5)))(jnp.float32(logits))
    p = softmax(logits)
    sure, expected = p.max(2), np.zeros_like(logits)
    for i in np.argsort(-sure.max(0))[:3]:
        teacher = int(sure[1, i] > sure[0, i])
        expected[1 - teacher, i] = (p[1 - teacher, i] - np.eye(5)[p[teacher, i].argmax()]) / 3
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_what_miras_paper_says_of_imagenet_is_its_preset_there():
    config = config_lib.resolve(config_lib.Config(method="mira", preset="paper", dataset="imagenet2012:5.1.0"))
    assert (config.optimizer, config.learning_rate, config.lr_scaling, config.weight_decay) == (
        "lars",
        0.3,
        "linear",
        1e-6,
    )
    assert (config.batch_size, config.epochs, config.warmup_epochs, config.backbone) == (4096, 400, 10, "resnet50")
    assert (config.prototypes, config.output_dim, config.tau_base, config.tau_final) == (3000, 256, 0.99, 1.0)
    values = tree_paths(sweeps.hyper(config, sweeps.runs(config)[0]))
    numbers = {"temperature": 0.1, "target_temperature": 0.225, "beta.base": 2 / 3, "beta.final": 2 / 3}
    assert {name: pytest.approx(float(values[name])) for name in numbers} == numbers


# --- Multi-crop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["swav", "deepclusterv2", "dino", "mira"])
def test_local_crops_are_predicted_and_are_no_targets(of, method):
    """With the two global views once more in the place of local crops, what these add can be said from two-view losses."""
    plain, crops = of(method), of(method, local_crops=2, local_size=SIZE)
    assert [(v.source, v.size) for v in crops.method.views[2:]] == [("local", SIZE)] * 2
    memory = seen(plain)
    few, (_, kept, _), _ = plain(memory=memory)
    many, (_, kept_with_crops, _), _ = crops(memory=memory)
    if method == "deepclusterv2":
        expected = few  # the mean over four views, two of them twice
    else:
        # Of the six pairs (target, view) four are of unlike views, as in the two-view loss, and two of like ones.
        a, b = (plain(memory=memory, views=(view, view))[0] for view in VIEWS)
        expected = (4 * few + a + b) / 6
    np.testing.assert_allclose(many, expected, rtol=2e-3)
    for name in {"queue", "bank", "center"} & kept.keys():  # local crops leave no trace in memory
        np.testing.assert_allclose(kept_with_crops[name], kept[name], rtol=1e-3, atol=1e-4)


def test_local_crops_are_smaller_than_the_global_ones_and_drawn_from_a_set_of_their_own(tiny):
    config = config_lib.resolve(tiny(method="swav", local_crops=3, image_size=28, transforms="mnist_first"))
    program = pipeline.untrained(pipeline.plan([config])[0]).program
    assert program.total_steps == 44
    tree = sweeps.hyper(config, sweeps.Run("x", 1, {"local_crop.area_high": 0.2, "rotation.degrees": 7.0}))
    assert tree["transforms"]["local"]["local_crop"]["area_high"] == pytest.approx(0.2)
    assert tree["transforms"]["local"]["rotation"]["degrees"] == 7
    assert tree["transforms"]["view2"]["rotation"]["degrees"] == 7
    assert tree["transforms"]["view1"]["random_resized_crop"]["area_high"] == pytest.approx(0.9)


# --- Bad input ---------------------------------------------------------------------------------------------------------

BAD = [
    (dict(method="mocov2plus", queue_size=100), r"--queue_size: 100 .*--batch_size=64"),
    (dict(method="nnclr", queue_size=100), r"--queue_size: 100 .*--batch_size=64"),
    (dict(method="swav", queue_size=32), r"--queue_size: 32 is less than --batch_size=64"),
    (dict(method="swav", prototypes=9), r"--prototypes: 9 are fewer than the 10 classes of digits"),
    (dict(method="deepclusterv2", prototypes=5000), r"--prototypes: 5000 clusters are more than the 1438"),
    (
        dict(method="byol", local_crops=2),
        r"--local_crops: they are for deepclusterv2, dino, mira, swav, twist, given byol",
    ),
    (dict(method="swav", sweep=("prototypes=10,20",)), r"--sweep: 'prototypes' is static"),
    (dict(method="swav", sweep=("sinkhorn.epsilon=0,1",)), r"--sweep: sinkhorn.epsilon: expected a number of at least"),
    (dict(method="dino", set=("center_momentum=2",)), r"--set: center_momentum: expected a number between 0 and 1"),
    (
        dict(method="swav", sweep=("sinkhorn.iterations=2,2.5",)),
        r"sinkhorn.iterations: expected a whole number, given 2.5",
    ),
    (dict(method="dino", local_crops=2, local_size=64), r"--local_size: expected 8 to --image_size=8, given 64"),
    (dict(method="dino", local_crops=2, local_size=4), r"--local_size: expected 8 to --image_size=8, given 4"),
    (dict(method="simclr", queue_size=64), r"--queue_size: 64 has no effect on simclr"),
    (dict(method="swav", target_network="self"), r"--target_network: self has no effect on swav"),
    (dict(method="mira", set=("beta.base=1",)), r"--set: beta.base: expected a number between 0 and 0.99"),
    (dict(method="twist", batch_size=300), r"--batch_size: twist normalises groups of 256 images, given 300"),
    (dict(method="supervised", output_dim=64), r"--output_dim: 64 has no effect on supervised"),
    (dict(method="byol", temperature=0.5), r"--temperature: 0.5 has no effect on byol"),
    (dict(method="simclr", tau_base=0.5), r"--tau.base: 0.5 has no effect on simclr"),
    (dict(second_heads="shared"), r"--second_heads: there is no second loss"),
    (dict(sweep=("temperature=1,2", "temperature=3")), r"--sweep: temperature is given twice"),
    (dict(transforms="cifar"), r"--transforms=cifar: .*1 channels"),
    (dict(second_transforms="cifar"), r"--second_transforms=cifar: .*1 channels"),
    (dict(second_transforms="mnist_second", sweep=("second.queue_size=1,2",)), r"'second.queue_size' is static"),
    (dict(method="vibcreg", output_dim=40), r"--output_dim: vibcreg whitens groups of 32 dimensions, given 40"),
    (dict(method="simclr", dataset="mnist", preset="paper"), r"--preset: 'paper' has no values for simclr on mnist"),
    (dict(method="simclr", second_method="byol"), r"--second_method: there is no second loss"),
    (dict(second_transforms="mnist_second", second_method="bylo"), r"--second_method: unknown method 'bylo'.*'byol'"),
    (dict(second_transforms="mnist_scond"), r"--second_transforms: unknown .*'mnist_second'"),
    (dict(transforms="mnist_first & mnist_scond"), r"--second_transforms: unknown .*'mnist_second'"),
    (
        dict(transforms="mnist_first & mnist_second", second_transforms="mnist_first"),
        r"--transforms: 'mnist_first & mnist_second' holds the second set; given too --second_transforms=mnist_first",
    ),
    (
        dict(second_transforms="mnist_second", second_method="byol", second_heads="shared"),
        r"--second_heads: .* given mocov2plus and byol",
    ),
    (dict(method="simclr", sweep=("warmup_epochs=0,5",)), r"--warmup_epochs: 5 is not below --epochs=2"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_bad_settings_are_refused_in_a_line_that_names_the_flag(tiny, given, message):
    with pytest.raises(UserError, match=message) as error:
        pipeline.plan([tiny(**given)])
    assert "\n" not in str(error.value)


def products(jaxpr):
    """(precision, shapes of the operands) of every matrix product of a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"], [v.aval.shape for v in equation.invars]
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner)


def test_only_the_layers_of_networks_may_be_rounded_by_an_accelerator(case):
    """A GPU rounds the factors of a product to 10 bits unless asked not to, and temperatures of .04 blow that up."""
    params, stats, memory = case.state
    batch = Batch(case.views, jnp.asarray(INDEX), jnp.asarray(LABELS))
    layers = {leaf.shape for path, leaf in tree_paths(params).items() if path.endswith("kernel")}
    traced = jax.make_jaxpr(
        lambda key: case.method.loss(params, stats, memory, batch, case.hyper, jnp.int32(0), key)[0]
    )
    for precision, (_, right) in products(traced(jax.random.key(0)).jaxpr):
        exact = precision is not None and set(precision) == {jax.lax.Precision.HIGHEST}
        assert exact or right in layers, right


def test_tau_goes_from_base_to_final_by_half_a_cosine():
    steps = np.arange(10)
    values = [float(cosine_schedule(jnp.float32(0.9), jnp.float32(1.0), s, 10)) for s in steps]
    np.testing.assert_allclose(values, 1 - 0.1 * (np.cos(np.pi * steps / 9) + 1) / 2, rtol=1e-6)


def test_every_method_has_a_page_with_what_people_need(case):
    page = describe(case.config.method)
    for heading in ("Loss:", "Memory:", "What people get wrong:", "Presets", "Swept names"):
        assert heading in page
    for name in PRESETS:
        assert (f" {name} " in page.replace("\n", " ")) == (name in METHODS[case.config.method].PRESETS)
