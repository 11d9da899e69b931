"""Clusters against labels and columns, of test and validation images; a compound's cells concentration by concentration."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from ssljax import clustering, measuring, protocol, representation
from ssljax.config import evaluation_parts
from ssljax.data.splits import Dataset, Split
from ssljax.errors import UserError
from ssljax.evaluate.clustering import kmeans


def _split(values, labels, **columns):
    """Images of one grey value each."""
    images = np.asarray(values, np.uint8)[:, None, None, None] * np.ones((len(values), 2, 2, 1), np.uint8)
    return Split(images, np.asarray(labels, np.int32), {name: np.array(text) for name, text in columns.items()})


@pytest.fixture
def planted():
    """Four grey levels: the label is the upper half, the plate the level's parity; the validation images are of three levels."""
    levels = np.repeat([0, 60, 150, 210], 6)
    plate = [("a", "b")[i // 6 % 2] for i in range(24)]
    moa = ["" if i % 2 else str(i // 6) for i in range(24)]
    test = _split(levels + np.tile(range(6), 4), levels > 100, plate=plate, moa=moa, week=["w"] * 24)
    validation = _split(
        [0, 1, 2, 100, 101, 102, 200, 201],
        [0, 0, 0, 1, 1, 1, 0, 0],
        plate=list("aaabbbaa"),
        moa=[""] * 8,
        week=["w"] * 8,
    )
    splits = {"train": test, "validation": validation, "test": test}
    return Dataset("levels", splits, ("low", "high"), (0.5,), (0.2,), "f")


def _measured(config, dataset, path):
    rows, by_class = measuring.measure(config, dataset, representation.pixels(dataset, config.seeds, "pixels"), path)
    values = {(r["seed"], r["evaluation"], r["target"], r["metric"]): r["value"] for r in rows}
    return values, by_class


def test_clusters_are_scored_against_each_column_on_both_splits(tiny, planted, tmp_path):
    config = tiny(evaluations=("kmeans", "kmeans@k4"), score=("plate", "moa", "week"), seeds=(5, 6))
    values, by_class = _measured(config, planted, tmp_path / "a.npz")
    assert not by_class
    for seed in (5, 6):
        assert values[seed, "kmeans", "label", "ami"] == pytest.approx(1)
        # two clusters of two levels each say nothing of the parity: below what chance gives
        assert values[seed, "kmeans", "plate", "ami"] < 0
        assert values[seed, "kmeans@k4", "moa", "ami"] == pytest.approx(1)  # of those whose mechanism is known
        assert 0 < values[seed, "kmeans@k4", "plate", "ami"] < 0.6
        for name, k in (("kmeans", 2), ("kmeans@k4", 4)):
            for split, ending in (("test", ""), ("validation", "@validation")):
                held = planted.splits[split]
                points = held.images.reshape(len(held.images), -1) / 255
                found = kmeans(points, k, random_state=seed).assignment
                for target, truth in (("label", held.labels), ("plate", held.columns["plate"])):
                    expected = adjusted_mutual_info_score(truth, found, average_method="max")
                    assert values[seed, name + ending, target, "ami"] == pytest.approx(expected, abs=1e-9)
    assert not [key for key in values if key[2] == "week"]  # the same for all
    assert not [key for key in values if key[1].endswith("@validation") and key[2] == "moa"]  # known for none
    with np.load(tmp_path / "a.npz") as file:
        assert {"clusters", "distance", "clusters@k4", "distance@k4", "column_plate", "column_moa"} <= set(file)
        assert [len(np.unique(file[name][0])) for name in ("clusters", "clusters@k4")] == [2, 4]
    titles = [column.title for column in protocol.table_columns([config])]
    assert titles[:4] == ["Silhouette", "AMI", "AMI plate", "AMI moa"]
    assert {"AMI, k = 4", "AMI plate, k = 4"} <= set(titles)


def test_more_clusters_than_validation_images_have_no_rows(tiny, planted, tmp_path):
    config = tiny(evaluations=("kmeans@k9",), seeds=(5,))
    values, _ = _measured(config, planted, tmp_path / "a.npz")
    assert {key[1] for key in values} == {"kmeans@k9"}


def test_what_cannot_be_clustered_is_refused(tiny, planted):
    with pytest.raises(UserError, match="--score: unknown column 'plates'; did you mean 'plate'?"):
        clustering.check(tiny(score=("plates",)), planted)
    bare = planted._replace(splits={name: split._replace(columns={}) for name, split in planted.splits.items()})
    with pytest.raises(UserError, match="--score: plate: no more is known of the images of digits than their labels"):
        clustering.check(tiny(score=("plate",)), bare)
    with pytest.raises(UserError, match="--evaluations: kmeans@k30: 30 is more than the 24 test images"):
        clustering.check(tiny(evaluations=("kmeans@k30",)), planted)
    with pytest.raises(
        UserError, match="dose needs the columns compound, concentration, plate; digits has no compound"
    ):
        clustering.check(tiny(evaluations=("dose",)), planted)


@pytest.mark.parametrize("name", ["kmeans@k1", "kmeans@4", "kmeans@", "kmeans@k", "kmeans@k4@k5"])
def test_clusters_are_two_or_more(name):
    assert evaluation_parts("kmeans@k12") == ("kmeans", "k12")
    with pytest.raises(UserError, match="--evaluations: expected two clusters or more after the @"):
        evaluation_parts(name) if name != "kmeans@" else evaluation_parts("kmeans@k0")


@pytest.fixture
def cells():
    """Untreated cells at 100 on plate p, at 103 on q; taxol at .3 like them, at 3 and (on q) 10 far from them, at 30 two cells."""
    value = [*[100] * 20, *[103] * 20, *[101] * 10, *[200] * 10, *[90] * 6, *[240] * 2]
    compound = ["DMSO"] * 40 + ["taxol"] * 28
    concentration = ["0"] * 40 + ["0.3"] * 10 + ["3"] * 10 + ["10"] * 6 + ["30"] * 2
    plate = ["p"] * 20 + ["q"] * 20 + ["p"] * 20 + ["q"] * 8
    noise = np.random.default_rng(0).integers(-1, 2, len(value))
    test = _split(
        np.array(value) + noise,
        np.array(compound) == "taxol",
        compound=compound,
        concentration=concentration,
        plate=plate,
    )
    return Dataset("cells", {"train": test, "test": test}, ("DMSO", "taxol"), (0.5,), (0.2,), "f")


def test_dose_is_of_equal_numbers_on_the_same_plates(tiny, cells, tmp_path, caplog):
    config = tiny(evaluations=("dose",), compound="Taxol", seeds=(5, 6))
    with caplog.at_level("WARNING", logger="ssljax"):
        clustering.check(config, cells)
    assert "dose: digits has 2 at 30 of taxol with as many untreated of the same plates" in caplog.text
    found, _ = clustering._cells_by_concentration(config, cells)
    assert list(found) == ["0.3", "3", "10"]  # as numbers
    columns = cells.splits["test"].columns
    for name, plate, count in (("0.3", "p", 10), ("3", "p", 10), ("10", "q", 6)):
        held = {key: column[found[name]] for key, column in columns.items()}
        assert set(held["plate"]) == {plate}
        assert (held["concentration"] == name).sum() == (held["compound"] == "DMSO").sum() == count
    values, by_class = _measured(config, cells, tmp_path / "a.npz")
    assert not values
    ami = {(r["seed"], r["target"], r["class"]): r["value"] for r in by_class if r["metric"] == "ami"}
    assert len(ami) == 2 * 2 * 3
    for seed in (5, 6):
        assert ami[seed, "treated", "3"] == ami[seed, "treated", "10"] == pytest.approx(1)
        assert ami[seed, "treated", "0.3"] < 0.5
        assert abs(ami[seed, "shuffled", "3"]) < 0.4
    anywhere = tiny(evaluations=("dose",), compound="taxol", controls="any")
    assert set(columns["plate"][clustering._cells_by_concentration(anywhere, cells)[0]["3"]]) == {"p", "q"}


def test_dose_is_of_one_compound(tiny, cells):
    columns = dict(cells.splits["test"].columns)
    assert set(clustering._cells_by_concentration(tiny(evaluations=("dose",)), cells)[0]) == {"0.3", "3", "10"}
    columns["compound"] = np.where(columns["concentration"] == "3", "nocodazole", columns["compound"])
    two = cells._replace(splits={"test": cells.splits["test"]._replace(columns=columns)})
    with pytest.raises(UserError, match="dose is of one compound, digits has 2 compounds; give one by --compound"):
        clustering.check(tiny(evaluations=("dose",)), two)
    assert set(clustering._cells_by_concentration(tiny(compound="NOCODAZOLE"), two)[0]) == {"3"}
    columns["concentration"] = np.array([f"{i}" for i in range(68)])
    with pytest.raises(UserError, match="dose: digits has 1 at 50, "):
        clustering.check(tiny(evaluations=("dose",), compound="nocodazole"), two)
