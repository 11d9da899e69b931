"""Profiles by hand counts, by the covariance the corrections promise, and on BBBC021's official tables."""

import csv
import gzip
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy import linalg, stats

from ssljax.data.cells import columns_of
from ssljax.errors import UserError
from ssljax.evaluate import mechanisms, profiles
from ssljax.evaluate.profiles import Table, Treatments

OFFICIAL = Path(os.environ.get("SSLJAX_TEST_DATA", "/nowhere")) / "bbbc021"


def sites_of(features: np.ndarray, compound, batch=None, moa=None, concentration=None) -> Table:
    n = len(features)
    batch = np.asarray(batch if batch is not None else ["w1"] * n)
    columns = {
        "compound": compound,
        "concentration": concentration if concentration is not None else ["1"] * n,
        "plate": [f"{b}_p" for b in batch],
        "batch": batch,
        "well": [f"W{i}" for i in range(n)],
        "site": ["1"] * n,
        "moa": moa if moa is not None else [""] * n,
    }
    return profiles.table(features, columns)


def treatments_of(rows, angles) -> Treatments:
    """Treatments (compound, mechanism, batches) whose profiles lie on the unit circle, by angle in degrees."""
    angle = np.deg2rad(angles)
    compounds, moas, batches = zip(*rows)
    return Treatments(
        np.stack([np.cos(angle), np.sin(angle)], 1) * np.linspace(0.5, 3, len(rows))[:, None],
        np.array(compounds),
        np.ones(len(rows)),
        np.array(moas),
        tuple(frozenset(of.split()) for of in batches),
    )


def test_site_profiles_are_means_and_their_counts():
    rng = np.random.default_rng(0)
    plate, well, site = (np.array(v) for v in (list("bbbaabba"), list("xxyxxxyx"), list("11122211")))
    columns = {"plate": plate, "well": well, "site": site, "batch": ["w"] * 8, "concentration": [0.5] * 8}
    columns |= {"compound": ["drug"] * 8, "moa": [""] * 8, "file": list("abcdefgh")}
    cells = profiles.table(rng.normal(size=(8, 3)).astype(np.float32), columns)
    sites, counts = profiles.site_profiles(cells), profiles.cell_counts(cells)
    keys = sorted(set(zip(plate, well, site)))
    assert list(zip(*(sites.columns[name] for name in ("plate", "well", "site")))) == keys
    for key, mean, count in zip(keys, sites.features, counts.features):
        chosen = [tuple(k) == key for k in zip(plate, well, site)]
        np.testing.assert_allclose(mean, cells.features[chosen].mean(0), atol=1e-6)
        assert count == sum(chosen)
    with pytest.raises(UserError, match=r"one site \(plate b, well x, site 1\) differ in 'compound'"):
        profiles.site_profiles(cells._replace(columns={**cells.columns, "compound": np.array(list("ABAAAAAA"))}))


def test_tvn_makes_the_controls_white_up_to_the_ridge():
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(5, 5)) * np.array([30, 10, 3, 1, 0.1])[:, None]
    features = rng.normal(size=(300, 5)) @ mixing + 7
    compound = np.where(np.arange(300) < 200, "DMSO", "drug")
    made = profiles.tvn(sites_of(features, compound)).features
    control = made[:200]
    np.testing.assert_allclose(control.mean(0), 0, atol=1e-10)
    values = np.linalg.eigvalsh(np.cov(features[:200].T))
    np.testing.assert_allclose(np.cov(control.T), np.diag(values / (values + 1)), atol=1e-10)
    assert np.diag(np.cov(control.T)).max() > 0.99
    # Distances are Mahalanobis' with the ridge in the covariance: no choice of axes or signs enters.
    ridge = linalg.inv(np.cov(features[:200].T) + np.eye(5))
    apart = features[200] - features[250]
    assert ((made[200] - made[250]) ** 2).sum() == pytest.approx(apart @ ridge @ apart, rel=1e-9)


@pytest.mark.parametrize(("d", "n_controls"), [(4, 80), (30, 12)], ids=["many controls", "fewer than dimensions"])
def test_coral_gives_every_batch_the_covariance_of_all(d, n_controls):
    rng = np.random.default_rng(2)
    names, n = ("w1", "w2", "w3"), n_controls + 10
    batch = np.repeat(names, n)
    planted = [scale * (np.eye(d) + 0.3 * rng.normal(size=(d, d)) / np.sqrt(d)) for scale in (5, 10, 30)]
    features = np.concatenate([rng.normal(size=(n, d)) @ mixing for mixing in planted])
    control = np.tile(np.arange(n) < n_controls, 3)
    made = profiles.coral(sites_of(features, np.where(control, "DMSO", "drug"), batch)).features
    overall = np.cov(features[control].T) + np.eye(d)
    for name in names:
        own = batch == name
        before = np.cov(features[own & control].T) + np.eye(d)
        align = linalg.inv(linalg.sqrtm(before)) @ linalg.sqrtm(overall)
        np.testing.assert_allclose(made[own], features[own] @ align, atol=1e-7)
        np.testing.assert_allclose(align.T @ before @ align, overall, atol=1e-7)
        # What is left of the difference between batches is the ridge's.
        left = overall - align.T @ align
        np.testing.assert_allclose(np.cov(made[own & control].T), left, atol=1e-7)
        if n_controls > d:  # where the batch's variance is far above the ridge, nearly nothing
            apart = [
                np.linalg.norm(np.cov(each[own & control].T) - np.cov(features[control].T)) for each in (made, features)
            ]
            assert apart[0] < 0.1 * apart[1]


def test_standardized_sites_have_the_controls_scale():
    rng = np.random.default_rng(11)
    features = rng.normal(size=(60, 3)) * [1e-4, 1, 0] + [5, -3, 2]
    made = profiles.standardize(sites_of(features, np.where(np.arange(60) < 40, "DMSO", "drug"))).features
    np.testing.assert_allclose(
        made[:, :2], (features - features[:40].mean(0))[:, :2] / features[:40].std(0, ddof=1)[:2]
    )
    np.testing.assert_array_equal(made[:, 2], 0)


def test_treatments_are_medians_whatever_way_a_concentration_is_written():
    features = np.array([[0, 9], [1, 1.0], [2, 5], [50, 3], [7, 7]])
    sites = sites_of(
        features,
        ["DMSO", "a", "a", "a", "a"],
        ["w1", "w1", "w2", "w2", "w1"],
        ["DMSO", "m", "m", "m", "m"],
        ["0", "0.3", "0.300", "3e-1", "3"],
    )
    made = profiles.treatment_profiles(sites)
    np.testing.assert_array_equal(made.features, [[2, 3], [7, 7]])
    np.testing.assert_array_equal(made.concentration, [0.3, 3])
    assert made.batches == (frozenset({"w1", "w2"}), frozenset({"w1"}))
    with pytest.raises(UserError, match=r"treatment a at 0\.3 has the mechanisms \['m', 'n'\]"):
        profiles.treatment_profiles(sites._replace(columns={**sites.columns, "moa": np.array(list("dmnmm"))}))


def test_nsc_and_nscb_are_the_hand_counts_of_a_planted_batch_effect():
    # Mechanism M and N lie far apart within batch 1; batch 2's M treatment lies beside batch 1's N.
    rows = [
        ("a", "M", "1"),  # 0   nearest of another compound: b (right); of another batch too: e at 40 (wrong)
        ("b", "M", "1"),  # 5   a (right); e (wrong)
        ("c", "N", "1"),  # 60  d at 62 (wrong); other batch: d (wrong)
        ("d", "M", "2"),  # 62  c (wrong); c (wrong)
        ("e", "N", "2"),  # 40  d at 62 and c at 60: c (right); c (right)
        ("c", "N", "1"),  # 61  d (wrong): its own compound's c at 60 is not asked
        ("x", "", "2"),  # 60  unknown: neither asked nor answering
        ("y", "P", "2"),  # 100 P lives in one batch: NSC d (wrong), not in NSCB
    ]
    made = treatments_of(rows, [0, 5, 60, 62, 40, 61, 60, 100])
    same = mechanisms.nsc(made, permutations=20)
    np.testing.assert_array_equal(same.right, [1, 1, 0, 0, 1, 0, 0])
    assert same.accuracy == pytest.approx(3 / 7)
    assert same.left_out == {"unknown mechanism": 1}
    # Of M's a: b and d of b, c, d, e, c, y. Of c: e of a, b, d, e, y. Of e: both c of the six others. Of y: none.
    chance = 3 * Fraction(2, 6) + 2 * Fraction(1, 5) + Fraction(2, 6)
    assert same.chance == pytest.approx(float(chance / 7))
    both = mechanisms.nscb(made, permutations=20)
    np.testing.assert_array_equal(both.right, [0, 0, 0, 0, 1, 0])
    assert both.left_out == {"unknown mechanism": 1, "mechanism in one batch": 1}
    # a, b, c, c may take d and e: one of the two is right; d takes a, b of four, e both c of four.
    assert both.chance == pytest.approx(0.5)
    rows, per_class = mechanisms.ProfileMeasures(same, both, None, None, ()).measurements()
    values = {(row.target, row.metric): row.value for row in rows}
    assert values["moa", "nsc"] == same.accuracy and values["moa", "nscb_chance"] == both.chance
    assert values["moa", "nscb_treatments"] == 6 and values["moa", "nsc_mechanisms"] == 3
    of_m = [row.value for row in per_class if (row.class_name, row.metric) == ("M", "nsc")]
    assert of_m == [pytest.approx(2 / 3)]


def test_neighbours_that_tie_share_and_a_treatment_in_many_batches_stays():
    rows = [("a", "M", "1"), ("b", "M", "1 2"), ("c", "N", "2"), ("d", "N", "1")]
    made = treatments_of(rows, [10, 10, 10, 10])
    np.testing.assert_allclose(mechanisms.nsc(made, permutations=0).right, [1 / 3, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(mechanisms.nscb(made, permutations=0).right, [1 / 2, 1 / 3, 1 / 3, 1 / 2])


def test_noise_scores_at_chance():
    rng = np.random.default_rng(3)
    n, batches = 400, np.array(["1", "2", "3", "4"])
    compound = [f"c{i // 4}" for i in range(n)]
    moa = [f"m{(i // 4) % 7}" for i in range(n)]
    rows = list(zip(compound, moa, batches[rng.integers(0, 4, n)]))
    made = treatments_of(rows, np.zeros(n))._replace(features=rng.normal(size=(n, 30)))
    for test in (mechanisms.nsc, mechanisms.nscb):
        found = test(made, permutations=100)
        assert found.chance == pytest.approx(13 / 99, abs=0.02)
        assert found.permuted == pytest.approx(found.chance, abs=0.01)
        assert stats.binomtest(round(found.right.sum()), n, found.chance).pvalue > 1e-3
        assert found.p_value > 0.01


def planted(rng, plate_effect: float, n_cells: int = 12) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Cells of four batches of two plates; four mechanisms of four compounds, a compound a batch."""
    rows, features = [], []
    direction = rng.normal(size=(4, 10)) * 3
    for batch in range(4):
        shift = rng.normal(size=10) * plate_effect
        for plate in range(2):
            own = shift + rng.normal(size=10) * plate_effect
            for well in range(8):
                moa = "" if well < 4 else f"m{well - 4}"
                compound = "DMSO" if well < 4 else f"m{well - 4}c{batch}"
                for site in range(2):
                    rows += [(compound, "1", f"w{batch}_{plate}", f"W{well}", str(site), moa)] * n_cells
                    middle = own + (direction[well - 4] if moa else 0)
                    features.append(middle + rng.normal(size=(n_cells, 10)))
    names = ("compound", "concentration", "plate", "well", "site", "moa")
    return np.concatenate(features), {name: np.array(column) for name, column in zip(names, zip(*rows))}


def test_the_whole_way_from_cells():
    features, metadata = planted(np.random.default_rng(4), plate_effect=0.0)
    found = mechanisms.measure_profiles(features, metadata, permutations=50)
    assert found.nsc is not None and found.nscb is not None and found.notes == ()
    assert found.nsc.accuracy == found.nscb.accuracy == 1 and found.nsc.p_value == pytest.approx(1 / 51)
    assert found.nsc.chance == pytest.approx(3 / 15) and len(found.nsc.moa) == 16
    assert found.plate is not None and found.plate.classes == 8 and found.plate.chance == 1 / 8
    assert found.plate.accuracy < 0.35 and found.plate.grouped_by == "well"
    features, metadata = planted(np.random.default_rng(5), plate_effect=2.0)
    shifted = mechanisms.measure_profiles(features, metadata, permutations=0)
    assert shifted.plate is not None and shifted.batch is not None
    assert shifted.plate.accuracy > 0.95 and shifted.batch.accuracy > 0.95 and shifted.batch.chance == 1 / 4


def test_what_a_table_cannot_give_is_a_note_and_what_is_wrong_an_error():
    features, metadata = planted(np.random.default_rng(6), 0.0, n_cells=1)
    one = metadata["plate"] == "w0_0"
    of_one = {name: column[one] for name, column in metadata.items()}
    of_one["moa"] = np.where(of_one["moa"] == "", "", "m0")
    found = mechanisms.measure_profiles(features[one], of_one, permutations=0)
    assert found.nsc is not None and found.nsc.accuracy == 1
    assert found.nscb is None and found.plate is None and len(found.notes) == 3
    assert "nscb: of 0 treatments" in found.notes[0] and "controls 'DMSO' are of 1 plate" in found.notes[1]
    assert {row.target for row in found.measurements()[0]} == {"moa"}

    with pytest.raises(UserError, match=r"unknown control compound 'DMS0'; did you mean 'DMSO'\?"):
        mechanisms.measure_profiles(features, metadata, control="DMS0")
    with pytest.raises(UserError, match="unknown correction 'tnv'; did you mean 'tvn'"):
        mechanisms.measure_profiles(features, metadata, correction="tnv")
    lacking = (metadata["compound"] != "DMSO") | (np.char.find(metadata["plate"], "w3") < 0)
    with pytest.raises(UserError, match="batch 'w3' has 0 sites of the control 'DMSO', expected 2 or more"):
        mechanisms.measure_profiles(features[lacking], {name: column[lacking] for name, column in metadata.items()})
    with pytest.raises(UserError, match="no column 'moa'"):
        profiles.table(features, {name: column for name, column in metadata.items() if name != "moa"})
    with pytest.raises(UserError, match=r"column 'well' has shape \(3,\), expected \[128\]"):
        profiles.table(features, {**metadata, "well": ["a", "b", "c"]})


def test_one_control_well_a_plate_is_grouped_by_site():
    rng = np.random.default_rng(7)
    columns = {"plate": np.repeat(["w1_1", "w1_2"], 20), "well": ["B02"] * 40, "site": np.tile(np.arange(20), 2)}
    columns |= {"compound": ["DMSO"] * 40, "concentration": ["0"] * 40, "moa": [""] * 40}
    features = rng.normal(size=(40, 2)) + np.where(columns["plate"] == "w1_1", 10, 0)[:, None]
    told = mechanisms.predictability(profiles.table(features, columns), "plate")
    assert told == mechanisms.Predictability(1.0, 0.5, 2, "site")


def test_cell_counts_tell_only_more_or_less_than_the_controls():
    features, metadata = planted(np.random.default_rng(8), 0.0, n_cells=4)
    keep = (metadata["moa"] != "m0") | (np.arange(len(features)) % 4 == 0)
    counts = profiles.cell_counts(profiles.table(features[keep], {k: v[keep] for k, v in metadata.items()}))
    found = mechanisms.measure_sites(counts, correction="tvn", permutations=0)
    assert found.nsc is not None
    assert found.nsc.right[found.nsc.moa == "m0"] == pytest.approx(1)
    # The other twelve equal the controls: zero profiles, whose eleven to fifteen neighbours all tie.
    assert found.nsc.right[found.nsc.moa == "m1"] == pytest.approx(3 / 15)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_pixel_statistics_are_scipys(dtype):
    rng = np.random.default_rng(9)
    images = rng.integers(0, 65536, (5, 12, 9, 3)).astype(np.uint16)
    images[..., 1] = images[..., 0] // 2
    images[4, ..., 2] = 1000
    scaled = images / 65535
    found = profiles.pixel_statistics(images if dtype == np.uint16 else scaled.astype(np.float32))
    assert found.shape == (5, 24)
    for image, row in zip(scaled, found):
        flat = image.reshape(-1, 3)
        np.testing.assert_allclose(row[:3], flat.mean(0), atol=1e-6)
        np.testing.assert_allclose(row[3:6], flat.std(0), atol=1e-6)
        by_scipy = [stats.scoreatpercentile(flat, q, axis=0) for q in (1, 25, 50, 75, 99)]
        np.testing.assert_allclose(row[6:21].reshape(5, 3), by_scipy, atol=1e-6)
        assert row[21] == pytest.approx(stats.pearsonr(flat[:, 0], flat[:, 1])[0], abs=1e-6)
    assert found[0, 22] == pytest.approx(
        stats.pearsonr(scaled[0, ..., 0].ravel(), scaled[0, ..., 2].ravel())[0], abs=1e-6
    )
    np.testing.assert_allclose(found[4, 22:], 0, atol=1e-9)


def official_sites() -> dict[str, np.ndarray]:
    path = OFFICIAL / "BBBC021_v1_image.csv.gz"
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return columns_of(columns, str(path), str(OFFICIAL / "BBBC021_v1_moa.csv"))


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="needs BBBC021's metadata in SSLJAX_TEST_DATA/bbbc021")
def test_the_official_tables_give_the_published_counts_and_chances():
    rng = np.random.default_rng(10)
    metadata = official_sites()
    sites = profiles.site_profiles(profiles.table(rng.normal(size=(len(metadata["site"]), 8)), metadata))
    assert len(sites.features) == 13_200 and len(np.unique(sites.columns["batch"])) == 10
    treatments = profiles.treatment_profiles(mechanisms.corrected(sites, "tvn+coral"))
    same, both = mechanisms.nsc(treatments), mechanisms.nscb(treatments)
    assert (len(same.moa), len(set(same.moa.tolist()))) == (103, 12)
    assert (len(both.moa), len(set(both.moa.tolist()))) == (92, 10)
    assert both.left_out["mechanism in one batch"] == 11 and "no allowed neighbour" not in both.left_out
    assert same.chance == pytest.approx(0.060, abs=5e-4) and both.chance == pytest.approx(0.066, abs=5e-4)
    for test in (same, both):  # the features are noise
        assert test.permuted == pytest.approx(test.chance, abs=0.005)
        assert stats.binomtest(round(test.right.sum()), len(test.moa), test.chance).pvalue > 1e-3
