"""The embedded digits against scikit-learn's own arrays."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ssljax import data
from ssljax.errors import UserError


def test_every_digit_is_there_once_with_its_label():
    digits = data.load("digits")
    reference = load_digits()
    train, test = digits.splits["train"], digits.splits["test"]
    assert (len(train.images), len(test.images)) == (1438, 359)
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int32
    assert digits.class_names == tuple("0123456789")

    def rows(images, labels):
        return sorted(map(tuple, np.column_stack([images.reshape(len(images), 64), labels]).tolist()))

    # 16 becomes 255; half-way cases (8 -> 127.5) go to the even neighbour.
    scaled = np.round(reference.images / 16 * 255)
    both = [np.concatenate([a, b]) for a, b in zip(train[:2], test[:2], strict=True)]
    assert rows(*both) == rows(scaled, reference.target)
    assert train.images.max() == 255

    expected = np.bincount(reference.target) * 0.2
    assert np.all(np.abs(np.bincount(test.labels) - expected) < 1)


def test_statistics_are_those_of_float64_numpy_over_train():
    digits = data.load("digits")
    scaled = digits.splits["train"].images.astype(np.float64) / 255
    np.testing.assert_allclose(digits.mean, scaled.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(digits.std, scaled.std((0, 1, 2)), rtol=1e-13)


def test_loading_twice_is_the_same_and_read_only():
    one, two = data.load("digits"), data.load("digits")
    assert one.fingerprint == two.fingerprint and len(one.fingerprint) == 64
    for split in one.splits:
        np.testing.assert_array_equal(one.splits[split].images, two.splits[split].images)
    with pytest.raises(ValueError, match="read-only"):
        one.splits["train"].images[0] = 0


def test_validation_comes_from_train_alone():
    plain, held = data.load("digits"), data.load("digits", validation_fraction=0.1)
    np.testing.assert_array_equal(plain.splits["test"].images, held.splits["test"].images)
    assert len(held.splits["validation"].images) == 144
    assert len(held.splits["train"].images) == 1438 - 144
    together = np.concatenate([held.splits[s].images for s in ("train", "validation")])
    assert sorted(map(bytes, together)) == sorted(map(bytes, plain.splits["train"].images))
    assert held.fingerprint != plain.fingerprint
    scaled = held.splits["train"].images / 255
    np.testing.assert_allclose(held.mean, scaled.mean((0, 1, 2)), rtol=1e-13)


def test_resizing_keeps_the_picture():
    plain, large = data.load("digits"), data.load("digits", image_size=16)
    images = large.splits["train"].images
    assert images.shape == (1438, 16, 16, 1)
    # Bilinear enlargement by two, then the mean of each 2x2 block: close to the image, and of its mean.
    small = images.reshape(1438, 8, 2, 8, 2, 1).mean((2, 4))
    original = plain.splits["train"].images.astype(float)
    assert np.corrcoef(small.ravel(), original.ravel())[0, 1] > 0.95
    assert abs(small.mean() - original.mean()) < 1.0


def test_importing_data_imports_no_jax_and_no_reader():
    code = (
        "import sys, ssljax.data; "
        "print([m for m in ('jax', 'PIL', 'sklearn', 'tensorflow_datasets', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("digits", {"validation_fraction": 1.0}, "validation_fraction is 1.0; expected a number in"),
        ("digits", {"validation_fraction": -0.1}, "validation_fraction is -0.1"),
        ("digits", {"validation_fraction": float("nan")}, "validation_fraction is nan"),
        ("digits", {"image_size": -1}, "image_size is -1"),
        ("digits:8", {}, "takes nothing after a colon"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        data.load(name, **options)
    assert "\n" not in str(caught.value)
