"""Colour transforms against Pillow, colorsys and the equations in float64."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import stats

from ssljax.augment import TRANSFORMS, color

FACTORS = np.array([0.0, 0.2, 0.6, 0.95, 1.0, 1.3, 1.9, 3.0])
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601; dm-pix and torchvision round the first to .2989


@pytest.fixture(scope="module")
def rgb8() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)


def over_factors(name: str, image8: np.ndarray) -> np.ndarray:
    apply = TRANSFORMS[name]().apply
    image = jnp.asarray(image8, jnp.float32) / 255
    return np.asarray(jax.jit(jax.vmap(lambda f: apply(image, {"factor": f})))(jnp.asarray(FACTORS, jnp.float32)))


def shifted(image: np.ndarray, turn: float) -> np.ndarray:
    out = np.empty_like(image)
    for index in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[index])
        out[index] = colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)
    return out


def blended(image: np.ndarray, part: int, factor: float) -> np.ndarray:
    luma = (image @ LUMA)[..., None]
    target = [0.0, luma.mean(), luma][part]
    return np.clip(factor * image + (1 - factor) * target, 0, 1)


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_blends_match_pillow(name, enhance, rgb8):
    got = over_factors(name, rgb8)
    for factor, image in zip(FACTORS, got):
        pillow = np.asarray(enhance(Image.fromarray(rgb8)).enhance(factor)) / 255
        # Pillow works on 8 bits: its grey is rounded (half a level, times |1 - factor|), its result cut off.
        assert np.abs(image - pillow).max() <= (1 + 0.5 * abs(1 - factor)) / 255 + 5e-4, factor


@pytest.mark.parametrize(("part", "name"), enumerate(["brightness", "contrast", "saturation"]))
def test_blends_match_the_equation(part, name, rgb8):
    for factor, image in zip(FACTORS, over_factors(name, rgb8)):
        np.testing.assert_allclose(image, blended(rgb8 / 255, part, factor), atol=3e-4)  # luma's .2989


def test_contrast_of_other_channel_counts_uses_their_mean():
    image = np.random.default_rng(1).random((5, 6, 2))
    got = TRANSFORMS["contrast"]().apply(jnp.asarray(image, jnp.float32), {"factor": jnp.float32(0.3)})
    np.testing.assert_allclose(got, 0.3 * image + 0.7 * image.mean(), atol=1e-6)


def test_hue_matches_colorsys(rgb8):
    turns = np.linspace(-0.5, 0.5, 11)
    image = jnp.asarray(rgb8, jnp.float32) / 255
    got = jax.jit(jax.vmap(lambda t: color.turn_hue(image, t)))(jnp.asarray(turns, jnp.float32))
    for turn, result in zip(turns, got):
        np.testing.assert_allclose(result, shifted(rgb8 / 255, turn), atol=5e-6)


def test_hue_leaves_greys_alone():
    image = jnp.broadcast_to(jnp.linspace(0, 1, 16).reshape(4, 4, 1), (4, 4, 3))
    np.testing.assert_allclose(jax.jit(color.turn_hue)(image, jnp.float32(0.3)), image, atol=1e-7)


def test_grayscale_matches_pillow(rgb8):
    apply = TRANSFORMS["grayscale"]().apply
    got = np.asarray(apply(jnp.asarray(rgb8, jnp.float32) / 255, {"applied": jnp.array(True)}))
    pillow = np.asarray(Image.fromarray(rgb8).convert("L")) / 255
    assert np.abs(got - pillow[..., None]).max() <= 0.5 / 255 + 2e-4
    assert got.shape == rgb8.shape


def test_jitter_does_its_parts_in_the_drawn_order(rgb8):
    image = rgb8[:4, :4] / 255
    orders = np.array(list(itertools.permutations(range(4))))
    rng = np.random.default_rng(2)
    factors, turns = rng.uniform(0.3, 1.7, (24, 3)), rng.uniform(-0.5, 0.5, 24)
    drawn = {
        "order": jnp.asarray(orders),
        "brightness": jnp.asarray(factors[:, 0], jnp.float32),
        "contrast": jnp.asarray(factors[:, 1], jnp.float32),
        "saturation": jnp.asarray(factors[:, 2], jnp.float32),
        "hue": jnp.asarray(turns, jnp.float32),
    }
    apply = TRANSFORMS["color_jitter"]().apply
    got = jax.jit(jax.vmap(lambda d: apply(jnp.asarray(image, jnp.float32), d)))(drawn)
    for order, factor, turn, result in zip(orders, factors, turns, got):
        expected = image
        for part in order:
            expected = shifted(expected, turn) if part == 3 else blended(expected, part, factor[part])
        # Luma's .2989, which hue can stretch where a colour is nearly grey.
        np.testing.assert_allclose(result, expected, atol=2e-3)
        assert np.abs(np.asarray(result) - expected).mean() < 2e-4


def drawn_jitter(n: int = 6000, **given):
    transform = TRANSFORMS["color_jitter"](**given)
    keys = jax.random.split(jax.random.key(3), n)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda k: transform.sample(k, transform.defaults)))(keys))


def test_jitter_draws_what_torchvision_draws():
    drawn = drawn_jitter(probability=1.0, brightness=0.4, contrast=1.5, saturation=0.2, hue=0.3)
    uniform = {"brightness": (0.6, 1.4), "contrast": (0.0, 2.5), "saturation": (0.8, 1.2), "hue": (-0.3, 0.3)}
    for name, (low, high) in uniform.items():
        assert stats.kstest(drawn[name], stats.uniform(low, high - low).cdf).pvalue > 1e-3, name
    _, counts = np.unique(drawn["order"], axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    # Order and strengths have nothing to do with each other.
    assert abs(stats.spearmanr(drawn["order"][:, 0], drawn["hue"]).statistic) < 0.05


def test_jitter_without_a_gate_for_hue_shares_one():
    drawn = drawn_jitter(probability=0.7)
    assert "hue_probability" not in TRANSFORMS["color_jitter"]().defaults
    assert stats.binomtest(int(drawn["applied"].sum()), 6000, 0.7).pvalue > 1e-3
    np.testing.assert_array_equal(drawn["applied"], drawn["hue_applied"])
    np.testing.assert_array_equal(drawn["hue"] != 0, drawn["applied"])
    np.testing.assert_array_equal(drawn["contrast"] != 1, drawn["applied"])


def test_hue_gate_of_its_own_is_independent():
    drawn = drawn_jitter(probability=0.8, hue_probability=0.3)
    assert TRANSFORMS["color_jitter"](hue_probability=0.3).defaults["hue_probability"] == 0.3
    assert stats.binomtest(int(drawn["hue_applied"].sum()), 6000, 0.3).pvalue > 1e-3
    assert stats.binomtest(int((drawn["hue_applied"] & drawn["applied"]).sum()), 6000, 0.24).pvalue > 1e-3
    np.testing.assert_array_equal(drawn["hue"] != 0, drawn["hue_applied"])
    np.testing.assert_array_equal(drawn["brightness"] != 1, drawn["applied"])
