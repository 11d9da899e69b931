"""Quarter turns, single channels, defocus, elastic warp and self-normalisation against numpy, scipy and their own statistics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from ssljax import augment
from ssljax.augment import SETS, TRANSFORMS, cells
from ssljax.errors import UserError

ON = jnp.array(True)


def picture(height: int, width: int, channels: int) -> jax.Array:
    image = np.random.default_rng(0).random((height, width, channels))
    return jnp.asarray(ndimage.gaussian_filter(image, (1, 1, 0)) ** 2, jnp.float32)


def draws(transform, n: int, seed: int = 0, **values):
    hyper = {**transform.defaults, **values}
    keys = jax.random.split(jax.random.key(seed), n)
    return jax.jit(jax.vmap(lambda key: transform.sample(key, hyper)))(keys)


def on_each(transform, image, drawn) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(partial(transform.apply, image)))(drawn))


def test_quarter_turns_are_exact_and_equally_often():
    turns, image = TRANSFORMS["quarter_turns"](), picture(11, 11, 5)
    drawn = draws(turns, 4000)
    quarters = np.asarray(drawn["quarters"])
    assert stats.chisquare(np.bincount(quarters, minlength=4)).pvalue > 1e-3
    np.testing.assert_array_equal(drawn["applied"], quarters > 0)
    for quarter, result in enumerate(on_each(turns, image, {"quarters": jnp.arange(4)})):
        np.testing.assert_array_equal(result, np.rot90(image, quarter))
    with pytest.raises(UserError, match="quarter_turns: an image of 11x12, expected a square one"):
        turns.apply(picture(11, 12, 1), {"quarters": jnp.array(1)})


@pytest.mark.parametrize("channels", [1, 3, 5, 16])
def test_brightness_and_contrast_are_those_of_each_channel(channels):
    image = picture(9, 7, channels)
    given = np.asarray(image, np.float64)
    for name, centre in (("channel_brightness", 0 * given.mean((0, 1))), ("channel_contrast", given.mean((0, 1)))):
        transform = TRANSFORMS[name](probability=0.5, strength=1.5)
        drawn = draws(transform, 60)
        results = on_each(transform, image, drawn)
        for index, result in enumerate(results):
            factor = np.asarray(drawn["factor"], np.float64)[index, :channels]
            np.testing.assert_allclose(result, np.clip(centre + factor * (given - centre), 0, 1), atol=3e-7)
            assert bool(drawn["applied"][index]) == (not np.array_equal(result, given))
        assert 15 < drawn["applied"].sum() < 45


def test_factors_are_uniform_and_each_channel_has_its_own():
    factor = np.asarray(draws(TRANSFORMS["channel_brightness"](strength=0.3), 3000)["factor"])
    assert stats.kstest(factor.ravel(), stats.uniform(0.7, 0.6).cdf).pvalue > 1e-3
    correlation = np.corrcoef(factor.T)
    assert np.abs(correlation - np.eye(16)).max() < 5 / np.sqrt(3000)


@pytest.mark.parametrize(("channels", "probability"), [(1, 1.0), (3, 0.2), (3, 1.0), (5, 0.7)])
def test_channels_are_dropped_each_on_its_own_but_never_all(channels, probability):
    drop, n = TRANSFORMS["channel_drop"](), 4000
    image = jnp.full((2, 2, channels), 0.5)
    results = on_each(drop, image, draws(drop, n, probability=probability))
    gone = (results == 0).all((1, 2))
    np.testing.assert_array_equal(results, np.where(gone[:, None, None], 0, image))
    assert not gone.all(1).any()
    expected = probability - probability**channels / channels
    for channel in range(channels):
        assert stats.binomtest(int(gone[:, channel].sum()), n, expected).pvalue > 1e-3
    if channels == 3 and probability == 0.2:  # two at once as often as independent gates, and those that spared one
        both = gone[:, 0] & gone[:, 1]
        assert stats.binomtest(int(both.sum()), n, 0.2**2 * 0.8 + 0.2**3 / 3).pvalue > 1e-3


def test_defocus_is_the_disc_of_scipy():
    image, radii = picture(20, 14, 2), np.array([0.0, 0.5, 0.9, 2.0, 3.7, 11.0])
    drawn = {"applied": jnp.ones(6, bool), "radius": jnp.asarray(radii, jnp.float32)}
    results = on_each(TRANSFORMS["defocus"](), image, drawn)
    y, x = np.mgrid[-13:14, -13:14]
    for radius, result in zip(radii, results):
        disc = np.clip(radius + 0.5 - np.hypot(y, x), 0, 1)
        kernel = (disc / disc.sum())[:, :, None]
        np.testing.assert_allclose(result, ndimage.convolve(np.float64(image), kernel, mode="reflect"), atol=3e-6)
    np.testing.assert_allclose(results[1], image, atol=3e-6)
    assert np.abs(results[3] - image).max() > 0.05
    large = np.random.default_rng(1).random((196, 196, 1)).astype(np.float32)
    result = TRANSFORMS["defocus"]().apply(large, {"applied": ON, "radius": jnp.float32(3.7)})
    disc = np.clip(4.2 - np.hypot(y, x), 0, 1)[:, :, None]
    np.testing.assert_allclose(
        result, ndimage.convolve(np.float64(large), disc / disc.sum(), mode="reflect"), atol=3e-6
    )


def test_defocus_draws_its_radius_uniformly():
    drawn = draws(TRANSFORMS["defocus"](probability=0.3, radius_low=0.5, radius_high=4.0), 5000)
    assert stats.kstest(np.asarray(drawn["radius"]), stats.uniform(0.5, 3.5).cdf).pvalue > 1e-3
    assert stats.binomtest(int(drawn["applied"].sum()), 5000, 0.3).pvalue > 1e-3


def waves(drawn, index: int, size: tuple[int, int]) -> np.ndarray:
    """The displacement in pixels, wave by wave in float64."""
    side = min(size)
    y, x = ((np.arange(n) + 0.5) / side for n in size)
    angle = (
        np.float64(drawn["wave"][index, :, :, 0])[..., None, None] * y[:, None]
        + np.float64(drawn["wave"][index, :, :, 1])[..., None, None] * x
        + np.float64(drawn["phase"][index])[..., None, None]
    )
    return float(drawn["amplitude"][index]) * side * np.sqrt(2 / 16) * np.cos(angle).sum(1)


def test_elastic_resamples_at_its_displacement():
    elastic, image = TRANSFORMS["elastic"](probability=0.7, amplitude=0.05, scale=0.3), picture(23, 31, 4)
    drawn = draws(elastic, 12)
    results = on_each(elastic, image, drawn)
    fields = np.asarray(jax.jit(jax.vmap(lambda one: cells.displacement(one, (23, 31))))(drawn))
    rows, columns = np.mgrid[:23, :31]
    assert 3 < drawn["applied"].sum() < 12
    for index, (field, result) in enumerate(zip(fields, results)):
        exact = waves(drawn, index, (23, 31))
        np.testing.assert_allclose(field, exact, atol=2e-4)
        places = [rows + exact[0], columns + exact[1]]
        for channel in range(4):
            plane = np.float64(image[..., channel])
            expected = ndimage.map_coordinates(plane, places, order=1, mode="nearest")
            np.testing.assert_allclose(result[..., channel], expected, atol=1e-4)
        if not drawn["applied"][index]:
            np.testing.assert_array_equal(result, image)


def test_elastic_displacements_covary_as_stated():
    n, amplitude, scale, side = 6000, 0.03, 0.2, 20
    drawn = draws(TRANSFORMS["elastic"](probability=1.0), n, amplitude=amplitude, scale=scale)
    fields = np.asarray(jax.jit(jax.vmap(lambda one: cells.displacement(one, (side, side))))(drawn))
    first = fields[:, :, 4, 6] / side
    for down, across in ((0, 0), (2, 0), (0, 4), (3, 4), (10, 10)):
        other = fields[:, :, 4 + down, 6 + across] / side
        distance = np.hypot(down, across) / side
        expected = amplitude**2 * np.exp(-(distance**2) / (2 * scale**2))
        for axis in (0, 1):
            assert (first[:, axis] * other[:, axis]).mean() == pytest.approx(expected, abs=0.06 * amplitude**2)
        assert abs((first[:, 0] * other[:, 1]).mean()) < 0.06 * amplitude**2
    assert np.abs(first.mean(0)).max() < 0.05 * amplitude
    # Nearly Gaussian: the excess kurtosis of 16 waves is -1.5 / 16.
    assert stats.kurtosis(first[:, 0]) == pytest.approx(-1.5 / 16, abs=0.25)


def test_self_normalisation_leaves_nothing_of_brightness_and_contrast():
    normalize, image = TRANSFORMS["self_normalize"](), picture(16, 12, 5)
    drawn = {"applied": ON, "deviations": jnp.array(2.0)}
    given = np.float64(image)
    z = (given - given.mean((0, 1))) / given.std((0, 1))
    plain = normalize.apply(image, drawn)
    np.testing.assert_allclose(plain, np.clip(0.5 + z / 4, 0, 1), atol=2e-6)
    other_plate = image * jnp.array([0.2, 0.5, 0.9, 1.0, 0.01]) + jnp.array([0.1, 0.0, 0.05, 0.0, 0.9])
    np.testing.assert_allclose(normalize.apply(other_plate, drawn), plain, atol=2e-4)
    flat = normalize.apply(jnp.full((16, 12, 2), jnp.array([0.3, 0.0])), drawn)
    np.testing.assert_array_equal(flat, 0.5)


@pytest.mark.parametrize("channels", [1, 5])
def test_the_biologists_set_takes_any_number_of_stains(channels):
    chosen = SETS["cells_biology"]
    names = ["random_resized_crop", "quarter_turns", "horizontal_flip", "vertical_flip", "elastic", "defocus"]
    names += ["channel_brightness", "channel_contrast", "channel_drop"]
    assert augment.names(chosen.views[0]) == names
    values = augment.hyper(chosen)["view1"]
    crop = values["random_resized_crop"]
    assert (crop["area_low"], crop["area_high"], values["channel_drop"]["probability"]) == (0.1, 1.0, 0.2)
    images = jnp.stack([picture(20, 26, channels)] * 64)
    run = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})(
        lambda key: augment.apply_view(chosen.views[0], key, images, values, image_size=24)
    )
    views = np.asarray(run(jax.random.key(0)))
    assert views.shape == (64, 24, 24, channels) and views.min() >= 0 and views.max() <= 1
    dropped = (views == 0).all((1, 2))
    if channels == 1:
        assert not dropped.any()
    else:
        assert stats.binomtest(int(dropped.sum()), 64 * channels, 0.2).pvalue > 1e-3
    assert len({view.tobytes() for view in views}) == 64


def test_too_many_channels_are_refused_and_weak_views_keep_what_moves():
    view = SETS["cells_biology"].views[0]
    with pytest.raises(UserError, match="'channel_brightness' got images of 17 channels, expected 1 to 16"):
        augment.check(view, 17)
    moving = ["random_resized_crop", "quarter_turns", "horizontal_flip", "vertical_flip", "elastic"]
    assert augment.names(augment.weak_view(view)) == moving


def test_a_definition_in_text():
    parsed = augment.parse("quarter_turns(probability=.5)+elastic(amplitude=.03,scale=.2)+self_normalize")
    again = augment.parse(augment.to_text(parsed))
    assert [t.defaults for t in again.views[0]] == [t.defaults for t in parsed.views[0]]
    with pytest.raises(UserError, match=r"elastic\.scale is 0, expected a number in \(0, inf\)"):
        augment.parse("elastic(scale=0)")
