"""Blur, inversion, solarize, equalize and erasing against scipy, Pillow and a loop in plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import ndimage, stats

from ssljax.augment import TRANSFORMS, pixel
from ssljax.errors import UserError

ON = {"applied": jnp.array(True)}


@pytest.fixture(scope="module")
def rgb8() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (14, 11, 3), dtype=np.uint8)


def as_float(image8: np.ndarray) -> jax.Array:
    return jnp.asarray(image8, jnp.float32) / 255


def as_bytes(image: jax.Array) -> np.ndarray:
    scaled = np.asarray(image, np.float64) * 255
    np.testing.assert_allclose(scaled, np.round(scaled), atol=1e-3)
    return np.round(scaled).astype(np.uint8)


def test_inversion_matches_pillow(rgb8):
    got = TRANSFORMS["color_inversion"]().apply(as_float(rgb8), ON)
    np.testing.assert_array_equal(as_bytes(got), np.asarray(ImageOps.invert(Image.fromarray(rgb8))))


def test_solarize_matches_pillow_at_every_threshold(rgb8):
    apply = TRANSFORMS["solarize"]().apply
    thresholds = np.arange(0, 256, 15)
    # Half a level below the threshold, so that no rounding of 1/255 decides.
    levels = jnp.asarray((thresholds - 0.5) / 255, jnp.float32)
    got = jax.vmap(lambda t: apply(as_float(rgb8), {**ON, "threshold": t}))(levels)
    for threshold, result in zip(thresholds, got):
        pillow = ImageOps.solarize(Image.fromarray(rgb8), threshold=int(threshold))
        np.testing.assert_array_equal(as_bytes(result), np.asarray(pillow))


def test_solarize_inverts_its_threshold_itself():
    got = TRANSFORMS["solarize"]().apply(as_float(np.array([[[127], [128], [129]]])), {**ON, "threshold": 128 / 255})
    np.testing.assert_array_equal(as_bytes(got)[0, :, 0], [127, 127, 126])


def test_equalize_matches_pillow(rgb8):
    rng = np.random.default_rng(1)
    size = (40, 36, 3)
    images = {
        "uniform": rng.integers(0, 256, size),
        "narrow": rng.integers(90, 130, size),
        "normal": np.clip(rng.normal(128, 30, size), 0, 255),
        "flat": np.full(size, 77),
        "two values": np.where(rng.random(size) < 0.9, 10, 200),
        "mostly white": np.where(rng.random(size) < 0.9, 255, 3),
        "ramp": np.broadcast_to(np.arange(36)[:, None] * 7, size),
    }
    stack = np.stack([image.astype(np.uint8) for image in images.values()])
    got = jax.jit(jax.vmap(pixel.equalized))(as_float(stack))
    for name, given, result in zip(images, stack, got):
        pillow = np.asarray(ImageOps.equalize(Image.fromarray(given)))
        np.testing.assert_array_equal(as_bytes(result), pillow, err_msg=name)


@pytest.mark.parametrize(
    ("side", "kernel_size", "reach"), [(9, 3, 1), (32, None, 1), (14, 7, 3), (60, None, 3), (5, 9, 4)]
)
def test_blur_matches_scipy(side, kernel_size, reach):
    image = np.random.default_rng(side).random((side, side + 2, 2))
    sigmas = np.array([0.1, 0.5, 1.0, 2.0, 7.0])
    apply = TRANSFORMS["gaussian_blur"](kernel_size=kernel_size).apply
    drawn = {"applied": jnp.ones(5, bool), "sigma": jnp.asarray(sigmas, jnp.float32)}
    got = jax.jit(jax.vmap(lambda d: apply(jnp.asarray(image, jnp.float32), d)))(drawn)
    for sigma, result in zip(sigmas, got):
        expected = image
        for axis in (0, 1):
            expected = ndimage.gaussian_filter1d(expected, sigma, axis, mode="mirror", radius=reach)
        np.testing.assert_allclose(result, expected, atol=2e-6)


def test_blur_refuses_kernels_it_cannot_have():
    for size in (2, 0, -3, 3.0):
        with pytest.raises(UserError, match="kernel_size"):
            TRANSFORMS["gaussian_blur"](kernel_size=size)
    blur = TRANSFORMS["gaussian_blur"](kernel_size=9)
    with pytest.raises(UserError, match="9 pixels, expected at most 7 for an image of 4x6"):
        blur.apply(jnp.zeros((4, 6, 1)), {"applied": jnp.array(True), "sigma": jnp.array(1.0)})


def test_blur_draws_sigma_uniformly():
    blur = TRANSFORMS["gaussian_blur"](sigma_low=0.4, sigma_high=1.2, probability=0.25)
    keys = jax.random.split(jax.random.key(5), 100_000)
    drawn = jax.jit(jax.vmap(lambda k: blur.sample(k, blur.defaults)))(keys)
    assert stats.kstest(np.asarray(drawn["sigma"]), stats.uniform(0.4, 0.8).cdf).pvalue > 1e-3
    assert stats.binomtest(int(drawn["applied"].sum()), 100_000, 0.25).pvalue > 1e-3


def first_box(drawn, index, height, width):
    """torchvision's loop, one attempt after the other."""
    for area, ratio in zip(drawn["area"][index], drawn["ratio"][index]):
        box_height = round(float(np.sqrt(area * ratio * height * width)))
        box_width = round(float(np.sqrt(area / ratio * height * width)))
        if box_height < height and box_width < width:
            top = int(drawn["y"][index] * (height - box_height + 1))
            left = int(drawn["x"][index] * (width - box_width + 1))
            return top, left, box_height, box_width
    return 0, 0, 0, 0


@pytest.mark.parametrize("areas", [(0.02, 0.3), (0.7, 1.5), (2.0, 3.0)])
def test_erasing_sets_the_first_box_that_fits_to_zero(areas):
    height, width, n = 20, 26, 300
    erasing = TRANSFORMS["random_erasing"](probability=0.8, area_low=areas[0], area_high=areas[1])
    image = np.random.default_rng(3).uniform(0.1, 1, (height, width, 2)).astype(np.float32)

    def one(key):
        drawn = erasing.sample(key, erasing.defaults)
        return drawn, erasing.apply(image, drawn)

    drawn, results = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(4), n)))
    erased = 0
    for index, result in enumerate(results):
        expected = image.copy()
        if drawn["applied"][index]:
            top, left, box_height, box_width = first_box(drawn, index, height, width)
            expected[top : top + box_height, left : left + box_width] = 0
            erased += box_height > 0
        np.testing.assert_array_equal(result, expected)
    assert erased == 0 if areas[0] > 1 else erased > 0.1 * n


def test_erasing_draws_area_and_ratio():
    erasing = TRANSFORMS["random_erasing"]()
    keys = jax.random.split(jax.random.key(6), 2000)
    drawn = jax.jit(jax.vmap(lambda k: erasing.sample(k, erasing.defaults)))(keys)
    drawn = jax.tree.map(np.asarray, drawn)
    assert stats.kstest(drawn["area"].ravel(), stats.uniform(0.02, 0.28).cdf).pvalue > 1e-3
    log_low, log_high = np.log(0.3), np.log(3.3)
    assert stats.kstest(np.log(drawn["ratio"]).ravel(), stats.uniform(log_low, log_high - log_low).cdf).pvalue > 1e-3
    for place in ("x", "y"):
        assert stats.kstest(drawn[place], stats.uniform().cdf).pvalue > 1e-3
