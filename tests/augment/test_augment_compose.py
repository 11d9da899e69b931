"""Compositions: one resampling is the sequence it stands for; probabilities differ between runs; errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ssljax import augment
from ssljax.augment import TRANSFORMS, compose, transform_set
from ssljax.errors import UserError


def smooth(side: int) -> jax.Array:
    y, x = (np.indices((side, side)) + 0.5) / side
    planes = [0.5 + 0.4 * np.sin(3 * x + 2 * y), 0.5 + 0.4 * np.cos(4 * y - x), 0.3 + 0.6 * x * y]
    return jnp.asarray(np.stack(planes, -1), jnp.float32)


def view_of(text: str) -> compose.View:
    return augment.parse(text).views[0]


def defaults(view):
    return {name: dict(t.defaults) for name, t in zip(augment.names(view), view)}


@pytest.mark.parametrize(
    "text",
    [
        "padding+color_inversion(probability=.5)+rotation(degrees=40)+random_resized_crop(area_low=.5)",
        "horizontal_flip+rotation(degrees=180)+affine+brightness+random_resized_crop(area_low=.3)+vertical_flip",
        "random_resized_crop+rotation+center_crop+solarize(probability=0)+rotation",
        "padding+horizontal_flip+random_resized_crop",
    ],
)
def test_one_resampling_is_the_sequence(text):
    view, side, image = view_of(text), 96, smooth(96)
    names = augment.names(view)

    def both(key):
        drawn = augment.sample_view(view, key, defaults(view))
        sequence = image
        for name, transform in zip(names, view):
            sequence = transform.apply(sequence, drawn[name])
        return augment.apply_drawn(view, image, drawn, (side, side)), sequence

    composed, sequence = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), 12))
    difference = np.abs(np.asarray(composed) - np.asarray(sequence))
    # The sequence blurs at each step, which a smooth image does not feel but the edges of canvases do.
    assert np.median(difference) < 1e-3
    assert difference.mean() < 0.01
    assert np.quantile(difference, 0.95) < 0.05
    assert np.asarray(sequence).std() > 0.1


def test_inverted_padding_is_white_and_rotated_corners_are_black():
    view = augment.SETS["mnist_first"].views[0]
    side, angle, share = 48, 30.0, 0.25
    drawn = jax.tree.map(jnp.asarray, augment.sample_view(view, jax.random.key(0), defaults(view)))
    on, off = jnp.array(True), jnp.array(False)
    drawn["padding"] = {"applied": on, "share": jnp.float32(share)}
    drawn["rotation"] = {"applied": on, "angle": jnp.float32(angle)}
    drawn["random_resized_crop"]["applied"] = off
    grey = jnp.full((side, side, 1), 0.75)
    got = {}
    for inverted in (False, True):
        drawn["color_inversion"] = {"applied": jnp.array(inverted)}
        run = jax.jit(lambda d: augment.apply_drawn(view, grey, d, (side, side)))
        got[inverted] = np.asarray(run(drawn))[..., 0]
    # The plane, independently: turn back, and ask which of the two squares a pixel lies in.
    y, x = (np.indices((side, side)) + 0.5) / side - 0.5
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    radius = np.maximum(np.abs(cos * x - sin * y), np.abs(sin * x + cos * y))
    inner = 0.5 / (1 + 2 * share)
    image, border, corner = (
        radius < inner - 0.04,
        (radius > inner + 0.04) & (radius < 0.46),
        radius > 0.54,
    )
    assert min(image.sum(), border.sum(), corner.sum()) > 30
    for inverted, values in ((False, (0.75, 0, 0)), (True, (0.25, 1, 0))):
        for region, value in zip((image, border, corner), values):
            np.testing.assert_allclose(got[inverted][region], value, atol=1e-6)


def test_rotation_after_crop_sees_only_the_crop():
    view = view_of("center_crop(area=.25)+rotation(degrees=45)")
    drawn = {
        "center_crop": {"applied": jnp.array(True), "side": jnp.float32(0.5)},
        "rotation": {"applied": jnp.array(True), "angle": jnp.float32(45.0)},
    }
    got = jax.jit(lambda d: augment.apply_drawn(view, jnp.ones((40, 40, 1)), d, (40, 40)))(drawn)
    assert float(got[0, 0, 0]) == 0 and float(got[20, 20, 0]) == 1
    # Black corners: the area outside a turned square of the same side.
    assert abs(float(got.mean()) - 2 * (np.sqrt(2) - 1)) < 0.005


def test_order_of_whole_image_operations_is_kept():
    # Erasing before the turn leaves a turned hole; after it, an upright one.
    image = jnp.ones((32, 32, 1))
    box = {"applied": jnp.array(True), "area": jnp.full(10, 0.25), "ratio": jnp.ones(10), "x": 0.5, "y": 0.5}
    turn = {"applied": jnp.array(True), "angle": jnp.float32(45.0)}
    drawn = {"random_erasing": jax.tree.map(jnp.asarray, box), "rotation": turn}
    hole = np.ones((32, 32))
    hole[8:24, 8:24] = 0
    views = [view_of("random_erasing+rotation"), view_of("rotation+random_erasing")]
    run = jax.jit(lambda d: [augment.apply_drawn(view, image, d, (32, 32))[..., 0] for view in views])
    first, last = run(drawn)
    turned = ndimage.rotate(hole, 45, reshape=False, order=1, mode="grid-constant")
    np.testing.assert_allclose(first, turned, atol=1e-4)
    expected = ndimage.rotate(np.ones((32, 32)), 45, reshape=False, order=1, mode="grid-constant") * hole
    np.testing.assert_allclose(last, expected, atol=1e-4)


def test_flips_never_force_a_resampling():
    image = jnp.asarray(np.random.default_rng(0).random((9, 9, 1)), jnp.float32)
    view = view_of("horizontal_flip(probability=1)+color_inversion(probability=1)+vertical_flip(probability=1)")
    got = augment.apply_view(view, jax.random.key(0), image[None], defaults(view), image_size=9)
    np.testing.assert_array_equal(got[0], 1 - image[::-1, ::-1])


def test_a_traced_probability_differs_from_run_to_run():
    view = view_of("rotation(degrees=180)+color_inversion+horizontal_flip")
    images = jnp.asarray(np.random.default_rng(1).random((200, 8, 8, 1)), jnp.float32)
    probabilities = jnp.array([0.0, 0.3, 1.0])
    values = {name: {k: jnp.full(3, v) for k, v in each.items()} for name, each in defaults(view).items()}
    for name in values:
        values[name]["probability"] = probabilities

    def one(values):
        return augment.apply_view(view, jax.random.key(2), images, values, image_size=8)

    got = np.asarray(jax.jit(jax.vmap(one))(values))
    np.testing.assert_array_equal(got[0], images)
    untouched = (got == np.asarray(images)).all((2, 3, 4)).mean(1)
    assert untouched[2] == 0
    assert abs(untouched[1] - 0.7**3) < 0.1
    # A run within a sweep is the run alone.
    alone = jax.jit(one)(jax.tree.map(lambda v: v[1], values))
    np.testing.assert_allclose(got[1], alone, atol=1e-6)


def test_images_may_have_a_run_axis_too():
    view = view_of("random_resized_crop+horizontal_flip")
    images = jnp.asarray(np.random.default_rng(2).random((2, 3, 8, 8, 1)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    apply = jax.jit(lambda k, i: augment.apply_view(view, k, i, defaults(view), image_size=12))
    got = jax.jit(jax.vmap(apply))(keys, images)
    for run in range(2):
        np.testing.assert_allclose(got[run], apply(keys[run], images[run]), atol=1e-6)
    assert np.abs(np.asarray(got[0][0] - got[0][1])).mean() > 0.05


def test_a_returning_transform_gets_a_suffix_and_draws_of_its_own():
    chosen = transform_set("twice", [TRANSFORMS["rotation"](degrees=5.0), TRANSFORMS["rotation"](degrees=9.0)])
    values = augment.hyper(chosen)
    assert values["view1"] == values["view2"]
    assert values["view1"]["rotation"] == {"probability": 1.0, "degrees": 5.0}
    assert values["view1"]["rotation_2"] == {"probability": 1.0, "degrees": 9.0}
    drawn = augment.sample_view(chosen.views[0], jax.random.key(0), values["view1"])
    assert not np.isclose(drawn["rotation"]["angle"] / 5, drawn["rotation_2"]["angle"] / 9)
    assert augment.check_value("rotation_2", "degrees", 4) == 4.0


def test_colour_on_one_or_two_channels_is_an_error():
    view = view_of("rotation+grayscale")
    for channels in (1, 2, 4):
        with pytest.raises(UserError, match=f"transform 'grayscale' got images of {channels} channels, expected 3"):
            augment.check(view, channels)
        images = jnp.zeros((2, 8, 8, channels))
        with pytest.raises(UserError, match="grayscale"):
            jax.eval_shape(
                lambda i: augment.apply_view(view, jax.random.key(0), i, defaults(view), image_size=8), images
            )
    augment.check(view, 3)


def test_what_cannot_be_transformed_is_an_error():
    view, key = view_of("rotation"), jax.random.key(0)
    for images in (jnp.zeros((8, 8, 1)), jnp.zeros((2, 8, 8, 1), jnp.uint8)):
        with pytest.raises(UserError, match="expected floats"):
            augment.apply_view(view, key, images, defaults(view), image_size=8)
    for values in ({}, {"rotation": {"probability": 1.0}}, {"rotatoin": {}}):
        with pytest.raises(UserError, match="expected"):
            augment.apply_view(view, key, jnp.zeros((2, 8, 8, 1)), values, image_size=8)
    for views in ((), ((), (), ())):
        with pytest.raises(UserError, match="expected one"):
            transform_set("bad", *views)


def test_hyper_parameters_are_checked_together():
    view = view_of("random_resized_crop")
    values = defaults(view)
    augment.check_hyper(view, values)
    values["random_resized_crop"] |= {"area_low": 0.8, "area_high": 0.3}
    with pytest.raises(UserError, match="area_low is 0.8, expected at most area_high=0.3"):
        augment.check_hyper(view, values, "--sweep")


def test_a_weak_view_is_the_geometry_and_a_local_one_cuts_small_by_a_name_of_its_own():
    view = view_of(
        "padding()+color_inversion(probability=1)+rotation(degrees=25)+random_resized_crop()+horizontal_flip()"
    )
    assert compose.names(compose.weak_view(view)) == ["padding", "rotation", "random_resized_crop", "horizontal_flip"]
    local = compose.local_view(view)
    assert compose.names(local) == ["padding", "color_inversion", "rotation", "local_crop", "horizontal_flip"]
    assert compose.names(compose.local_view(view_of("hue()"))) == ["local_crop", "hue"]
    # An image whose left half is black and right half white: a crop of 5 to 14 % of it is mostly one or the other.
    image = jnp.zeros((1, 64, 64, 1)).at[:, :, 32:].set(1.0)
    images = jnp.broadcast_to(image, (200, 64, 64, 1))
    small = compose.local_view(view_of("random_resized_crop(area_low=.5,area_high=1)"))
    drawn = compose.apply_view(small, jax.random.key(0), images, defaults(small), image_size=16)
    plain = np.mean((drawn.mean((1, 2, 3)) < 0.02) | (drawn.mean((1, 2, 3)) > 0.98))
    # A crop of side s in an image of side 1 misses the edge with probability (1 - 2s) / (1 - s) on either side.
    side = np.sqrt(np.random.default_rng(0).uniform(0.05, 0.14, 100_000))
    expected = np.mean(2 * (0.5 - side) / (1 - side))
    assert abs(plain - expected) < 0.1
