"""Training on labels: the right image's label reaches the loss, alone or beside another loss; without labels it is refused."""

import jax
import numpy as np
import pytest

import ssljax
from ssljax import pipeline
from ssljax.errors import UserError
from ssljax.train import loop
from ssljax.train.step import over_runs

SET = dict(
    transforms="rotation(degrees=5)", evaluations=("kmeans",), epochs=8, learning_rate=0.03
)  # four steps an epoch


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """The name of a set of images of one bright quarter each, labelled with which ("right"), anyhow ("wrong") or not ("none")."""
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 4, 320)
    images = rng.integers(0, 60, (320, 8, 8), np.uint8)
    for image, c in zip(images, corner):
        image[4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] += 150
    folder = tmp_path_factory.mktemp("bars")
    for name, labels in {"right": corner, "wrong": rng.permutation(corner), "none": None}.items():
        arrays = {} if labels is None else {"y_train": labels[:256], "y_test": labels[256:]}
        np.savez(folder / f"{name}.npz", x_train=images[:256], x_test=images[256:], **arrays)
    return lambda name: f"npz:{folder / name}.npz"


def trained(config):
    """(metrics of the steps {name: [steps, runs]}, the state) of a config's runs."""
    program = pipeline.plan([config])[0]
    runs = pipeline.untrained(program)
    step, state, told = loop.sweep_step(program.config, runs.program, 4), runs.state, []
    order = jax.jit(over_runs(runs.program.order, (0, None)))
    for first in range(0, 4 * config.epochs, 4):
        state, metrics = step(state, runs.hyper, runs.data, order(runs.hyper, first // 4), first)
        told.append(jax.tree.map(np.asarray, metrics))
    return {name: np.concatenate([each[name] for each in told]) for name in told[0]}, state


def test_it_learns_what_the_labels_say_and_cannot_what_they_do_not(tiny, one_layer, bars, tmp_path):
    settings = dict(method="supervised", backbone=one_layer, cache_dir=str(tmp_path), clusters=4, **SET)
    told, state = trained(tiny(dataset=bars("right"), seeds=(5, 6), **settings))
    assert (told["accuracy"][-4:].mean(axis=0) > 0.97).all()
    assert (told["loss"][-4:].mean(axis=0) < 0.3).all()
    kernels = np.asarray(state.params["projector"]["linear1"]["dense"]["kernel"])
    assert kernels.shape == (2, 10, 4)
    told, _ = trained(tiny(dataset=bars("wrong"), seeds=(5,), **settings))
    assert told["accuracy"][-4:].mean() < 0.5


def test_it_may_be_the_second_of_two_losses(tiny, one_layer, bars, tmp_path):
    sides = dict(method="simclr", second_method="supervised", second_transforms="rotation(degrees=1)")
    settings = dict(dataset=bars("right"), backbone=one_layer, cache_dir=str(tmp_path), clusters=4, seeds=(5,))
    told, _ = trained(tiny(**sides, **settings, sweep=("loss_weights.second=0,1",), **SET))
    unweighted, weighted = told["second.accuracy"][-4:].mean(axis=0)
    assert weighted > 0.97 > unweighted + 0.1
    np.testing.assert_allclose(told["loss"][:, 1], (told["loss.first"] + told["loss.second"])[:, 1], rtol=1e-5)


def test_a_growing_second_set_is_a_program_a_set(tiny, one_layer):
    grown = ("rotation(degrees=5)", "rotation(degrees=5)+horizontal_flip")
    programs = pipeline.plan(
        [tiny(method="supervised", backbone=one_layer, second_transforms=s) for s in ("none", *grown)]
    )
    assert [p.config.second and p.config.second.transforms for p in programs] == [None, *grown]


def test_labels_are_on_the_device_only_for_a_method_that_learns_from_them(tiny, one_layer):
    data = {
        method: pipeline.untrained(pipeline.plan([tiny(method=method, backbone=one_layer)])[0]).data
        for method in ("supervised", "simclr")
    }
    np.testing.assert_array_equal(data["supervised"].labels, ssljax.data.load("digits").splits["train"].labels)
    assert isinstance(data["simclr"].labels, tuple)


@pytest.mark.parametrize(
    "sides",
    [dict(method="supervised"), dict(method="simclr", second_method="supervised", second_transforms="rotation")],
)
def test_a_set_without_labels_is_refused_in_a_line_before_training(tiny, one_layer, bars, tmp_path, sides):
    config = tiny(dataset=bars("none"), backbone=one_layer, cache_dir=str(tmp_path), clusters=4, **{**SET, **sides})
    with pytest.raises(UserError, match=r"--dataset: supervised learns from labels and .*none\.npz have none") as error:
        pipeline.run(config, tmp_path / "work")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "work").exists()
