"""Held-out parts: class counts, disjointness, determinism, and which split plays which part."""

import numpy as np
import pytest

from ssljax.data.splits import grouped, plan, stratified
from ssljax.errors import UserError


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.9])
def test_each_class_gives_its_share(fraction):
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(4), [10, 20, 70, 401]))
    kept, held = stratified(len(labels), labels, fraction)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert len(held) == round(len(labels) * fraction)
    share = np.bincount(labels[held], minlength=4)
    exact = np.bincount(labels) * fraction
    assert np.all(np.abs(share - exact) < 1)
    # Drawn, not the first ones: the mean position is that of a uniform draw.
    assert abs(held.mean() / len(labels) - 0.5) < 0.2
    again = stratified(len(labels), labels.copy(), fraction)
    np.testing.assert_array_equal(again[1], held)


def test_a_class_never_gives_its_last_image():
    labels = np.array([0, 1, 1, 2, 2, 2])
    kept, held = stratified(6, labels, 0.9)
    assert set(labels[kept]) == {0, 1, 2}
    np.testing.assert_array_equal(np.bincount(labels[held], minlength=3), [0, 1, 2])


def test_without_labels_all_images_are_alike():
    kept, held = stratified(50, None, 0.3)
    assert len(held) == 15 and not set(kept) & set(held)


def test_test_split_is_never_drawn_from():
    labels = np.arange(100) % 5
    parts = plan({"train": 100, "test": 10}, {"train": labels, "test": labels[:10]}, 0.25, "set")
    assert list(parts) == ["train", "validation", "test"]
    assert parts["test"] == ("test", None)
    (_, kept), (origin, held) = parts["train"], parts["validation"]
    assert origin == "train" and len(held) == 25
    np.testing.assert_array_equal(np.bincount(labels[held]), [5] * 5)
    assert sorted([*kept, *held]) == list(range(100))


def test_validation_plays_test_and_a_lone_train_is_divided_twice():
    labels = np.arange(100) % 5
    parts = plan({"train": 100, "validation": 10}, {"train": labels, "validation": None}, 0.0, "set")
    assert parts == {"train": ("train", None), "test": ("validation", None)}
    parts = plan({"train": 100}, {"train": labels}, 0.25, "set")
    sizes = {split: len(rows) for split, (_, rows) in parts.items()}
    assert sizes == {"train": 60, "validation": 20, "test": 20}
    assert len(set(np.concatenate([rows for _, rows in parts.values()]))) == 100
    for _, rows in parts.values():
        assert len(set(np.bincount(labels[rows]))) == 1
    # Asking for a validation split leaves the test split as it was.
    without = plan({"train": 100}, {"train": labels}, 0.0, "set")
    np.testing.assert_array_equal(without["test"][1], parts["test"][1])


def test_a_validation_split_of_the_source_stands():
    sizes = {"train": 10, "validation": 5, "test": 5}
    parts = plan(sizes, dict.fromkeys(sizes), 0.5, "set")
    assert parts == {split: (split, None) for split in sizes}


def test_too_few_images():
    with pytest.raises(UserError, match="set: 1 train images are too few to hold out 0.2 of them for test"):
        plan({"train": 1}, {"train": None}, 0.0, "set")


@pytest.mark.parametrize("fraction", [0.125, 0.2, 0.5])
def test_whole_groups_are_held_out(fraction):
    random = np.random.default_rng(5)
    sizes = random.integers(1, 40, 90)
    groups = np.repeat([f"g{i}" for i in random.permutation(90)], sizes)
    labels = np.where(np.repeat(np.arange(90) % 3 == 0, sizes), 1, 0)
    order = random.permutation(len(groups))
    groups, labels = groups[order], labels[order]
    kept, held = grouped(groups, labels, fraction)
    assert sorted([*kept, *held]) == list(range(len(groups)))
    assert not set(groups[kept]) & set(groups[held])
    # Near what is asked for, class by class: by far less than the size of a group.
    np.testing.assert_allclose(np.bincount(labels[held]), np.bincount(labels) * fraction, atol=3)
    np.testing.assert_array_equal(grouped(groups, labels, fraction)[1], held)


def test_groups_of_mixed_classes_and_no_labels():
    groups = np.repeat(np.arange(50), 8)
    labels = np.random.default_rng(0).integers(0, 4, 400)
    _, held = grouped(groups, labels, 0.2)
    np.testing.assert_allclose(np.bincount(labels[held]), np.bincount(labels) * 0.2, atol=6)
    assert len(grouped(groups, None, 0.2)[1]) == 80


def test_a_class_never_gives_its_last_group():
    groups, labels = np.array(list("aabbcc")), np.array([0, 0, 1, 1, 1, 1])
    kept, held = grouped(groups, labels, 0.9)
    assert set(labels[kept]) == {0, 1} and set(labels[held]) == {1}


def test_groups_stay_together_through_both_draws_or_are_refused():
    groups = np.repeat(np.arange(40), 5).astype(str)
    parts = plan({"train": 200}, {"train": None}, 0.125, "set", groups)
    assert {split: len(rows) for split, (_, rows) in parts.items()} == {"train": 140, "validation": 20, "test": 40}
    sets = [set(groups[rows]) for _, rows in parts.values()]
    assert sum(map(len, sets)) == 40 == len(set.union(*sets))
    with pytest.raises(
        UserError, match="set: 200 train images in 1 group are too few to hold out 0.2 of them for test"
    ):
        plan({"train": 200}, {"train": None}, 0.0, "set", np.full(200, "a"))


def test_groups_are_drawn_from_all_batches_alike():
    """Eighteen sites of ten cells, three of each treatment on each plate: a third is one site of each of the six pairs."""
    plate, drug, site = (axis.repeat(10) for axis in np.meshgrid(range(3), range(2), range(3), indexing="ij"))
    groups = plate * 6 + drug * 3 + site
    kept, held = grouped(groups, drug, 1 / 3, plate)
    assert not set(groups[kept]) & set(groups[held])
    pairs, counts = np.unique(plate[held] * 2 + drug[held], return_counts=True)
    assert list(pairs) == list(range(6)) and set(counts) == {10}
    # Where a plate is a group, whole plates go, though no draw could then take from all of them.
    parts = plan({"train": 180}, {"train": drug}, 0.0, "cells", plate, plate)
    assert len(set(plate[parts["test"][1]])) == 1
