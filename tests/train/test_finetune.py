"""Fine-tuning against the same steps in numpy, and its runs against single runs."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import ssljax
from ssljax import encoders, measuring, pipeline, planning, representation
from ssljax.errors import UserError
from ssljax.evaluate import features as extraction
from ssljax.models import BACKBONES
from ssljax.models.weights import Encoder
from ssljax.train import finetune, memory
from ssljax.train.step import FINETUNE_INIT, FINETUNE_ORDER, derive


class LinearMap(nn.Module):
    """A backbone whose features are a linear map of the pixels."""

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(5, use_bias=False, name="dense")(images.reshape(len(images), -1))


@pytest.fixture(scope="module")
def linear_map():
    BACKBONES["linear_map"] = lambda **_: LinearMap()
    yield "linear_map"
    del BACKBONES["linear_map"]


def untrained(backbone, **overrides):
    """A config of untrained encoders on the digits, its data and its runs."""
    values = dict(
        pretrained="random", backbone=backbone, image_size=8, seeds=(5, 6), finetune_epochs=2, finetune_batch_size=300
    )
    program = planning.plan([ssljax.Config(**{**values, **overrides})])[0]
    return program.config, program.dataset, pipeline.untrained(program)


def fitted(config, dataset, trained, protocol=None):
    labels = dataset.splits["train"].labels
    return finetune.fit(config, trained, labels, n_classes=10, protocol=protocol, progress=False)


def batches(seed, epochs, size, count=1438):
    """The images of each step, by the rule: a permutation an epoch, what is left over of it is dropped."""
    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(derive(jnp.uint32(seed), epoch, FINETUNE_ORDER), count))
        yield from (order[i * size : (i + 1) * size] for i in range(count // size))


def one_run(tree, i):
    return jax.tree.map(lambda leaf: np.asarray(leaf[i], np.float64), tree)


def whole_rates(step):
    """Both rates: .02 x batch/256, half a cosine over 8 steps, 2 epochs of 4."""
    return [0.02 * 300 / 256 * (1 + np.cos(np.pi * step / 8)) / 2] * 2


def semi_rates(step):
    """Backbone and head at 1 % and 5 epochs of 4 steps: not scaled by the batch, x .2 from steps 12 and 16 on."""
    return [rate * 0.2 ** ((step >= 12) + (step >= 16)) for rate in (0.02, 0.3)]


@pytest.mark.parametrize(("rates", "steps"), [(whole_rates, 8), (semi_rates, 20)])
def test_steps_of_a_linear_network_are_those_of_momentum_sgd(linear_map, rates, steps):
    config, dataset, trained = untrained(
        linear_map,
        finetune_transforms="color_inversion(probability=1.0)",
        finetune_learning_rate=0.02,
        semi_epochs=5,
        semi_head_learning_rate=0.3,
    )
    tuned = fitted(config, dataset, trained, finetune.semi(config, 1) if rates is semi_rates else None)
    train = dataset.splits["train"]
    x = (1 - train.images.reshape(-1, 64) / 255.0 - dataset.mean[0]) / dataset.std[0]
    test = (dataset.splits["test"].images.reshape(-1, 64) / 255.0 - dataset.mean[0]) / dataset.std[0]
    scores = extraction.extract(tuned, dataset.splits["test"].images, image_size=8)
    for i, seed in enumerate((5, 6)):
        keys = jax.random.split(derive(jnp.uint32(seed), 0, FINETUNE_INIT))
        weights = [
            one_run(trained.state.params["backbone"]["dense"]["kernel"], i),
            np.asarray(jax.random.uniform(keys[0], (5, 10), minval=-(5**-0.5), maxval=5**-0.5), np.float64),
            np.asarray(jax.random.uniform(keys[1], (10,), minval=-(5**-0.5), maxval=5**-0.5), np.float64),
        ]
        moments = [np.zeros_like(w) for w in weights]
        for step, index in enumerate(batches(seed, steps // 4, 300)):
            w, v, b = weights
            logits = x[index] @ w @ v + b
            p = np.exp(logits - logits.max(1, keepdims=True))
            error = (p / p.sum(1, keepdims=True) - np.eye(10)[train.labels[index]]) / 300
            gradients = [x[index].T @ error @ v.T, (x[index] @ w).T @ error, error.sum(0)]
            moments = [0.9 * m + g for m, g in zip(moments, gradients)]
            backbone, head = rates(step)
            weights = [one - rate * m for one, m, rate in zip(weights, moments, (backbone, head, head))]
        assert step == steps - 1
        head = one_run(tuned.state.params["head"], i)
        np.testing.assert_allclose(one_run(tuned.state.params["backbone"]["dense"]["kernel"], i), weights[0], atol=2e-5)
        np.testing.assert_allclose(head["kernel"], weights[1], atol=2e-5)
        np.testing.assert_allclose(head["bias"], weights[2], atol=2e-5)
        np.testing.assert_allclose(scores[i], test @ weights[0] @ weights[1] + weights[2], atol=1e-3)


def test_semi_supervised_rates_are_swavs_unless_given(linear_map):
    config, _, _ = untrained(linear_map)
    few, more = finetune.semi(config, 1), finetune.semi(config, 10)
    assert (few.epochs, few.backbone, few.head) == (20, 0.02, 5)
    assert (more.epochs, more.backbone, more.head) == (20, 0.01, 0.2)
    # 12 and 16 of 20 epochs, here of 7 steps
    fall = [float(few.fall(140)(step)) for step in (0, 83, 84, 111, 112, 139)]
    np.testing.assert_allclose(fall, [1, 1, 0.2, 0.2, 0.04, 0.04], rtol=1e-6)


def test_runs_that_do_not_fit_together_give_the_same_and_are_left_as_they_were(linear_map, monkeypatch, caplog):
    config, dataset, trained = untrained(linear_map)
    images = dataset.splits["test"].images
    before = extraction.extract(trained, images, image_size=8)
    both = fitted(config, dataset, trained).state
    # What a run keeps for its gradient is about the pixels of its batch, 77 kB, and a little beside: one fits, two do not.
    monkeypatch.setattr(memory, "available", lambda: trained.data.images.nbytes + 2 * 300 * 64 * 4 + 30_000)
    with caplog.at_level("INFO", logger="ssljax"):
        parts = fitted(config, dataset, trained).state
    assert "2 runs do not fit" in caplog.text
    for one, other in zip(jax.tree.leaves(both), jax.tree.leaves(parts)):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.abs(both.params["head"]["kernel"][0] - both.params["head"]["kernel"][1]).max() > 1e-2
    np.testing.assert_array_equal(extraction.extract(trained, images, image_size=8), before)
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(UserError, match="--finetune_batch_size: not even one run fits"):
        fitted(config, dataset, trained)


@pytest.mark.parametrize("second", [{}, {"second_transforms": "color_inversion", "second_method": "byol"}])
def test_without_a_learning_rate_only_batch_statistics_move(tiny, one_layer, second):
    config = tiny(
        backbone=one_layer, method="simclr", finetune_learning_rate=0.0, finetune_epochs=2, finetune_batch_size=600, **second
    )  # fmt: skip
    program = planning.plan([config])[0]
    trained, dataset = pipeline.untrained(program), program.dataset
    tuned = fitted(program.config, dataset, trained)
    jax.tree.map(np.testing.assert_array_equal, tuned.state.params["backbone"], trained.state.params["backbone"])
    dense = one_run(trained.state.params["backbone"]["dense"], 0)
    flat = dataset.splits["train"].images.reshape(-1, 64)[:, ::3] / 255.0
    features = (flat - dataset.mean[0]) / dataset.std[0] @ dense["kernel"] + dense["bias"]
    mean, variance = np.zeros(10), np.ones(10)
    for index in batches(program.runs[0].seed, 2, 600):
        mean = 0.9 * mean + 0.1 * features[index].mean(0)
        variance = 0.9 * variance + 0.1 * features[index].var(0)
    found = one_run(tuned.state.stats["backbone"]["bn"], 0)
    np.testing.assert_allclose(found["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(found["var"], variance, rtol=1e-4)


def test_weights_of_a_file_become_each_runs_own(one_layer):
    config, dataset, start = untrained(one_layer, finetune_batch_size=700, finetune_epochs=1)
    params, stats = jax.tree.map(lambda leaf: leaf[0], (start.state.params["backbone"], start.state.stats["backbone"]))
    mean, std = (0.1, 0.2, 0.6), (0.5, 0.25, 1.0)
    file = Encoder(one_layer, 1.0, "cifar", 1, channels=3, params=params, stats=stats, mean=mean, std=std)
    trained = encoders.from_file(file, config, start.runs, dataset)
    images = dataset.splits["test"].images
    # Grey images as three equal channels, each normalised by its own values; the backbone sees their mean.
    seen = np.mean([(images / 255.0 - m) / s for m, s in zip(mean, std)], axis=0).reshape(-1, 64)[:, ::3]
    dense = jax.tree.map(np.float64, params["dense"])
    expected = np.maximum((seen @ dense["kernel"] + dense["bias"]) / np.sqrt(1 + 1e-5), 0)
    np.testing.assert_allclose(extraction.extract(trained, images, image_size=8)[1], expected, atol=1e-4)
    # Two steps away from it, each run in its own direction.
    kernels = fitted(config, dataset, trained).state.params["backbone"]["dense"]["kernel"]
    moves = np.asarray(kernels) - np.asarray(params["dense"]["kernel"])
    assert np.abs(moves).max() < 0.1 * np.abs(params["dense"]["kernel"]).max()
    assert 1e-4 < np.abs(moves[0]).max() < 10 * np.abs(moves[0] - moves[1]).max()
    jax.tree.map(np.testing.assert_array_equal, trained.data.shared["params"], params)


def test_it_learns_what_a_probe_cannot_and_its_rows_are_in_the_tables(one_layer, tmp_path):
    config = ssljax.Config(
        pretrained="random", backbone=one_layer, image_size=8, seeds=(5, 6), evaluations=("linear", "finetune"),
        probe_epochs=10, finetune_epochs=10, finetune_batch_size=64, finetune_learning_rate=0.8, validation_fraction=0.2,
    )  # fmt: skip
    study = ssljax.run(config, tmp_path, stages=("evaluate",), progress=False)
    dataset = planning.plan([config])[0].dataset

    def values(evaluation, seed, metric, rows=study.results):
        key = ("random", evaluation, seed, metric)
        return [r["value"] for r in rows if (r["method"], r["evaluation"], r["seed"], r["metric"]) == key]

    for at, split in {"": "test", "@validation": "validation"}.items():
        share = np.bincount(dataset.splits[split].labels) / len(dataset.splits[split].labels)
        for seed in (5, 6):
            (tuned,), (probed,) = values(f"finetune{at}", seed, "top1"), values(f"linear{at}", seed, "top1")
            assert tuned > 0.85 > probed + 0.05
            by_class = values(f"finetune{at}", seed, "accuracy", study.per_class)
            assert share @ by_class == pytest.approx(tuned)
    assert {r["evaluation"] for r in study.results if r["method"] == "pixels"} == {"linear", "linear@validation"}


def test_a_run_that_diverges_has_no_rows(linear_map, caplog):
    config, dataset, trained = untrained(linear_map, finetune_learning_rate=1e30, evaluations=("finetune",))
    nothing = np.zeros((2, 1, 1), np.float32)
    shown = representation.Representation(nothing, nothing, ("p/seed=5", "p/seed=6"), (5, 6), ({}, {}), {}, trained)
    measured, _ = measuring._EVALUATE["finetune"](config, dataset, shown)
    assert measured == [((), ()), ((), ())]
    assert "p/seed=5: diverged in fine-tuning" in caplog.text


def test_transforms_of_other_channels_are_refused_before_anything_is_trained(one_layer):
    with pytest.raises(UserError, match=r"--finetune_transforms=color_jitter\(hue=0.5\): .*channel"):
        untrained(one_layer, evaluations=("finetune",), finetune_transforms="color_jitter(hue=0.5)")
    with pytest.raises(UserError, match="--finetune_transforms"):
        untrained(one_layer, finetune_transforms="flop")


@pytest.mark.parametrize(
    ("preset", "dataset", "transforms"),
    [("digits", "digits", 0), ("paper", "mnist", 0), ("paper", "cifar100", 2), ("solo", "cifar10", 2)],
)
def test_presets_crop_and_flip_where_the_class_survives_it(preset, dataset, transforms):
    from ssljax import augment
    from ssljax.config import resolve

    config = resolve(ssljax.Config(preset=preset, dataset=dataset, method="mocov2plus"))
    assert len(augment.parse(config.finetune_transforms).views[0]) == transforms


SCRIPT = """
import jax, numpy as np
import ssljax
from ssljax import pipeline, planning
from ssljax.train import finetune
config = ssljax.Config(pretrained="random", backbone="vgg11_bn", width=1 / 32, image_size=8, seeds=(1, 2),
                       finetune_epochs=1, finetune_batch_size=700, run_axis="vmap")
program = planning.plan([config])[0]
labels = program.dataset.splits["train"].labels
tuned = finetune.fit(program.config, pipeline.untrained(program), labels, n_classes=10, progress=False)
spread = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(tuned.state.params)}
print(jax.device_count(), spread, *np.asarray(tuned.state.params["head"]["kernel"]).ravel()[::50])
"""


@pytest.mark.slow
def test_runs_spread_over_devices_give_the_same_weights():
    results = []
    for count in (1, 2):
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **flags}, check=True)
        devices, spread, *values = done.stdout.split()
        assert (int(devices), spread) == (count, f"{{{count}}}")
        results.append([float(value) for value in values])
    np.testing.assert_allclose(*results, atol=1e-4)
