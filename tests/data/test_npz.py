"""NumPy archives: every accepted form gives the arrays back, every other is refused in one line."""

import logging

import numpy as np
import pytest

from ssljax import data
from ssljax.errors import UserError

RANDOM = np.random.default_rng(1)
IMAGES = RANDOM.integers(0, 256, (30, 5, 4, 3), np.uint8)
LABELS = np.arange(30) % 3


@pytest.fixture
def load(tmp_path):
    def load_(arrays, **options):
        np.savez_compressed(tmp_path / "set.npz", **arrays)
        return data.load("npz:set.npz", data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"), **options)

    return load_


@pytest.mark.parametrize(
    "train, test",
    [
        (("train_images", "train_labels"), ("test_images", "test_labels")),
        (("x_train", "y_train"), ("x_test", "y_test")),
        (("images", "labels"), ("test_images", "test_labels")),
    ],
)
def test_named_splits_come_back_as_they_are(load, train, test):
    found = load({train[0]: IMAGES[:20], train[1]: LABELS[:20], test[0]: IMAGES[20:], test[1]: LABELS[20:]})
    np.testing.assert_array_equal(found.splits["train"].images, IMAGES[:20])
    np.testing.assert_array_equal(found.splits["test"].images, IMAGES[20:])
    np.testing.assert_array_equal(found.splits["train"].labels, LABELS[:20])
    np.testing.assert_array_equal(found.splits["test"].labels, LABELS[20:])
    assert found.splits["test"].labels.dtype == np.int32
    assert found.class_names == ("0", "1", "2")
    np.testing.assert_allclose(found.std, (IMAGES[:20] / 255).std((0, 1, 2)), rtol=1e-12)


def test_one_array_is_divided_stratified(load):
    found = load({"images": IMAGES, "labels": LABELS}, validation_fraction=0.25)
    assert [np.bincount(part.labels).tolist() for part in found.splits.values()] == [
        [6] * 3,
        [2] * 3,
        [2] * 3,
    ]
    where = {bytes(image): i for i, image in enumerate(IMAGES)}
    seen = []
    for part in found.splits.values():
        rows = [where[bytes(image)] for image in np.asarray(part.images)]
        np.testing.assert_array_equal(part.labels, LABELS[rows])
        seen += rows
    assert sorted(seen) == list(range(30))


def test_medmnist_and_keras_shapes(load):
    found = load(
        {
            "train_images": IMAGES[:10, ..., 0],
            "train_labels": LABELS[:10, None],
            "val_images": IMAGES[10:20, ..., 0],
            "val_labels": LABELS[10:20, None],
            "test_images": IMAGES[20:, ..., 0],
            "test_labels": LABELS[20:, None],
        }
    )
    np.testing.assert_array_equal(found.splits["validation"].images, IMAGES[10:20, ..., :1])
    np.testing.assert_array_equal(found.splits["validation"].labels, LABELS[10:20])


def test_sixteen_bits_stay_and_floats_are_rounded(load, caplog):
    deep = RANDOM.integers(0, 65536, (30, 3, 3), np.uint16)
    found = load({"images": deep.astype(">u2"), "test_images": deep[:2]})
    assert found.splits["train"].images.dtype == np.uint16
    np.testing.assert_array_equal(found.splits["train"].images[..., 0], deep)
    np.testing.assert_allclose(found.mean[0], deep.mean() / 65535, rtol=1e-12)
    np.testing.assert_allclose(found.std[0], deep.std() / 65535, rtol=1e-10)
    assert found.splits["train"].labels is None
    with caplog.at_level(logging.WARNING):
        found = load({"images": IMAGES / 255, "test_images": np.full((1, 5, 4, 3), 0.7, np.float32)})
    np.testing.assert_array_equal(found.splits["train"].images, IMAGES)
    assert np.all(found.splits["test"].images == 178)  # .7 x 255 = 178.5, in float32 a little below
    assert "'images' holds floats: rounded to uint8" in caplog.text


def test_resizing(load):
    flat = np.repeat(np.arange(30, dtype=np.uint8), 12 * 8).reshape(30, 12, 8)
    found = load({"images": flat, "test_images": flat[:4]}, image_size=4)
    assert found.splits["train"].images.shape == (30, 4, 4, 1)
    assert np.all(found.splits["train"].images == np.arange(30)[:, None, None, None])


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"pictures": IMAGES}, "expected the key 'images', .* found pictures"),
        ({}, "found none"),
        ({"test_images": IMAGES}, "expected the key 'images'.*found test_images"),
        ({"images": IMAGES.astype(int)}, "'images' is int64; expected uint8, uint16 or float in"),
        ({"images": IMAGES.astype(float)}, r"'images' has float values from 0 to 255; expected \[0, 1\]"),
        ({"images": np.full((2, 2, 2), np.nan)}, "float values from nan to nan"),
        ({"images": IMAGES[:, 0, 0]}, r"has shape \(30, 3\); expected"),
        ({"images": IMAGES[:0]}, "no image, or images of 0 pixels"),
        ({"images": IMAGES[:, :0]}, "no image, or images of 0 pixels"),
        ({"images": np.zeros((4, 3, 32, 32), np.uint8)}, "expected channels last"),
        ({"images": IMAGES, "labels": LABELS[:7]}, r"'labels' has shape \(7,\); expected \[30\]"),
        ({"images": IMAGES, "labels": np.eye(30)}, r"'labels' has shape \(30, 30\)"),
        ({"images": IMAGES, "labels": LABELS / 2}, "'labels' is float64; expected integers"),
        ({"images": IMAGES, "labels": LABELS - 1}, "'labels' has values -1 to 1"),
        ({"images": np.array([None, "a"])}, "not a readable .npz archive"),
        ({"images": IMAGES, "test_images": IMAGES[:, :3]}, "'test_images' is uint8 .*all splits must agree"),
    ],
)
def test_bad_arrays(load, arrays, message):
    with pytest.raises(UserError, match=message) as caught:
        load(arrays)
    assert "set.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_channels_must_agree_even_when_resized(load):
    with pytest.raises(UserError, match="all splits must agree"):
        load({"images": IMAGES, "test_images": IMAGES[..., :1]}, image_size=4)


def test_bad_files(tmp_path, load):
    cache = {"cache_dir": str(tmp_path / "cache")}
    with pytest.raises(UserError, match="absent.npz: no such file"):
        data.load(f"npz:{tmp_path}/absent.npz", **cache)
    with pytest.raises(UserError, match="expected a file, as in npz:FILE"):
        data.load("npz", **cache)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match="text.npz: not a readable .npz archive"):
        data.load(f"npz:{tmp_path}/text.npz", **cache)
    np.save(tmp_path / "single.npy", IMAGES)
    with pytest.raises(UserError, match=r"single.npy: not a .npz archive \(a single array\)"):
        data.load(f"npz:{tmp_path}/single.npy", **cache)
    load({"images": IMAGES, "test_images": IMAGES})
    whole = (tmp_path / "set.npz").read_bytes()
    for name, damaged in [("cut", whole[:-100]), ("flipped", whole[:400] + b"\xff" * 40 + whole[440:])]:
        (tmp_path / f"{name}.npz").write_bytes(damaged)
        with pytest.raises(UserError, match=f"{name}.npz: not a readable .npz archive"):
            data.load(f"npz:{tmp_path}/{name}.npz", **cache)
