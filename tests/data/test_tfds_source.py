"""tfds sets: real MNIST and CIFAR-10 where `SSLJAX_TEST_DATA` has them, and small ones prepared here.

tfds is used without TensorFlow throughout. Test data are read through a folder of links, so that nothing is
ever prepared in their place.
"""

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ssljax import data
from ssljax.errors import UserError

TEST_DATA = os.environ.get("SSLJAX_TEST_DATA", "")
needs_data = pytest.mark.skipif(
    not os.path.isdir(os.path.join(TEST_DATA, "tfds")),
    reason="SSLJAX_TEST_DATA names no folder with tfds sets",
)

# The sets' published figures. MNIST: Y. LeCun's page counts 60,000 and 10,000; class counts from its label
# files. Means and deviations: those that every CIFAR-10 and MNIST training script carries.
MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    for name in ("mnist", "cifar10"):
        (root / name).symlink_to(os.path.join(TEST_DATA, "tfds", name))
    return {"data_dir": str(root), "cache_dir": str(tmp_path_factory.mktemp("cache"))}


def tfds_record(name, real, split, index):
    import tensorflow_datasets as tfds

    record = tfds.data_source(name, split=split, data_dir=real["data_dir"])[index]
    return record["image"], record["label"]


@needs_data
def test_mnist(real):
    found = data.load("mnist", **real)
    train, test = found.splits["train"], found.splits["test"]
    assert train.images.shape == (60000, 28, 28, 1) and test.images.shape == (10000, 28, 28, 1)
    assert np.bincount(train.labels).tolist() == MNIST_TRAIN
    assert np.bincount(test.labels).tolist() == MNIST_TEST
    assert found.class_names == tuple("0123456789")
    np.testing.assert_allclose((found.mean[0], found.std[0]), (0.1307, 0.3081), atol=5e-5)
    for split, index in [("train", 0), ("train", 59_999), ("test", 4321)]:
        image, label = tfds_record("mnist", real, split, index)
        np.testing.assert_array_equal(found.splits[split].images[index], image)
        assert found.splits[split].labels[index] == label

    # A second process: no tfds, the same set.
    code = (
        "import sys; from ssljax import data; "
        f"found = data.load('mnist', data_dir={real['data_dir']!r}, cache_dir={real['cache_dir']!r}); "
        "print('tensorflow_datasets' in sys.modules, 'PIL' in sys.modules, found.fingerprint, "
        "found.splits['train'].images[777].sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", found.fingerprint, str(train.images[777].sum())]
    assert done.stderr == ""


@needs_data
@pytest.mark.slow
def test_cifar10(real):
    found = data.load("cifar10:3.0.2", validation_fraction=0.1, **real)
    sizes = {split: np.bincount(part.labels).tolist() for split, part in found.splits.items()}
    assert sizes == {"train": [4500] * 10, "validation": [500] * 10, "test": [1000] * 10}
    assert found.class_names[:3] == ("airplane", "automobile", "bird")
    both = np.concatenate([found.splits[split].images for split in ("train", "validation")]) / 255
    np.testing.assert_allclose(both.mean((0, 1, 2)), (0.4914, 0.4822, 0.4465), atol=5e-5)
    np.testing.assert_allclose(both.std((0, 1, 2)), (0.2470, 0.2435, 0.2616), atol=5e-5)
    image, label = tfds_record("cifar10", real, "test", 9999)
    np.testing.assert_array_equal(found.splits["test"].images[9999], image)
    assert found.splits["test"].labels[9999] == label


def picture(value, height=4, mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (5, height), value).save(file, "PNG")
    return file.getvalue()


def prepare(root, name, features, splits, file_format="array_record", supervised=None):
    """Writes a tfds set as tfds itself would, without code of its own for it."""
    import tensorflow_datasets as tfds

    identity = tfds.core.dataset_info.DatasetIdentity(
        name=name, version=tfds.core.Version("1.0.0"), data_dir=f"{root}/{name}/1.0.0", module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity, features=tfds.features.FeaturesDict(features), supervised_keys=supervised
    )
    os.makedirs(identity.data_dir)
    infos = []
    for split, records in splits.items():
        path = f"{identity.data_dir}/{name}-{split}.array_record-00000-of-00001"
        from array_record.python import array_record_module

        writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
        for record in records:
            writer.write(info.features.serialize_example(record))
        writer.close()
        template = tfds.core.ShardedFileTemplate(
            dataset_name=name, split=split, data_dir=identity.data_dir, filetype_suffix=file_format
        )
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(records)],
                num_bytes=os.path.getsize(path),
                filename_template=template,
            )
        )
    info.set_file_format(file_format)
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(identity.data_dir)


@pytest.fixture(scope="module")
def features():
    import tensorflow_datasets as tfds

    return {
        "id": np.int64,
        "picture": tfds.features.Image(shape=(None, None, 3)),
        "kind": tfds.features.ClassLabel(names=["dog", "owl"]),
    }


@pytest.fixture
def load(tmp_path):
    def load_(name, **options):
        return data.load(name, data_dir=str(tmp_path / "tfds"), cache_dir=str(tmp_path / "cache"), **options)

    return load_


def records(values, heights=None, labels=None):
    return [
        {
            "id": i,
            "picture": io.BytesIO(picture((value, 0, 255 - value), (heights or [4] * len(values))[i])),
            "kind": i % 2 if labels is None else labels[i],
        }
        for i, value in enumerate(values)
    ]


def test_first_image_and_label_features_and_validation_as_test(tmp_path, load, features):
    prepare(tmp_path / "tfds", "small", features, {"train": records([1, 2, 3]), "validation": records([9, 8])})
    found = load("small")
    assert list(found.splits) == ["train", "test"] and found.class_names == ("dog", "owl")
    assert found.splits["train"].images[:, 0, 0].tolist() == [[1, 0, 254], [2, 0, 253], [3, 0, 252]]
    assert found.splits["train"].labels.tolist() == [0, 1, 0]
    assert found.splits["test"].images[:, 0, 0, 0].tolist() == [9, 8]


@pytest.mark.parametrize("supervised", ["kind", "coarse"])
def test_the_supervised_label_of_several(tmp_path, load, features, supervised):
    import tensorflow_datasets as tfds

    both = {"coarse": tfds.features.ClassLabel(names=["animal", "plant", "thing"]), **features}
    made = [{**record, "coarse": 2 - i} for i, record in enumerate(records([1, 2, 3]))]
    prepare(
        tmp_path / "tfds", "several", both, {"train": made[:2], "test": made[2:]}, supervised=("picture", supervised)
    )
    found = load("several")
    assert found.class_names == {"kind": ("dog", "owl"), "coarse": ("animal", "plant", "thing")}[supervised]
    assert found.splits["train"].labels.tolist() == {"kind": [0, 1], "coarse": [2, 1]}[supervised]
    if supervised == "kind":
        folder = str(tmp_path / "tfds")
        assert data.superclasses("several", "coarse", data_dir=folder) == {"dog": "thing", "owl": "plant"}
        with pytest.raises(UserError, match=r"expected a label feature besides kind, of \['coarse'\], given 'fine'"):
            data.superclasses("several", "fine", data_dir=folder)
        with pytest.raises(UserError, match="digits has no label feature 'coarse'"):
            data.superclasses("digits", "coarse")


def test_a_class_of_two_superclasses(tmp_path, features):
    import tensorflow_datasets as tfds

    both = {"coarse": tfds.features.ClassLabel(names=["animal", "plant"]), **features}
    made = [{**record, "coarse": i // 2} for i, record in enumerate(records([1, 2, 3]))]
    prepare(tmp_path / "tfds", "torn", both, {"train": made}, supervised=("picture", "kind"))
    with pytest.raises(UserError, match="coarse of dog is animal and plant; expected one"):
        data.superclasses("torn", "coarse", data_dir=str(tmp_path / "tfds"))


def test_withheld_test_labels_and_grey_among_colour(tmp_path, load, features):
    train = records([10, 20])
    train[1]["picture"] = io.BytesIO(picture(77, mode="L"))
    splits = {"train": train, "validation": records([30, 40]), "test": records([50], labels=[-1])}
    prepare(tmp_path / "tfds", "withheld", features, splits)
    found = load("withheld")
    assert found.splits["train"].images[1, 0, 0].tolist() == [77, 77, 77]
    assert found.splits["test"].images[:, 0, 0, 0].tolist() == [30, 40]
    del splits["validation"]
    train[0]["picture"].seek(0)
    train[1]["picture"].seek(0)
    splits["test"][0]["picture"].seek(0)
    prepare(tmp_path / "tfds", "hidden", features, splits)
    found = load("hidden")
    assert found.splits["test"].labels is None and found.splits["test"].images[0, 0, 0, 0] == 50


def test_sets_without_labels_or_of_mixed_sizes(tmp_path, load, features):
    bare = {"picture": features["picture"]}
    unlabelled = [{"picture": record["picture"]} for record in records(range(10))]
    prepare(tmp_path / "tfds", "bare", bare, {"train": unlabelled})
    found = load("bare")
    assert found.class_names is None and found.splits["train"].labels is None
    assert [len(part.images) for part in found.splits.values()] == [8, 2]

    mixed = {"train": records([5, 6], [4, 7]), "test": records([7], [9])}
    prepare(tmp_path / "tfds", "mixed", features, mixed)
    with pytest.raises(UserError, match=r"mixed train\[1\] is 5x7 .*mixed train\[0\] is 5x4 .*--resize"):
        load("mixed")
    found = load("mixed", image_size=3)
    assert found.splits["train"].images[:, 1, 1, 0].tolist() == [5, 6]
    assert found.splits["test"].images.shape == (1, 3, 3, 3)


def test_a_set_prepared_anew_is_read_again(tmp_path, load, features):
    prepare(tmp_path / "tfds", "twice", features, {"train": records([1, 2]), "test": records([3])})
    assert load("twice").splits["test"].images[0, 0, 0, 0] == 3
    shutil.rmtree(tmp_path / "tfds" / "twice")
    prepare(tmp_path / "tfds", "twice", features, {"train": records([1, 2]), "test": records([4])})
    assert load("twice").splits["test"].images[0, 0, 0, 0] == 4


def test_damaged_and_unsuitable_sets(tmp_path, load, features):
    import tensorflow_datasets as tfds

    prepare(tmp_path / "tfds", "cut", features, {"train": records(range(50)), "test": records([3])})
    (shard,) = (tmp_path / "tfds" / "cut" / "1.0.0").glob("*train*")
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(UserError, match="data set 'cut': damaged files in .*cut/1.0.0") as caught:
        load("cut")
    assert "\n" not in str(caught.value)
    shard.unlink()
    with pytest.raises(UserError, match="data set 'cut': damaged files in .*cut/1.0.0"):
        load("cut")

    prepare(tmp_path / "tfds", "wrong", features, {"train": records([1])}, file_format="tfrecord")
    with pytest.raises(UserError, match="wrong/1.0.0 holds tfrecord, expected array_record"):
        load("wrong")

    prepare(tmp_path / "tfds", "half", features, {"train": records([1, 2], labels=[1, -1])})
    with pytest.raises(UserError, match="data set 'half': train has labels for some images only"):
        load("half")

    words = {"text": tfds.features.Text()}
    prepare(tmp_path / "tfds", "words", words, {"train": [{"text": "a"}]})
    with pytest.raises(UserError, match=r"data set 'words': no image feature among \['text'\]"):
        load("words")

    prepare(tmp_path / "tfds", "exam", features, {"test": records([1])})
    with pytest.raises(UserError, match=r"data set 'exam': no train split among \['test'\]"):
        load("exam")


@pytest.mark.parametrize(
    "name, message",
    [
        ("mnst", "unknown data set 'mnst' .*tfds.*; did you mean 'mnist'"),
        ("digit", "did you mean 'digits'"),
        ("qqqqqqqq", "expected digits, folder:DIR, imagenet100:DIR, aircraft:DIR, npz:FILE or a tfds set's name"),
        (
            "mnist:9.9.9",
            "data set 'mnist:9.9.9': Dataset mnist cannot be loaded at version 9.9.9, only: 3.0.1",
        ),
        ("mnist/odd", "data set 'mnist/odd': BuilderConfig odd not found"),
        ("no such:thing", "unknown data set 'no such:thing'"),
        ("/", "did you mean 'folder:/'"),
    ],
)
def test_unknown_names(load, name, message):
    with pytest.raises(UserError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_preparing_fails_in_one_line(tmp_path, load, monkeypatch, capfd):
    """Every way in which `download_and_prepare` fails, raised in its place: tests use no network."""
    import requests
    import tensorflow_datasets as tfds

    (tmp_path / "tfds" / "cifar100" / "2.0.0").mkdir(parents=True)
    seen, failures = [], []

    def download_and_prepare(self, *, download_config, file_format):
        seen.append((os.fspath(download_config.manual_dir or ""), file_format))
        print("noise")
        raise failures[-1]

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare)
    wrapped = RuntimeError("while encoding")
    wrapped.__cause__ = ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
    cases = [
        (requests.exceptions.ConnectionError("..."), "downloading failed, no network"),
        (wrapped, r"pip install ssljax\[prepare\]"),
        (ModuleNotFoundError("No module named 'mwxml'", name="mwxml"), "needs the module mwxml"),
        (OSError("Not enough disk space. Needed: 1 GiB"), "preparing it failed: Not enough disk space"),
        (ValueError("\n\nwrong checksum\nmore"), "preparing it failed: wrong checksum$"),
    ]
    for failure, message in cases:
        failures.append(failure)
        with pytest.raises(UserError, match=message) as caught:
            load("cifar100", manual_dir=str(tmp_path))
        where = f"not prepared in {tmp_path}/tfds/cifar100/3.0.2 (that folder's versions: 2.0.0)"
        assert where in str(caught.value) and "\n" not in str(caught.value)
    assert seen == [(str(tmp_path), "array_record")] * len(cases)
    with pytest.raises(UserError, match="manual_dir /absent: no such folder"):
        load("cifar100", manual_dir="/absent")
    assert capfd.readouterr() == ("", "")


def test_without_tfds(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="data set 'mnist': needs tensorflow-datasets"):
        load("mnist")
