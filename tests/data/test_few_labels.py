"""Few labels and few images: counts by class, the published lists of ImageNet, and parts of a set with figures of their own."""

import numpy as np
import pytest

from ssljax import data
from ssljax.data import labels as few
from ssljax.data import miniature
from ssljax.data.splits import Dataset, Split
from ssljax.errors import UserError

COUNTS = [400, 100, 57, 43]
LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(4), COUNTS))


@pytest.mark.parametrize("percent", [0.5, 1, 10, 33.3, 50, 99, 100])
def test_a_stratified_part_of_the_labels(percent):
    chosen = few.subset(LABELS, percent)
    share = np.bincount(LABELS[chosen], minlength=4)
    assert len(chosen) == max(4, round(600 * percent / 100)) and len(set(chosen)) == len(chosen)
    assert np.all(np.diff(chosen) > 0) and share.min() >= 1
    if percent > 1:
        assert np.all(np.abs(share - np.array(COUNTS) * percent / 100) < 1)
        assert abs(chosen.mean() / 600 - 0.5) < 0.1  # drawn from everywhere
    np.testing.assert_array_equal(few.subset(LABELS.copy(), percent), chosen)


def test_rare_classes_have_an_image_and_the_total_stands():
    rare = np.array([0] * 10_000 + [kind for kind in range(1, 101) for _ in range(10)])
    chosen = few.subset(rare, 1)
    np.testing.assert_array_equal(np.bincount(rare[chosen]), [10] + [1] * 100)
    assert few.subset(np.arange(30), 10).tolist() == list(range(30))


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan")])
def test_percentages_out_of_range(percent):
    with pytest.raises(UserError, match="expected a percentage above 0 and at most 100"):
        few.subset(LABELS, percent)


def test_the_part_of_any_set_is_of_its_training_images():
    digits = data.load("digits", validation_fraction=0.2)
    train = digits.splits["train"]
    part = few.labelled_part("digits", digits, 10)
    assert part.images.shape[1:] == (8, 8, 1) and len(part.images) == len(part.labels) == round(0.1 * len(train.labels))
    by_image = {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)}
    assert [by_image[image.tobytes()] for image in part.images] == part.labels.tolist()
    with pytest.raises(UserError, match="10 % of the labels: the training images of digits have no class each"):
        few.labelled_part("digits", digits._replace(splits={"train": Split(train.images, None)}), 10)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    for name in ("imagenet2012", "imagenet2012_subset/1pct", "imagenet2012_subset/10pct"):
        miniature.make(name, root)
    return {"data_dir": str(root), "cache_dir": str(root / "cache"), "image_size": 16}


@pytest.mark.parametrize("name", ["imagenet2012", "imagenet2012:5.1.0", "imagenet2012:5.*.*"])
@pytest.mark.parametrize("percent, count", [(1, 64), (10, 160)])
def test_imagenets_lists(imagenet, name, percent, count):
    whole = data.load(name, **imagenet)
    part = few.labelled_part(name, whole, percent, **imagenet)
    listed = data.load(f"imagenet2012_subset/{percent}pct", **imagenet).splits["train"]
    np.testing.assert_array_equal(part.images, listed.images)
    np.testing.assert_array_equal(part.labels, listed.labels)
    train = whole.splits["train"]
    place = {image.tobytes(): i for i, image in enumerate(train.images)}
    found = [place[image.tobytes()] for image in part.images]  # the very images of the set, with their labels
    assert len(set(found)) == count and set(part.labels) == set(range(10))
    np.testing.assert_array_equal(train.labels[found], part.labels)


def test_other_percentages_of_imagenet_and_lists_of_other_classes(imagenet):
    whole = data.load("imagenet2012", **imagenet)
    part = few.labelled_part("imagenet2012", whole, 20, **imagenet)
    np.testing.assert_array_equal(
        part.images, whole.splits["train"].images[few.subset(whole.splits["train"].labels, 20)]
    )
    renamed = whole._replace(class_names=whole.class_names[::-1])
    with pytest.raises(UserError, match="imagenet2012_subset/1pct: its classes are not those of imagenet2012"):
        few.labelled_part("imagenet2012", renamed, 1, **imagenet)
    with pytest.raises(UserError, match=r"images \(12, 12, 3\), those of imagenet2012 are \(16, 16, 3\)"):
        few.labelled_part("imagenet2012", whole, 1, **{**imagenet, "image_size": 12})


def test_listed_images_that_are_held_out_have_no_label_to_give(imagenet):
    held = data.load("imagenet2012", validation_fraction=0.95, **imagenet)
    listed = data.load("imagenet2012_subset/10pct", **imagenet).splits["train"]
    training = {image.tobytes() for image in held.splits["train"].images}
    expected = [image for image in listed.images if image.tobytes() in training]
    assert 0 < len(expected) < 160
    # Measured on the held-out images, they stand in the place of test.
    measured = held._replace(splits={"train": held.splits["train"], "test": held.splits["validation"]})
    for one in (held, measured):
        np.testing.assert_array_equal(few.labelled_part("imagenet2012", one, 10, **imagenet).images, expected)


def test_a_part_of_each_split(imagenet):
    whole = data.load("imagenet2012", **imagenet)
    part = data.part(whole, 100)
    for split, origin in whole.splits.items():
        images, labels, _ = part.splits[split]
        place = {image.tobytes(): i for i, image in enumerate(origin.images)}
        rows = [place[image.tobytes()] for image in images]
        assert len(set(rows)) == 100 and np.all(np.diff(rows) > 0) and not images.flags.writeable
        np.testing.assert_array_equal(origin.labels[rows], labels)
        np.testing.assert_array_equal(np.bincount(labels), [10] * 10)
    pixels = part.splits["train"].images / 255
    np.testing.assert_allclose(part.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(part.std, pixels.std((0, 1, 2)), rtol=1e-12)
    assert part.class_names == whole.class_names and part.name == whole.name
    prints = {one.fingerprint for one in (whole, part, data.part(whole, 99))}
    assert len(prints) == 3 and data.part(whole, 100).fingerprint == part.fingerprint


def test_small_splits_and_small_sets_stay_whole():
    digits = data.load("digits")  # 1438 and 359
    part = data.part(digits, 400)
    assert len(part.splits["train"].images) == 400
    assert part.splits["test"].images is digits.splits["test"].images
    assert data.part(digits, 0) is digits and data.part(digits, 1438) is digits


def test_a_part_with_fewer_images_than_classes_or_without_labels():
    images = np.random.default_rng(0).integers(0, 256, (50, 2, 2, 1), np.uint8)
    many = np.where(np.eye(5, dtype=bool)[np.arange(50) % 5], 1, -1).astype(np.int8)
    for labels in (np.arange(50, dtype=np.int32) % 20, None, many):
        splits = {"train": Split(images, labels), "test": Split(images[:3], None if labels is None else labels[:3])}
        whole = Dataset("made", splits, None, (0.5,), (0.2,), "")
        found = data.part(whole, 7).splits["train"]
        place = {image.tobytes(): i for i, image in enumerate(images)}
        rows = [place[image.tobytes()] for image in found.images]
        assert len(set(rows)) == 7
        if labels is not None:
            np.testing.assert_array_equal(found.labels, labels[rows])
