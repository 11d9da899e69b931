"""Nuclei at known places are found there, and what the rules say is dropped is dropped and counted."""

import numpy as np
import pytest
from made_bbbc021 import NOISE, SHAPE, drawn_cells, field, grid, matched, real_cells
from scipy import ndimage

from ssljax.data.bbbc021.plates import illumination, spread
from ssljax.data.bbbc021.segment import Rules, find_nuclei

SMALL = (420, 440)


def recall_precision_error(cells, seed, count=60):
    made = field(cells, grid(count, seed), seed)
    nuclei = find_nuclei(made.images[0])
    found = nuclei.centres[nuclei.kept]
    pairs = matched(found, made.centres, within=8)
    error = np.linalg.norm(found[pairs[:, 0]] - made.centres[pairs[:, 1]], axis=1)
    return len(pairs) / count, len(pairs) / len(found), error


def test_drawn_nuclei_are_found_where_they_are():
    recall, precision, error = recall_precision_error(drawn_cells(60), seed=0)
    assert recall >= 0.95 and precision >= 0.95
    assert error.max() < 2


def test_real_nuclei_are_found_where_they_are(test_data):
    cells = real_cells(test_data, 120)
    assert len(cells) == 120
    for half in (0, 1):
        recall, precision, error = recall_precision_error(cells[60 * half :][:60], seed=half)
        assert recall >= 0.95 and precision >= 0.95
        assert error.max() < 2


def test_areas_are_those_of_the_nuclei():
    cells = drawn_cells(12)
    made = field(cells, grid(12, 1, SMALL, inset=0), 1, SMALL)
    nuclei = find_nuclei(made.images[0], window=1)
    pairs = matched(nuclei.centres, made.centres, within=4)
    known = np.array([cell.nucleus.sum() for cell in cells])[pairs[:, 1]]
    assert len(pairs) == 12
    np.testing.assert_allclose(nuclei.areas[pairs[:, 0]], known, rtol=0.12)  # a rim of half a pixel is 7 % of the area
    np.testing.assert_array_equal(nuclei.areas, np.bincount(nuclei.labels.ravel())[1:])


@pytest.mark.parametrize("turn", [0.0, 0.7, np.pi / 2])
def test_touching_nuclei_are_two(turn):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SMALL[0], : SMALL[1]] + 0.0
    step = 14 * np.array([np.sin(turn), np.cos(turn)])
    known = np.array([(200.0, 220.0) - step, (200.0, 220.0) + step])
    discs = sum(((y - cy) ** 2 + (x - cx) ** 2 < 15**2) * 1.0 for cy, cx in known)  # 28 apart, 30 wide: they overlap
    image = 700 + 4000 * ndimage.gaussian_filter(np.minimum(discs, 1), 1.2) + rng.normal(0, NOISE, SMALL)
    nuclei = find_nuclei(image)
    assert nuclei.kept.all() and len(nuclei.areas) == 2
    assert len(matched(nuclei.centres, known, within=2)) == 2


def test_an_empty_field_has_none():
    assert len(find_nuclei(field([], [], shape=SMALL).images[0]).areas) == 0
    assert len(find_nuclei(np.full(SMALL, 700, np.uint16)).areas) == 0
    assert len(find_nuclei(np.zeros(SMALL, np.uint16)).areas) == 0


def test_each_rule_drops_what_it_says():
    big, *cells = drawn_cells(4)
    middle = (176, 186)
    made = field(cells, [middle, (-34, 186), (10, 10)], shape=SMALL)
    nuclei = find_nuclei(made.images[0])
    by_place = {
        tuple(np.rint(centre / 20).astype(int)): str(reason) for centre, reason in zip(nuclei.centres, nuclei.reasons)
    }
    near = {"": made.centres[0], "window cut by the border": made.centres[2]}
    for reason, centre in near.items():
        assert by_place[tuple(np.rint(centre / 20).astype(int))] == reason
    assert sorted(nuclei.reasons) == ["", "cut by the border", "window cut by the border"]

    one = field([big], [middle], shape=SMALL).images[0].astype(float)
    assert list(find_nuclei(one).reasons) == [""]
    assert list(find_nuclei(one, rules=Rules(min_area=1500)).reasons) == ["small"]
    assert list(find_nuclei(one, rules=Rules(max_area=300)).reasons) == ["large"]
    assert list(find_nuclei(ndimage.gaussian_filter(one, 6)).reasons) == ["out of focus"]


def test_focus_is_the_inverse_of_the_blur():
    y, x = np.mgrid[: SMALL[0], : SMALL[1]] - 210.0
    for sigma in (2.0, 3.0, 4.0):
        disc = ndimage.gaussian_filter((y**2 + x**2 < 40**2) * 5000.0, sigma) + 700
        total = np.sqrt(sigma**2 + 1)  # the search smooths by a Gaussian of 1
        (focus,) = find_nuclei(disc, window=1, rules=Rules(max_area=9000)).focus
        # The height is the mean over the disc, which the blurred rim lowers a little.
        np.testing.assert_allclose(focus, 1 / (total * np.sqrt(2 * np.pi)), rtol=0.12)


def test_a_window_just_fits():
    cells = drawn_cells(1)
    for shift, reason in ((0, ""), (-2, "window cut by the border")):
        corner = (98 - 34 + 1 + shift, 180)
        assert list(find_nuclei(field(cells, [corner], shape=SMALL).images[0]).reasons) == [reason]


def test_a_planted_illumination_is_recovered():
    rng = np.random.default_rng(1)
    y, x = (np.arange(side) / side - 0.5 for side in SHAPE)
    light = 1.2 - 0.9 * (y[:, None] ** 2 + (x[None] - 0.1) ** 2)
    light /= light.mean()
    mean = 500 + light * (1000 + rng.normal(0, 100, SHAPE))
    found = spread(illumination(mean, 500.0), SHAPE)
    assert found.shape == SHAPE
    inner = (slice(64, -64), slice(64, -64))  # a Gaussian of 128 pixels flattens the outermost
    np.testing.assert_allclose(found[inner], light[inner], rtol=0.06)
    # Spread alone gives linear light back exactly, away from the half block at the border.
    ramp = np.broadcast_to(4.0 * np.arange(1, 21)[:, None], (20, 10)).astype(np.float32)
    expected = 0.5 * (np.arange(160) - 3.5) + 4
    np.testing.assert_allclose(spread(ramp, (160, 80))[4:-4, 9], expected[4:-4], rtol=1e-5)
