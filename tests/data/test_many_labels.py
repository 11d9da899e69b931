"""Many labels an image: VOC 2007 in tfds' own form, sets like it, and what the rest of the program sees of them."""

import io

import numpy as np
import pytest
from PIL import Image
from test_tfds_source import prepare

import ssljax
from ssljax import data, planning
from ssljax.data import miniature
from ssljax.errors import UserError


def image(value):
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 0)).save(file, "PNG")
    return io.BytesIO(file.getvalue())


@pytest.fixture
def load(tmp_path):
    folders = {"data_dir": str(tmp_path / "tfds"), "cache_dir": str(tmp_path / "cache")}
    return lambda name, **options: data.load(name, **folders, **options)


def features(difficult):
    import tensorflow_datasets as tfds

    classes = tfds.features.Sequence(tfds.features.ClassLabel(names=["bus", "cat", "cow", "dog"]))
    more = {"labels_no_difficult": classes} if difficult else {}
    return {"image": tfds.features.Image(shape=(None, None, 3)), "labels": classes, **more}


def records(shown, certain=None, first=0):
    return [
        {"image": image(first + i), "labels": one, **({} if certain is None else {"labels_no_difficult": certain[i]})}
        for i, one in enumerate(shown)
    ]


def test_present_absent_and_difficult(tmp_path, load):
    train = records([[0, 2], [1], [3, 0, 1], []], [[0], [], [3, 0, 1], []])
    prepare(tmp_path / "tfds", "many", features(True), {"train": train, "test": records([[1]], [[1]], 50)})
    for found in (load("many"), load("many")):  # the second is the cached one
        labels = found.splits["train"].labels
        assert labels.dtype == np.int8 and found.class_names == ("bus", "cat", "cow", "dog")
        np.testing.assert_array_equal(labels, [[1, -1, 0, -1], [-1, 0, -1, -1], [1, 1, -1, 1], [-1, -1, -1, -1]])
        np.testing.assert_array_equal(found.splits["test"].labels, [[-1, 1, -1, -1]])
        assert found.many_labels and found.classes == 0


def test_without_a_list_of_what_is_not_difficult_nothing_is(tmp_path, load):
    prepare(tmp_path / "tfds", "many", features(False), {"train": records([[2], [0, 3]]), "test": records([[1]])})
    np.testing.assert_array_equal(load("many").splits["train"].labels, [[-1, -1, 1, -1], [1, -1, -1, 1]])


def test_a_class_label_of_its_own_comes_first(tmp_path, load):
    import tensorflow_datasets as tfds

    both = {**features(False), "scene": tfds.features.ClassLabel(names=["in", "out"])}
    made = [{**record, "scene": i % 2} for i, record in enumerate(records([[2], [0, 3], [1]]))]
    prepare(tmp_path / "tfds", "both", both, {"train": made[:2], "test": made[2:]})
    found = load("both")
    assert found.splits["train"].labels.tolist() == [0, 1] and not found.many_labels and found.classes == 2
    assert found.single() is found


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path, load):
    """VOC 2012's: no image of its test split has a label."""
    splits = {"train": records([[0], [1]]), "validation": records([[2]], first=9), "test": records([[], []], first=50)}
    prepare(tmp_path / "tfds", "many", features(False), splits)
    found = load("many")
    assert list(found.splits) == ["train", "test"]
    assert found.splits["test"].images[0, 0, 0, 0] == 9 and found.splits["test"].labels.tolist() == [[-1, -1, 1, -1]]


def test_held_out_images_keep_their_labels(tmp_path, load):
    shown = [[i % 4] if i % 3 else [i % 4, (i + 1) % 4] for i in range(40)]
    prepare(tmp_path / "tfds", "many", features(False), {"train": records(shown)})
    found = load("many", validation_fraction=0.25)
    assert {split: len(part.images) for split, part in found.splits.items()} == {
        "train": 24,
        "validation": 8,
        "test": 8,
    }
    places = []
    for part in found.splits.values():
        for picture, labels in zip(part.images, part.labels, strict=True):
            places.append(int(picture[0, 0, 0]))
            assert np.flatnonzero(labels == 1).tolist() == sorted(shown[places[-1]])
    assert sorted(places) == list(range(40))


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    miniature.make("voc/2007", root)
    return {"data_dir": str(root), "cache_dir": str(root / "cache")}


def test_voc_2007_as_its_own_records_say(voc):
    import tensorflow_datasets as tfds

    found = data.load("voc/2007", image_size=8, **voc)
    assert len(found.class_names) == 20 and found.class_names[14] == "person"
    for split, part in found.splits.items():
        assert part.labels.shape == ({"train": 512}.get(split, 128), 20)
        source = tfds.data_source("voc/2007", split=split, data_dir=voc["data_dir"])
        for index in (0, 5, 77, 127):
            objects, expected = source[index]["objects"], np.full(20, -1)
            # As the devkit says: a class shown in difficult objects only counts neither way.
            for label, difficult in zip(objects["label"], objects["is_difficult"], strict=True):
                expected[label] = max(expected[label], 0 if difficult else 1)
            np.testing.assert_array_equal(part.labels[index], expected)
        assert (part.labels == 0).any() and (part.labels == 1).sum(0).min() > 0  # each class has its average precision


def test_what_the_program_sees_has_no_labels(voc):
    whole = data.load("voc/2007", image_size=8, **voc)
    single = whole.single()
    assert all(part.labels is None for part in single.splits.values()) and single.class_names is None
    assert single.classes == 0 and not single.many_labels and single.mean == whole.mean
    np.testing.assert_array_equal(single.splits["test"].images, whole.splits["test"].images)


def test_training_on_voc_is_without_labels_and_supervised_training_refused(voc, one_layer):
    settings = dict(
        dataset="voc/2007", resize=16, image_size=16, backbone=one_layer, batch_size=32, epochs=1, warmup_epochs=0,
        transforms="horizontal_flip", evaluations=("views",), optimizer="sgd", learning_rate=0.1, max_images=96,
    )  # fmt: skip
    config = ssljax.Config(method="simsiam", hidden_dim=8, output_dim=8, predictor_dim=8, **settings, **voc)
    (program,) = planning.plan([config], trained=False)
    assert program.dataset.classes == 0 and len(program.dataset.splits["train"].images) == 96
    assert program.dataset.splits["train"].labels is None
    with pytest.raises(UserError, match="(?i)label") as caught:
        planning.plan([ssljax.Config(method="supervised", **settings, **voc)])
    assert "\n" not in str(caught.value)
