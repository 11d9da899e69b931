"""Geometry against scikit-image, scipy and Pillow, and what is drawn against its distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats
from skimage import transform as skimage_transform

from ssljax.augment import TRANSFORMS, resample
from ssljax.augment.geometry import crop_box
from ssljax.augment.warp import warp

SHAPES = [(13, 13), (12, 17)]


def noise(shape, channels=2, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).random((*shape, channels))


def run(transform, image, **drawn) -> np.ndarray:
    """`apply` over a batch of drawn parameters, all of which happen."""
    drawn = {name: jnp.asarray(value, jnp.float32) for name, value in drawn.items()}
    drawn["applied"] = jnp.ones(len(next(iter(drawn.values()))), bool)
    given = jnp.asarray(image, jnp.float32)
    return np.asarray(jax.jit(jax.vmap(lambda d: transform.apply(given, d)))(drawn))


def draws(transform, n=4000, seed=7, **values):
    values = {**transform.defaults, **values}
    keys = jax.random.split(jax.random.key(seed), n)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda k: transform.sample(k, values)))(keys))


def pillow_crop(image, top, left, height, width, size) -> np.ndarray:
    box = (left, top, left + width, top + height)
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(p.resize(size[::-1], Image.Resampling.BILINEAR, box=box)) for p in planes], -1)


@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_matches_scikit_image(shape):
    image = noise(shape)
    angles = np.array([-360, -180, -97, -45, -10.5, 0, 3, 25, 90, 133, 270])
    for angle, got in zip(angles, run(TRANSFORMS["rotation"](), image, angle=angles)):
        expected = skimage_transform.rotate(image, angle, order=1, mode="constant", cval=0)
        np.testing.assert_allclose(got, expected, atol=1e-5, err_msg=str(angle))


def test_rotation_turns_as_pillow_does():
    image = noise((8, 8), 1)
    for angle, got in zip((90, 180, 270), run(TRANSFORMS["rotation"](), image, angle=[90, 180, 270])):
        pillow = Image.fromarray(image[..., 0].astype(np.float32)).rotate(angle)
        np.testing.assert_allclose(got[..., 0], np.asarray(pillow), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_matches_scipy(shape):
    image = noise(shape)
    rng = np.random.default_rng(1)
    angle, shear = rng.uniform(-180, 180, 8), rng.uniform(-40, 40, 8)
    x, y = rng.uniform(-0.4, 0.4, (2, 8))
    got = run(TRANSFORMS["affine"](), image, angle=angle, shear=shear, x=x, y=y)
    height, width = shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    for i, result in enumerate(got):
        a, s = np.deg2rad(angle[i]), np.deg2rad(shear[i])
        turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])  # clockwise, y down
        forward = turn @ np.array([[1, -np.tan(s)], [0, 1]])
        backward = np.linalg.inv(forward)
        offset = centre - backward @ (centre + [x[i] * width, y[i] * height])
        for channel in range(2):
            expected = ndimage.affine_transform(
                image[..., channel], backward[::-1, ::-1], offset[::-1], order=1, mode="grid-constant"
            )
            np.testing.assert_allclose(result[..., channel], expected, atol=2e-5)


@pytest.mark.parametrize(("shape", "size"), [((16, 16), (16, 16)), ((20, 15), (8, 8)), ((9, 12), (24, 24))])
def test_crop_matches_pillow(shape, size):
    image = noise(shape, seed=2)
    transform = TRANSFORMS["random_resized_crop"]()
    drawn = draws(transform, 40, area_low=0.05)

    def one(d):
        box = crop_box(d, jnp.array(shape, jnp.float32))
        return box, warp(jnp.asarray(image, jnp.float32), [(transform, d)], size)

    boxes, results = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(drawn))
    for box, result in zip(boxes.astype(float), results):
        np.testing.assert_allclose(result, pillow_crop(image, *box, size), atol=2e-5)


@pytest.mark.parametrize("by", ["area", "side"])
def test_center_crop_matches_pillow(by):
    shape, image = (18, 24), noise((18, 24), seed=3)
    transform = TRANSFORMS["center_crop"](**{by: 0.5})
    values = np.array([0.04, 0.25, 0.5, 0.9, 1.0])
    keys = jax.random.split(jax.random.key(0), 5)

    def one(key, value):
        drawn = transform.sample(key, {"probability": 1.0, by: value})
        return transform.apply(jnp.asarray(image, jnp.float32), drawn)

    got = jax.jit(jax.vmap(one))(keys, jnp.asarray(values, jnp.float32))
    for value, result in zip(values, got):
        height, width = np.array(shape) * (np.sqrt(value) if by == "area" else value)
        expected = pillow_crop(image, (18 - height) / 2, (24 - width) / 2, height, width, shape)
        np.testing.assert_allclose(result, expected, atol=2e-5)
    assert list(transform.defaults) == ["probability", by]


def test_padding_matches_pillow_away_from_the_seam():
    image = noise((16, 16), seed=4) * 0.5 + 0.5
    pads = np.array([0, 2, 4, 6])
    for pad, got in zip(pads, run(TRANSFORMS["padding"](), image, share=pads / 16)):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        side = 16 + 2 * pad
        expected = pillow_crop(padded, 0, 0, side, side, (16, 16))
        centre = (np.arange(16) + 0.5) * side / 16
        seam = np.minimum(np.abs(centre - pad), np.abs(centre - (16 + pad))) < side / 16
        plain = ~(seam[:, None] | seam[None, :])
        np.testing.assert_allclose(got[plain], expected[plain], atol=1e-5)
        # At the seam a linear ramp stands for the foot of the triangle filter: at most 1/8 off an axis.
        assert np.abs(got - expected).max() < 0.25
        assert abs(got.mean() - expected.mean()) < 0.01
        outside = (centre < pad - side / 16) | (centre > 16 + pad + side / 16)
        assert (got[outside] == 0).all() and (got[:, outside] == 0).all()


@pytest.mark.parametrize(("name", "axis"), [("horizontal_flip", 1), ("vertical_flip", 0)])
def test_flips_are_exact_as_arrays_and_as_matrices(name, axis):
    image = noise((6, 7)).astype(np.float32)
    transform, drawn = TRANSFORMS[name](), {"applied": jnp.array(True)}
    np.testing.assert_array_equal(transform.apply(jnp.asarray(image), drawn), np.flip(image, axis))
    np.testing.assert_array_equal(
        jax.jit(lambda i: warp(i, [(transform, drawn)], (6, 7)))(jnp.asarray(image)), np.flip(image, axis)
    )


@pytest.mark.parametrize(("given", "wanted"), [((9, 14), (32, 32)), ((31, 40), (8, 8)), ((16, 16), (24, 12))])
def test_plain_resize_matches_pillow(given, wanted):
    image = noise(given, seed=5)
    to_image = resample.resize_matrix(jnp.array(given, jnp.float32), wanted)
    got = jax.jit(resample.sample, static_argnums=(2, 3))(jnp.asarray(image, jnp.float32), to_image, wanted, True)
    np.testing.assert_allclose(got, pillow_crop(image, 0, 0, *given, wanted), atol=1e-5)


def test_rotation_to_a_smaller_size_does_not_alias():
    # A checkerboard of single pixels is grey at a quarter of its size, whatever the angle.
    image = (np.indices((64, 64)).sum(0) % 2).astype(np.float32)[..., None]
    transform = TRANSFORMS["rotation"]()
    angles = jnp.array([0.0, 10.0, 45.0])
    drawn = {"applied": jnp.ones(3, bool), "angle": angles}
    got = np.asarray(jax.jit(jax.vmap(lambda d: warp(jnp.asarray(image), [(transform, d)], (16, 16))))(drawn))
    assert np.abs(got[:, 5:11, 5:11] - 0.5).max() < 0.16


def test_images_of_one_pixel_a_side_survive():
    for shape in ((1, 1), (1, 5), (5, 1)):
        got = run(TRANSFORMS["rotation"](), np.ones((*shape, 1)), angle=[0.0, 180.0])
        np.testing.assert_allclose(got, 1, atol=1e-4)


def torchvision_box(drawn, index, height, width, low, high):
    """`RandomResizedCrop.get_params` on continuous boxes, one attempt after the other."""
    for area, ratio in zip(drawn["area"][index], drawn["ratio"][index]):
        box_width, box_height = np.sqrt(area * ratio * height * width), np.sqrt(area / ratio * height * width)
        if box_width <= width and box_height <= height:
            top, left = drawn["y"][index] * (height - box_height), drawn["x"][index] * (width - box_width)
            return top, left, box_height, box_width
    if width / height < low:
        box_width, box_height = width, width / low
    elif width / height > high:
        box_width, box_height = height * high, height
    else:
        box_width, box_height = width, height
    return (height - box_height) / 2, (width - box_width) / 2, box_height, box_width


def test_the_first_box_that_fits_is_taken():
    boxes_on = jax.jit(jax.vmap(crop_box, (0, None)))
    for areas in ((0.08, 1.0), (0.9, 1.1), (1.5, 2.0)):
        transform = TRANSFORMS["random_resized_crop"](area_low=areas[0], area_high=areas[1])
        drawn = draws(transform, 500)
        for canvas in ((32, 32), (20, 50), (50, 20)):
            boxes = np.asarray(boxes_on(drawn, jnp.array(canvas, jnp.float32)))
            expected = [torchvision_box(drawn, i, *canvas, 3 / 4, 4 / 3) for i in range(500)]
            np.testing.assert_allclose(boxes, np.array(expected), atol=2e-4)
            assert (boxes[:, :2] >= -1e-4).all()
            assert (boxes[:, :2] + boxes[:, 2:] <= np.array(canvas) + 1e-3).all()


def test_areas_above_one_show_the_whole_image():
    drawn = draws(TRANSFORMS["random_resized_crop"](), 50, area_low=1.1, area_high=1.3)
    boxes = jax.jit(jax.vmap(lambda d: crop_box(d, jnp.array([32.0, 32.0]))))(drawn)
    np.testing.assert_array_equal(boxes, np.tile([0, 0, 32, 32], (50, 1)))


def test_beyond_border_shows_zeros_around_the_image():
    transform = TRANSFORMS["random_resized_crop"](
        area_low=4.0, area_high=4.0, ratio_low=1.0, ratio_high=1.0, beyond_border=True
    )
    drawn = draws(transform, 30)
    got = np.asarray(jax.jit(jax.vmap(lambda d: transform.apply(jnp.ones((32, 32, 1)), d)))(drawn))[..., 0]
    # Twice the side: a quarter of the view is image, wherever it lies.
    np.testing.assert_allclose(got.mean((1, 2)), 0.25, atol=1e-4)
    np.testing.assert_array_equal(np.unique(got[:, 0] > 0).size, 2)
    rows = (got * np.arange(32)[:, None]).sum((1, 2)) / got.sum((1, 2))
    np.testing.assert_allclose(rows, 7.5 + 16 * drawn["y"], atol=0.02)


def test_what_crops_draw():
    transform = TRANSFORMS["random_resized_crop"](area_low=0.2, area_high=0.9, probability=0.4)
    drawn = draws(transform)
    assert stats.binomtest(int(drawn["applied"].sum()), 4000, 0.4).pvalue > 1e-3
    assert stats.kstest(drawn["area"].ravel(), stats.uniform(0.2, 0.7).cdf).pvalue > 1e-3
    log_ratio = stats.uniform(np.log(3 / 4), np.log(4 / 3) - np.log(3 / 4))
    assert stats.kstest(np.log(drawn["ratio"]).ravel(), log_ratio.cdf).pvalue > 1e-3
    for place in ("x", "y"):
        assert stats.kstest(drawn[place], stats.uniform().cdf).pvalue > 1e-3
    for one, other in (("x", "y"), ("x", "applied")):
        assert abs(stats.spearmanr(drawn[one], drawn[other]).statistic) < 0.06


def test_what_padding_rotation_and_affine_draw():
    expected = {
        ("padding", "share"): (0.1, 0.4),
        ("rotation", "angle"): (-25.0, 25.0),
        ("affine", "angle"): (-20.0, 20.0),
        ("affine", "shear"): (-10.0, 10.0),
        ("affine", "x"): (-0.1, 0.1),
        ("affine", "y"): (-0.1, 0.1),
    }
    drawn = {name: draws(TRANSFORMS[name](probability=0.6)) for name, _ in expected}
    for (name, parameter), (low, high) in expected.items():
        fit = stats.kstest(drawn[name][parameter], stats.uniform(low, high - low).cdf)
        assert fit.pvalue > 1e-3, (name, parameter)
        assert stats.binomtest(int(drawn[name]["applied"].sum()), 4000, 0.6).pvalue > 1e-3, name
