"""Image folders written here with Pillow: classes, splits, broken files, and every refusal."""

import logging
import os

import numpy as np
import pytest
from PIL import Image

from ssljax import data
from ssljax.data.folder import layout
from ssljax.errors import UserError


def put(path, value=0, shape=(4, 6, 3), dtype=np.uint8):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    pixels = np.full(shape, value, dtype)
    Image.fromarray(pixels).save(path)


def values(split):
    """What `put` wrote: every image is of one value."""
    assert np.all(split.images == split.images[:, :1, :1, :1])
    return split.images[:, 0, 0, 0].tolist()


@pytest.fixture
def load(tmp_path):
    return lambda name, **options: data.load(name, cache_dir=str(tmp_path / "cache"), **options)


def test_classes_are_folders_and_a_fifth_is_test(tmp_path, load):
    root = tmp_path / "set"
    for number, name in enumerate(["cat", "ant", "train"]):  # "train" is a class here
        for i in range(10):
            put(str(root / name / f"deep{i % 2}" / f"{i}.png"), 10 * number + i)
    put(str(root / ".hidden" / "no.png"))
    (root / "notes.txt").write_text("no image")
    found = load(f"folder:{root}")
    assert found.class_names == ("ant", "cat", "train")
    train, test = found.splits["train"], found.splits["test"]
    np.testing.assert_array_equal(np.bincount(train.labels), [8, 8, 8])
    np.testing.assert_array_equal(np.bincount(test.labels), [2, 2, 2])
    pairs = [*zip(values(train), train.labels, strict=True), *zip(values(test), test.labels, strict=True)]
    label_of_tens = {0: 1, 1: 0, 2: 2}
    assert sorted(pairs) == [(value, label_of_tens[value // 10]) for value in range(30)]
    assert isinstance(train.images, np.memmap) and not train.images.flags.writeable
    scaled = train.images / 255
    np.testing.assert_allclose(found.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, scaled.std((0, 1, 2)), rtol=1e-12)
    # By data_dir, relative, and with a slash: the same set.
    for name, options in [("folder", {"data_dir": str(root)}), ("folder:set/", {"data_dir": str(tmp_path)})]:
        assert load(name, **options).fingerprint == found.fingerprint


def test_split_folders(tmp_path, load):
    for split, value in [("train", 1), ("val", 2), ("test", 3)]:
        for label, name in enumerate("ab"):
            put(str(tmp_path / "set" / split / name / "0.png"), 10 * value + label)
    found = load(f"folder:{tmp_path}/set")
    assert {split: values(part) for split, part in found.splits.items()} == {
        "train": [10, 11],
        "validation": [20, 21],
        "test": [30, 31],
    }
    assert all(part.labels.tolist() == [0, 1] for part in found.splits.values())


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path, load):
    for split in ("train/a", "train/b", "validation/a", "test"):
        put(str(tmp_path / "set" / split / "0.png"), len(split))
    found = load(f"folder:{tmp_path}/set")
    assert list(found.splits) == ["train", "test"]
    assert values(found.splits["test"]) == [len("validation/a")]
    assert found.splits["test"].labels.tolist() == [0]


def test_no_class_folders_no_labels(tmp_path, load):
    for i in range(10):
        put(str(tmp_path / "set" / f"{i}.png"), i)
    found = load(f"folder:{tmp_path}/set", validation_fraction=0.5)
    assert found.class_names is None
    assert all(part.labels is None for part in found.splits.values())
    assert [len(part.images) for part in found.splits.values()] == [4, 4, 2]
    assert sorted(value for part in found.splits.values() for value in values(part)) == list(range(10))


def test_sixteen_bit_grey(tmp_path, load):
    for i in range(5):
        put(str(tmp_path / "set" / "a" / f"{i}.tif"), 1000 * i + 7, (3, 3), np.uint16)
    found = load(f"folder:{tmp_path}/set")
    assert found.splits["train"].images.dtype == np.uint16
    assert sorted(values(found.splits["train"]) + values(found.splits["test"])) == [7, 1007, 2007, 3007, 4007]
    np.testing.assert_allclose(found.mean[0], found.splits["train"].images.mean() / 65535, rtol=1e-12)


def test_broken_files_are_named_once_and_left_out(tmp_path, load, caplog):
    root = tmp_path / "set"
    for i in range(10):
        put(str(root / "train" / "ab"[i % 2] / f"{i}.png"), i)
        put(str(root / "test" / "ab"[i % 2] / f"{i}.png"), 100 + i)
    for i in (2, 5):
        (root / "train" / "ab"[i % 2] / f"{i}.png").write_bytes(b"broken")
    for _ in range(2):  # cold, then warm
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = load(f"folder:{root}")
        assert [record.getMessage() for record in caplog.records] == [
            f"{root}: 2 of 20 images cannot be read and are left out: train/a/2.png, train/b/5.png"
        ]
    train = found.splits["train"]
    assert values(train) == [0, 4, 6, 8, 1, 3, 7, 9]
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert values(found.splits["test"]) == [100, 102, 104, 106, 108, 101, 103, 105, 107, 109]


def test_many_broken_files_are_counted(tmp_path, load, caplog, recwarn):
    for i in range(20):
        put(str(tmp_path / "set" / "a" / f"{i:02}.png"), i)
        if i < 8:
            (tmp_path / "set" / "a" / f"{i:02}.png").write_bytes(b"")
    (tmp_path / "set" / "a" / "99.tif").write_bytes(b"II*\0broken")  # Pillow warns about it, too
    with caplog.at_level(logging.WARNING):
        load(f"folder:{tmp_path}/set")
    (record,) = caplog.records
    assert "9 of 21" in record.getMessage() and record.getMessage().endswith("a/04.png and 4 more")
    assert not recwarn.list


def test_mixed_sizes_need_image_size(tmp_path, load):
    for i in range(5):
        put(str(tmp_path / "set" / "a" / f"{i}.png"), 40 * i, (4 + i, 9, 3))
    with pytest.raises(UserError, match=r"1.png is 9x5 .*0.png is 9x4 .*--resize"):
        load(f"folder:{tmp_path}/set")
    found = load(f"folder:{tmp_path}/set", image_size=3)
    assert found.splits["train"].images.shape == (4, 3, 3, 3)
    assert sorted(values(found.splits["train"]) + values(found.splits["test"])) == [0, 40, 80, 120, 160]


def test_links_are_followed_once(tmp_path, load):
    for i in range(5):
        put(str(tmp_path / "elsewhere" / f"{i}.png"), i)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set")
    found = load(f"folder:{tmp_path}/set")
    assert found.class_names == ("linked",)
    assert sorted(values(found.splits["train"]) + values(found.splits["test"])) == [0, 1, 2, 3, 4]


def test_layout_reads_paths_only():
    names, splits = layout(["test/b/1.png", "train/a/x/1.png", "train/b/1.png", "val/a/2.png"], "root")
    assert names == ("a", "b")
    assert splits == {
        "test": [("test/b/1.png", 1)],
        "train": [("train/a/x/1.png", 0), ("train/b/1.png", 1)],
        "validation": [("val/a/2.png", 0)],
    }


@pytest.mark.parametrize(
    "files, message",
    [
        ([], "set: no image in it; expected files that end in .png"),
        (["a/1.png", "2.png"], "'2.png' lies beside class folders"),
        (["train/a/1.png", "test/b/1.png"], "class 'b' of test is not in train"),
    ],
)
def test_bad_layouts(tmp_path, load, files, message):
    (tmp_path / "set").mkdir()
    for file in files:
        put(str(tmp_path / "set" / file))
    with pytest.raises(UserError, match=message) as caught:
        load(f"folder:{tmp_path}/set")
    assert "\n" not in str(caught.value)


def test_bad_folders(tmp_path, load):
    with pytest.raises(UserError, match="absent: no such folder"):
        load(f"folder:{tmp_path}/absent")
    with pytest.raises(UserError, match="expected a folder, as in folder:DIR"):
        load("folder")
    put(str(tmp_path / "grey" / "a" / "1.png"), 0, (4, 6))
    put(str(tmp_path / "grey" / "a" / "2.png"), 0, (4, 6, 3))
    with pytest.raises(UserError, match="2.png is 6x4 .* 3 channels .*1.png .* 1 channel .*same channels"):
        load(f"folder:{tmp_path}/grey")
    (tmp_path / "bad" / "a").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "bad" / "a" / f"{i}.jpg").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no image of train can be read; .* 3 of 3 images .* a/0.jpg, a/1.jpg"):
        load(f"folder:{tmp_path}/bad")
    put(str(tmp_path / "one" / "a" / "1.png"))
    with pytest.raises(UserError, match="1 train images are too few to hold out 0.2"):
        load(f"folder:{tmp_path}/one")
