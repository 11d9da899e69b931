"""Miniatures: in the layout of the real set, read by the reader of the real set, made once, the same everywhere, learnable."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from ssljax import data
from ssljax.data import miniature, transfer
from ssljax.errors import UserError

FEW = {"train": 80, "validation": 20, "test": 20}  # in place of 512 and 128: drawing is what costs time here
TWO = {"train": 80, "test": 20}
# Splits as the real sets have them, number of classes and the last of those made, from the sets' papers and pages.
SETS = {
    "aircraft": (FEW, 10, "737-900"),
    "caltech101": (TWO, 102, "bonsai"),
    "cars": (TWO, 196, "Aston Martin Virage Convertible 2012"),
    "cifar10": (TWO, 10, "truck"),
    "cifar100": (TWO, 100, "bottle"),
    "dtd": (FEW, 47, "crystalline"),
    "flowers": (FEW, 102, "globe thistle"),
    "food": (TWO, 101, "breakfast_burrito"),  # its validation images play test
    "pets": (TWO, 37, "British_Shorthair"),
    "sun397": (TWO, 397, None),
    "voc2007": (FEW, 20, "cow"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    return {"data_dir": str(root), "cache_dir": str(root / "cache")}


@pytest.mark.parametrize("name", SETS)
def test_transfer_sets_are_read_as_the_real_ones_would_be(name, folders, monkeypatch):
    monkeypatch.setattr(miniature, "SIZES", FEW)
    sizes, classes, tenth = SETS[name]
    dataset, metric = transfer.TRANSFER[name]
    assert not miniature.here(dataset, folders["data_dir"])
    assert miniature.make(dataset, folders["data_dir"]) == dataset
    assert miniature.here(dataset, folders["data_dir"])
    plain = data.load(dataset, image_size=16, **folders)
    assert {split: len(part.images) for split, part in plain.splits.items()} == sizes
    assert plain.splits["train"].images.shape[1:] == (16, 16, 3) and min(plain.std) > 0.1  # not the masks of the pets
    assert len(plain.class_names) == classes and (tenth is None or plain.class_names[9] == tenth)

    found, its = transfer.load(name, image_size=16, **folders)
    assert its == metric and metric == {"voc2007": "map11"}.get(
        name, "mean_per_class" if name in ("aircraft", "caltech101", "flowers", "pets") else "top1"
    )
    assert list(found.splits) == ["train", "validation", "test"]
    np.testing.assert_array_equal(found.splits["test"].images, plain.splits["test"].images)
    if "validation" in sizes:
        assert found.fingerprint == plain.fingerprint
        return
    # A fifth of the training images of each class.
    counts = [np.bincount(found.splits[split].labels, minlength=10) for split in ("train", "validation")]
    np.testing.assert_array_equal(sum(counts), np.bincount(plain.splits["train"].labels))
    assert counts[1].sum() == 16 and np.all(np.abs(counts[1] - sum(counts) / 5) < 1)


def test_other_sets_to_transfer_to():
    found, metric = transfer.load("digits")
    assert metric == "top1" and {split: len(part.images) for split, part in found.splits.items()} == {
        "train": 1150, "validation": 288, "test": 359,
    }  # fmt: skip


def test_a_set_without_labels_is_no_set_to_transfer_to(tmp_path):
    np.savez(tmp_path / "bare.npz", images=np.zeros((20, 4, 4, 1), np.uint8))
    with pytest.raises(UserError, match="npz:.*bare.npz: its train images have no labels to transfer to"):
        transfer.load(f"npz:{tmp_path}/bare.npz", cache_dir=str(tmp_path / "cache"))


def test_every_feature_of_a_set_is_there(folders, monkeypatch):
    monkeypatch.setattr(miniature, "SIZES", FEW)
    import tensorflow_datasets as tfds

    miniature.make("oxford_iiit_pet", folders["data_dir"])
    record = tfds.data_source("oxford_iiit_pet", split="train", data_dir=folders["data_dir"])[3]
    assert record["segmentation_mask"].shape == (*record["image"].shape[:2], 1)
    assert 36 <= record["image"].shape[0] <= 44 and record["file_name"].decode().endswith(".jpg")
    assert 0 <= record["head_bbox"].min() < record["head_bbox"].max() <= 1 and record["species"] in (0, 1)


def test_the_hundred_of_imagenet_and_superclasses(folders, monkeypatch):
    monkeypatch.setattr(miniature, "SIZES", FEW)
    name = miniature.make("imagenet100:/nowhere/ILSVRC", folders["data_dir"])
    found = data.load(name, image_size=8, **folders)
    assert np.bincount(found.splits["train"].labels).tolist() == [5] * 100
    assert np.bincount(found.splits["test"].labels).tolist() == [2] * 100
    above = data.superclasses("miniature:cifar100", "coarse_label", cache_dir=folders["cache_dir"])
    assert above["apple"] == "fruit_and_vegetables" and above["bed"] == "household_furniture" and len(above) == 10


def test_by_name_alone_and_made_once(tmp_path, monkeypatch):
    options = dict(cache_dir=str(tmp_path / "one"), image_size=16)
    first = data.load("miniature:mnist", **options)
    assert first.name == "miniature:mnist" and first.splits["train"].images.shape == (512, 16, 16, 1)
    other = data.load("miniature:mnist", **{**options, "cache_dir": str(tmp_path / "two")})
    assert other.fingerprint == first.fingerprint  # the same wherever it is made
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert not [path for path in files if ".new-" in str(path)]
    before = {path: path.stat().st_mtime_ns for path in files}
    monkeypatch.setattr(miniature, "_tfds", None)  # any attempt to make it again would fail
    assert data.load("miniature:mnist", **options).fingerprint == first.fingerprint
    assert {path: path.stat().st_mtime_ns for path in files} == before
    found, metric = transfer.load("miniature:mnist", **options)
    assert metric == "top1" and found.name == "miniature:mnist" and "validation" in found.splits


def test_a_miniature_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(path):
        (path / "half").write_text("")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(miniature, "_aircraft", fail)
    with pytest.raises(
        UserError, match="cannot write a made data set to .*fgvc-aircraft-2013b: No space left on device"
    ):
        miniature.make("aircraft:x", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["folder:x", "npz:x"])
def test_sets_without_a_layout_of_their_own(tmp_path, name):
    with pytest.raises(UserError, match=f"data set '{name}': its layout is its files'"):
        miniature.make(name, tmp_path)
    with pytest.raises(UserError, match="unknown data set 'no_such_set'"):
        miniature.make("no_such_set", tmp_path)
    assert miniature.make("digits", tmp_path) == "digits"


def test_what_is_here(tmp_path):
    place = str(tmp_path)
    assert miniature.here("digits", place)
    for name in ("imagenet2012", "aircraft:x", "imagenet100:x", "folder:x", "npz:x.npz", "no_such_set", "no such:set"):
        assert not miniature.here(name, place)
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 4, 4), np.uint8))
    assert miniature.here("npz:x.npz", place) and list(tmp_path.iterdir()) == [tmp_path / "x.npz"]


def test_the_classes_can_be_learned_but_not_from_pixels_alone(folders):
    """A linear classifier on the spectrum, which place and phase leave alone, tells the classes; one on raw pixels hardly does."""
    name = miniature.make("imagenet2012", folders["data_dir"])
    splits = data.load(name, image_size=32, **folders).splits

    def score(see):
        classifier = RidgeClassifier(100).fit(see(splits["train"].images), splits["train"].labels)
        return classifier.score(see(splits["test"].images), splits["test"].labels)

    assert score(lambda images: np.log1p(np.abs(np.fft.rfft2(images.mean(3)))).reshape(len(images), -1)) > 0.9
    assert 0.15 < score(lambda images: images.reshape(len(images), -1) / 255) < 0.6
