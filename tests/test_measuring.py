"""Evaluations of a representation: validation rows beside the test rows, and class properties."""

import numpy as np
import pytest

from ssljax import measuring, pipeline, representation
from ssljax.data import Dataset, Split
from ssljax.errors import UserError
from ssljax.study.groups import properties_from
from ssljax.study.properties import FEATURE_PROPERTIES, IMAGE_PROPERTIES, of_features, of_images

NAMES = ("left", "right", "top")


@pytest.fixture
def planted():
    """Images of a bright half each. The validation split is the test split with the labels of two classes exchanged."""
    rng = np.random.default_rng(0)

    def split(n):
        labels = np.arange(n, dtype=np.int32) % 3
        images = rng.integers(0, 60, (n, 8, 8, 1), np.uint8)
        for image, label in zip(images, labels):
            image[(np.s_[:, :4], np.s_[:, 4:], np.s_[:4])[label]] += 150
        return Split(images, labels)

    test = split(30)
    validation = Split(test.images, np.array([1, 0, 2], np.int32)[test.labels])
    return Dataset("bars", {"train": split(90), "validation": validation, "test": test}, NAMES, (0.5,), (0.2,), "f")


def by_key(rows, *keys):
    return {tuple(row[key] for key in keys): row["value"] for row in rows}


def test_classifiers_are_measured_on_validation_images_beside_the_test_images(tiny, planted, tmp_path):
    config = tiny(evaluations=("linear", "knn"), probe_features="raw", probe_epochs=20)
    shown = representation.pixels(planted, (5, 6), "pixels")
    rows, class_rows = measuring.measure(config, planted, shown, tmp_path / "a.npz")
    overall = by_key(rows, "seed", "evaluation", "metric")
    accuracy = by_key([row for row in class_rows if row["metric"] == "accuracy"], "seed", "evaluation", "class")
    for seed in (5, 6):
        for name in ("linear", "knn"):
            assert overall[seed, name, "top1"] == 1
            assert overall[seed, f"{name}@validation", "top1"] == pytest.approx(1 / 3)
            found = [accuracy[seed, f"{name}@validation", each] for each in NAMES]
            assert found == [0, 0, 1]
            assert [accuracy[seed, name, each] for each in NAMES] == [1, 1, 1]
    unlabelled = planted._replace(
        splits={**planted.splits, "validation": planted.splits["validation"]._replace(labels=None)}
    )
    assert representation.pixels(unlabelled, (5,), "pixels").validation is None


def test_validation_rows_are_what_measuring_on_validation_images_gives(tiny, one_layer, tmp_path):
    def measured(**other):
        config = tiny(
            backbone=one_layer, validation_fraction=0.2, evaluations=("knn", "linear"), pretrained="random", **other
        )
        (program,) = pipeline.plan([config])
        shown = representation.represent(program.config, pipeline.untrained(program), program.dataset, "p")
        rows = measuring.measure(program.config, program.dataset, shown, tmp_path / "a.npz")
        return shown, [by_key(each, "evaluation", "metric", *keys) for each, keys in zip(rows, ((), ("class",)))]

    shown, beside = measured()
    alone, only = measured(evaluate_on="validation")
    np.testing.assert_array_equal(shown.validation, alone.test)
    assert alone.validation is None
    for tables, of_validation in zip(beside, only):
        assert {
            (key[0].removesuffix("@validation"), *key[1:]): value for key, value in tables.items() if "@" in key[0]
        } == (of_validation)
    assert beside[0]["knn", "top1"] != beside[0]["knn@validation", "top1"]


def test_properties_are_of_the_training_images(tiny, planted, tmp_path):
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=(2, 90, 6)), rng.normal(size=(2, 30, 6))
    config = tiny(evaluations=("properties",))
    columns = {"method": "pretrained", "backbone": "vgg", "transforms": "", "epoch": 3}
    # any encoder will do: its features are there
    encoder = representation.Representation(train, test, ("e/5", "e/6"), (5, 6), ({}, {}), columns, trained=object())  # type: ignore[arg-type]
    tables = [
        measuring.measure(config, planted, shown, tmp_path / "a.npz")
        for shown in (encoder, representation.pixels(planted, (5,), "pixels"))
    ]
    assert [rows for rows, _ in tables] == [[], []]
    labels = planted.splits["train"].labels
    for i, features in enumerate(train):
        own = by_key(
            [row for row in tables[0][1] if row["run"] == encoder.names[i]], "evaluation", "target", "metric", "class"
        )
        expected = of_features(features, labels, NAMES)
        assert own == {
            ("properties", "label", p, c): expected[p][j] for p in FEATURE_PROPERTIES for j, c in enumerate(NAMES)
        }
    images = of_images(planted.splits["train"].images, labels, NAMES)
    read, whose = properties_from([*tables[0][1], *tables[1][1]], config.dataset)
    assert set(read) == {*FEATURE_PROPERTIES, *IMAGE_PROPERTIES}
    for name in IMAGE_PROPERTIES:
        assert read[name] == {c: pytest.approx(images[name][j]) for j, c in enumerate(NAMES)}
    assert "of a pretrained vgg, mean over 2 runs" in whose


def test_properties_need_labels_and_their_libraries(tiny, planted, monkeypatch):
    config = tiny(evaluations=("properties",))
    unlabelled = {name: split._replace(labels=None) for name, split in planted.splits.items()}
    with pytest.raises(UserError, match="--evaluations: properties are of classes and digits has no labels"):
        measuring.check(config, planted._replace(splits=unlabelled))
    monkeypatch.setattr(measuring.properties.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"class properties: needs scikit-dimension; pip install 'ssljax\[study\]'"):
        measuring.check(config, planted)
