"""ImageNet-100 on trees of real JPEGs written here: which classes are read, in what order, and what is refused."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ssljax import data
from ssljax.data import listing
from ssljax.data.imagenet100 import SYNSETS
from ssljax.errors import UserError

OTHERS = ("n01440764", "n01443537", "n99999999")  # tench and goldfish are in ImageNet, not in the 100
RANK = {synset: i for i, synset in enumerate(sorted(SYNSETS))}


def put(root, split, synset, value, side=12, name="0.JPEG"):
    """A flat colour: JPEG keeps it to a level or two."""
    path = root / split / synset / name
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side + 4, 3), value, np.uint8)).save(buffer, "JPEG", quality=95)
    path.write_bytes(buffer.getvalue())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tree of the 100 and three other synsets; an image's grey level is 2 x its class's rank, + 1 in val."""
    root = tmp_path_factory.mktemp("tree")
    for i, synset in enumerate(SYNSETS):
        put(root, "train", synset, 2 * RANK[synset], side=12 + i % 5)
        put(root, "val", synset, 2 * RANK[synset] + 1, side=10 + i % 3)
    for synset in OTHERS:
        put(root, "train", synset, 255)
        put(root, "val", synset, 255)
    put(root, "test", "", 255, name="ILSVRC2012_test_1.JPEG")
    return root


@pytest.fixture
def tree(made, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(made, tmp_path / "tree")


@pytest.fixture
def load(tmp_path):
    return lambda name, **options: data.load(name, cache_dir=str(tmp_path / "cache"), **options)


def test_the_list_is_one_hundred_synsets():
    assert len(set(SYNSETS)) == len(SYNSETS) == 100
    assert all(len(s) == 9 and s[0] == "n" and s[1:].isdigit() for s in SYNSETS)
    # Among them the chihuahua and the meerkat.
    assert {"n02085620", "n02138441"} <= set(SYNSETS) and not set(OTHERS) & set(SYNSETS)


def test_grey_photographs_get_three_equal_channels(tree, load):
    grey = tree / "train" / SYNSETS[0] / "0.JPEG"
    Image.fromarray(np.tile(np.arange(0, 240, 20, np.uint8), (12, 1))).save(grey)
    images, labels, _ = load(f"imagenet100:{tree}", image_size=8).splits["train"]
    (image,) = images[labels == RANK[SYNSETS[0]]]
    assert np.ptp(image) > 100 and (image == image[..., :1]).all()


def test_only_the_hundred_are_read_in_alphabetical_order(tree, load):
    found = load(f"imagenet100:{tree}", image_size=8)
    assert found.class_names == tuple(sorted(SYNSETS))
    assert list(found.splits) == ["train", "test"]
    for split, odd in (("train", 0), ("test", 1)):
        images, labels, _ = found.splits[split]
        assert images.shape == (100, 8, 8, 3)
        np.testing.assert_array_equal(np.sort(labels), np.arange(100))
        expected = (2 * labels + odd)[:, None, None, None]
        assert np.abs(images.astype(int) - expected).max() <= 2
    # The place by data_dir, and the same 100 classes alone in a folder: the same images.
    assert load("imagenet100", data_dir=str(tree), image_size=8).fingerprint == found.fingerprint
    for split in ("train", "val"):
        for synset in OTHERS:
            shutil.rmtree(tree / split / synset)
    shutil.rmtree(tree / "test")
    alone = load(f"folder:{tree}", image_size=8)
    for split in ("train", "test"):
        np.testing.assert_array_equal(alone.splits[split].images, found.splits[split].images)
        np.testing.assert_array_equal(alone.splits[split].labels, found.splits[split].labels)


def test_a_folder_and_the_hundred_of_it_have_caches_of_their_own(tree, load, tmp_path):
    shutil.rmtree(tree / "test")  # whose images lie in no class folder
    whole = load(f"folder:{tree}", image_size=8)
    some = load(f"imagenet100:{tree}", image_size=8)
    assert len(whole.class_names) == 103 and len(some.class_names) == 100
    manifests = sorted((tmp_path / "cache").rglob("manifest.json"))
    before = [os.stat(manifest).st_mtime_ns for manifest in manifests]
    assert len(before) == 2
    for name, first in [("folder", whole), ("imagenet100", some)]:
        assert load(f"{name}:{tree}", image_size=8).fingerprint == first.fingerprint
    assert [os.stat(manifest).st_mtime_ns for manifest in manifests] == before


def test_other_synsets_are_not_even_listed(tree, monkeypatch, load):
    listed, scandir = [], os.scandir

    def watched(path):
        listed.append(os.path.basename(path))
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", watched)
    first = load(f"imagenet100:{tree}", image_size=8).fingerprint
    assert SYNSETS[0] in listed and not set(listed) & {*OTHERS, "test"}
    put(tree, "train", OTHERS[0], 3)  # none of the set's business, so its cache stays
    assert load(f"imagenet100:{tree}", image_size=8).fingerprint == first


def test_missing_synsets_are_counted_and_the_first_named(tree, load):
    gone = SYNSETS[40:45]
    for synset in gone:
        shutil.rmtree(tree / "val" / synset)
    (tree / "val" / gone[0]).mkdir()  # an empty folder holds no image either
    with pytest.raises(UserError) as error:
        load(f"imagenet100:{tree}", image_size=8)
    assert str(error.value) == (
        f"{tree}: 5 of ImageNet-100's 100 synsets have no image in val ({', '.join(gone[:3])}, ...); "
        "expected val/SYNSET/*.JPEG for each"
    )
    shutil.rmtree(tree / "train" / SYNSETS[7])
    with pytest.raises(UserError, match=rf"1 of ImageNet-100's 100 synsets have no image in train \({SYNSETS[7]}\)"):
        load(f"imagenet100:{tree}", image_size=8)


def test_validation_images_that_are_not_sorted_into_classes_are_refused(tree, load):
    """As ImageNet's archive unpacks; taken as they are, they would be unlabelled and a part of train be tested on."""
    shutil.rmtree(tree / "val")
    for i in range(3):
        put(tree, "val", "", i, name=f"ILSVRC2012_val_{i}.JPEG")
    with pytest.raises(UserError, match=r"100 of .* have no image in val .*expected val/SYNSET/\*.JPEG"):
        load(f"imagenet100:{tree}", image_size=8)


def test_what_folders_refuse_is_refused_here(tree, load, tmp_path):
    with pytest.raises(UserError, match="expected a folder, as in imagenet100:DIR"):
        load("imagenet100:")
    with pytest.raises(UserError, match="no such folder"):
        load(f"imagenet100:{tmp_path}/none")
    with pytest.raises(UserError, match="--resize=SIDE brings all images to one size"):
        load(f"imagenet100:{tree}")
