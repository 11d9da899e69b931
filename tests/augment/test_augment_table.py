"""Every transform of the table through the same properties, every named set through the same run."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import augment
from ssljax.augment import SETS, TRANSFORMS
from ssljax.errors import UserError

STRENGTHS = np.linspace(0.05, 1.0, 6)


def batch(n: int, side: int, channels: int) -> jax.Array:
    """Noise that touches both ends of the range, flat images of either end among it."""
    images = np.random.default_rng(0).random((n, side, side, channels))
    images[0], images[1], images[2, ::2], images[2, 1::2] = 0, 1, 0, 1
    return jnp.asarray(images, jnp.float32)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform(name):
    factory = TRANSFORMS[name]
    transform = factory()
    assert transform.name == name
    assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(factory).parameters.values())
    assert inspect.getdoc(factory) and "Drawn:" in inspect.getdoc(factory)
    assert transform.defaults["probability"] == inspect.signature(factory).parameters["probability"].default
    assert set(transform.defaults) <= set(transform.ranges)
    for parameter, value in transform.defaults.items():
        assert augment.check_value(name, parameter, value) == value

    channels = 3
    images = batch(24, 18, channels)

    def run(probability, images):
        values = {name: {**transform.defaults, "probability": probability}}
        return augment.apply_view((transform,), jax.random.key(1), images, values, image_size=18)

    never, sometimes, always = np.asarray(jax.jit(jax.vmap(run, (0, None)))(jnp.array([0.0, 0.5, 1.0]), images))
    given = np.asarray(images)
    np.testing.assert_array_equal(never, given)
    changed = (always != given).any((1, 2, 3))
    assert changed[3:].mean() > 0.9
    for result in (sometimes, always):
        assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1
    # With the same key, what a lower probability lets through is what a higher one does.
    for one, low, high in zip(given, sometimes, always):
        same = np.abs(low - high).max() < 1e-6 or np.array_equal(low, one)
        assert same or name in ("color_jitter", "channel_drop")  # their parts are gated each on its own
    touched = (sometimes != given).any((1, 2, 3))
    assert 0 < touched.sum() < changed.sum()


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_deterministic_and_in_range(name):
    chosen = SETS[name]
    assert chosen.name == name and chosen.description.endswith(".")
    values = augment.hyper(chosen)
    channels = 1 if name.startswith("mnist") else 3
    images = batch(6, 12, channels)

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(key):
        # Views that are alike are compiled once.
        views = range(1 if chosen.views[0] == chosen.views[1] else 2)
        return [augment.apply_view(chosen.views[v], key, images, values[f"view{v + 1}"], image_size=16) for v in views]

    first, again, other = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
    for a, b, c in zip(first, again, other):
        assert a.shape == (6, 16, 16, channels)
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all() and a.min() >= 0 and a.max() <= 1
        assert np.array_equal(a, c) == (name == "none")
        assert np.asarray(a)[3:].std() > 0.05
    for view in chosen.views:
        augment.check_hyper(view, values[f"view{chosen.views.index(view) + 1}"])


def test_sets_that_jitter_refuse_one_channel():
    for name, chosen in SETS.items():
        coloured = any(t.channels and 1 not in t.channels for view in chosen.views for t in view)
        assert coloured == (not name.startswith("mnist") and name not in ("none", "cells_biology"))
        if coloured:
            with pytest.raises(UserError, match="got images of 1 channels, expected 3"):
                augment.check(chosen.views[0], 1)


def test_the_papers_constants():
    first = augment.hyper(SETS["mnist_first"])["view1"]
    assert list(first) == ["padding", "color_inversion", "rotation", "random_resized_crop"]
    assert (first["padding"]["low"], first["padding"]["high"]) == (0.1, 0.4)
    assert first["rotation"]["degrees"] == 25
    assert (first["random_resized_crop"]["area_low"], first["random_resized_crop"]["area_high"]) == (0.5, 0.9)
    second = augment.hyper(SETS["mnist_second"])["view1"]
    assert list(second) == [
        "horizontal_flip",
        "vertical_flip",
        "rotation",
        "random_resized_crop",
        "random_erasing",
    ]
    assert second["horizontal_flip"]["probability"] == second["vertical_flip"]["probability"] == 0.5
    assert second["rotation"]["degrees"] == 180
    erasing = second["random_erasing"]
    assert (erasing["probability"], erasing["area_low"], erasing["area_high"]) == (0.5, 0.02, 0.3)
    cell = augment.hyper(SETS["cell_crop"])["view1"]
    jitter = {"probability": 1.0, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.125}
    assert cell["color_jitter"] == jitter
    assert cell["affine"] == {"probability": 1.0, "degrees": 20, "translate": 0.1, "shear": 10}
    assert cell["rotation"]["degrees"] == 360
    assert augment.hyper(SETS["cell_center"])["view1"]["center_crop"]["area"] == 0.5
    assert "hue_probability" in augment.hyper(SETS["cifar"])["view1"]["color_jitter"]
    asym = augment.hyper(SETS["solo_asym"])
    assert (asym["view1"]["solarize"]["probability"], asym["view2"]["solarize"]["probability"]) == (0.0, 0.2)
    assert list(augment.hyper(SETS["solo_ressl"])["view2"]) == ["random_resized_crop", "horizontal_flip"]
