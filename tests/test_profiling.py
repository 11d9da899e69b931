"""Profiles as an evaluation: of all splits' images, with what they are compared with."""

import numpy as np
import pytest

from ssljax import measuring, profiling, protocol
from ssljax.data.splits import Dataset, Split
from ssljax.errors import UserError
from ssljax.evaluate.mechanisms import measure_profiles, measure_sites
from ssljax.evaluate.profiles import pixel_statistics, site_profiles, standardize, table
from ssljax.report import tables
from ssljax.representation import Representation


def _cells():
    """Two mechanisms of two compounds each, one of each in a week of two plates; a site a well: three cells, treated ones two."""
    rows = []
    for week in "12":
        for plate in "ab":
            for well in range(6):
                rows += [("DMSO", "0", f"Week{week}_{plate}", f"c{well}", "")] * 3
            for compound, moa in (("w", "x"), ("t", "y")) if week == "1" else (("v", "x"), ("s", "y")):
                rows += [(compound, "1", f"Week{week}_{plate}", compound, moa)] * 2
    compound, concentration, plate, well, moa = map(np.array, zip(*rows))
    return dict(compound=compound, concentration=concentration, plate=plate, well=well, site=well, moa=moa)


@pytest.fixture
def planted():
    columns, rng = _cells(), np.random.default_rng(0)
    order = rng.permutation(len(columns["moa"]))
    parts = np.split(order, [30, 50])
    images = rng.integers(0, 2**16, (len(order), 4, 4, 2), np.uint16)

    def split(rows):
        return Split(images[rows], None, {name: column[rows] for name, column in columns.items()})

    splits = dict(zip(("train", "validation", "test"), map(split, parts)))
    return Dataset("cells", splits, None, (0.5, 0.5), (0.2, 0.2), "f")


def _features(split, rng):
    """A direction for each mechanism, and noise."""
    moa = split.columns["moa"]
    means = np.stack([(moa == "x") * 8, (moa == "y") * 8, np.zeros(len(moa))], axis=1)
    return np.stack([means + rng.normal(0, 1, means.shape) for _ in range(2)]).astype(np.float32)


def test_profiles_are_of_the_images_of_all_splits(tiny, planted, tmp_path):
    rng = np.random.default_rng(1)
    by_split = {name: _features(split, rng) for name, split in planted.splits.items()}
    columns = {"method": "simclr", "backbone": "vgg", "transforms": "t", "epoch": 1}
    # The validation images have no labels here, so that their features are made when they are asked for.
    shown = Representation(
        by_split["train"], by_split["test"], ("p/5", "p/6"), (5, 6), ({}, {}), columns, trained=object(),  # type: ignore[arg-type]
        extract=lambda images: by_split["validation"],
    )  # fmt: skip
    config = tiny(evaluations=("profiles",))
    profiling.check(config, planted)
    rows, by_class = measuring.measure(config, planted, shown, None)
    values = {(r["seed"], r["target"], r["metric"]): r["value"] for r in rows}
    metadata = {
        name: np.concatenate([split.columns[name] for split in planted.splits.values()]) for name in profiling.NEEDED
    }
    for i, seed in enumerate((5, 6)):
        whole = np.concatenate([by_split[name][i] for name in planted.splits])
        expected, _ = measure_profiles(whole, metadata, random_state=seed).measurements()
        assert {(m.target, m.metric): m.value for m in expected} == {
            k[1:]: v for k, v in values.items() if k[0] == seed
        }
        assert values[seed, "moa", "nsc"] == values[seed, "moa", "nscb"] == 1
        assert values[seed, "moa", "nsc_chance"] == pytest.approx(1 / 3)  # one of three others
        assert values[seed, "moa", "nscb_chance"] == pytest.approx(1 / 2)  # one of the other week's two
    assert {(r["class"], r["metric"], r["value"]) for r in by_class} >= {("x", "nsc", 1.0), ("y", "nsc", 1.0)}
    (row, chance) = tables.summary(rows)
    assert chance.setting.method == "chance" and chance.stats["profiles", "moa", "nsc"].mean == pytest.approx(1 / 3)
    assert chance.stats["profiles", "plate", "accuracy"].mean == pytest.approx(1 / 4)
    drawn = tables.format_text([row, chance], None, protocol.table_columns([config]))
    assert drawn.splitlines()[0].split()[:3] == ["NSC", "NSCB", "Plate"] and "crop level" in drawn


def test_pixel_statistics_and_cell_counts_stand_beside(tiny, planted):
    statistics, counts = profiling.baselines(planted, (5, 6), "pixels-cells")
    assert counts.names == ("cell_count-cells/seed=5", "cell_count-cells/seed=6")
    for name, features in (("train", counts.train), ("test", counts.test), ("validation", counts.validation)):
        control = planted.splits[name].columns["compound"] == "DMSO"
        np.testing.assert_array_equal(features[1, :, 0], np.where(control, 3, 2))
    rows, _ = measuring.measure(tiny(evaluations=("profiles",)), planted, statistics, None)
    metadata = profiling.metadata_of(planted)
    whole = np.concatenate([pixel_statistics(split.images) for split in planted.splits.values()])
    sites = standardize(site_profiles(table(whole, metadata)))
    expected, _ = measure_sites(sites, random_state=6).measurements()
    found = {(r["target"], r["metric"]): r["value"] for r in rows if r["seed"] == 6}
    assert found == {(m.target, m.metric): m.value for m in expected}
    assert {r["method"] for r in rows} == {"pixels"} and {r["run"] for r in rows} == set(statistics.names)
    rows, _ = measuring.measure(tiny(evaluations=("profiles",)), planted, counts, None)
    # All treated sites have as many cells: no profile is nearer than another.
    assert [r["value"] for r in rows if r["metric"] == "nsc"] == pytest.approx([1 / 3] * 2)
    assert {r["method"] for r in rows} == {"cell_count"}


def test_profiles_that_cannot_be_made_are_refused_before_training(tiny, planted, caplog):
    config = tiny(evaluations=("profiles",))

    def without(**columns):
        splits = {
            name: split._replace(
                columns={k: columns.get(k, lambda v: v)(v) for k, v in split.columns.items() if columns.get(k, 1)}
            )
            for name, split in planted.splits.items()
        }
        return planted._replace(splits=splits)

    message = "--evaluations: profiles needs the columns compound, concentration, plate, well, site, moa; digits has no site, moa"
    with pytest.raises(UserError, match=message):
        profiling.check(config, without(site=None, moa=None))
    with pytest.raises(UserError, match="--evaluations: profiles: a concentration is no number"):
        profiling.check(config, without(concentration=lambda v: np.char.add(v, "x")))
    with pytest.raises(UserError, match="--evaluations: .*unknown control compound 'DMSO'"):
        profiling.check(config, without(compound=lambda v: np.char.replace(v, "DMSO", "water")))
    profiling.check(tiny(evaluations=("knn",)), without(site=None))


def test_too_few_treatments_are_said_and_have_no_rows(tiny, planted, caplog):
    splits = {
        n: s._replace(columns={**s.columns, "moa": np.full(len(s.images), "")}) for n, s in planted.splits.items()
    }
    (shown, _) = profiling.baselines(planted._replace(splits=splits), (5, 6), "pixels")
    config = tiny(evaluations=("profiles",))
    profiling.check(config, planted._replace(splits=splits))
    with caplog.at_level("WARNING", logger="ssljax"):
        rows, _ = measuring.measure(config, planted._replace(splits=splits), shown, None)
    assert {r["target"] for r in rows} == {"plate", "batch"}
    assert caplog.text.count("no such rows") == 2  # nsc and nscb, once each for both seeds
