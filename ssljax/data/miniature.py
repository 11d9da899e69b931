"""Made miniatures of data sets in the layout of the real ones (`miniature:NAME`), for where those are not at hand."""

import csv
import io
import os
import shutil
import uuid
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ssljax.data import aircraft, imagenet100, miniature_cells
from ssljax.data.pictures import Picture, draw, encoded, random_of
from ssljax.data.source import Request
from ssljax.data.splits import some
from ssljax.data.tfds_builder import constructed
from ssljax.data.tfds_source import image_and_label, is_many
from ssljax.errors import UserError

MADE = "miniature:"  # before the name of the set that is stood in for
EDITION = 2  # raise whenever what is made changes: sets once made stay

SIZES = {"train": 512, "validation": 128, "test": 128}
# Training images on ImageNet's lists of few labels: more than 1 and 10 %, so that there are batches of them.
_LISTED = {"1pct": 64, "10pct": 160}
# The first classes of a set are made; of VOC's kind all twenty, so that each has its average precision.
_CLASSES, _CLASSES_OF_MANY = 10, 20
# Splits of sets that do not have just train and test, as tfds prepares them (ImageNet's without the test labels that no one has).
_SPLITS = {
    "dtd": ("train", "validation", "test"),
    "eurosat": ("train",),
    "food101": ("train", "validation"),
    "imagenet2012": ("train", "validation"),
    "imagenet2012_subset": ("train", "validation"),
    "imagenet_resized": ("train", "validation"),
    "oxford_flowers102": ("train", "validation", "test"),
    "tf_flowers": ("train",),
    "voc": ("train", "validation", "test"),
}
# tfds reads these from CIFAR-10's archive (A. Krizhevsky, 2009).
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The first lines of FGVC-Aircraft's variants.txt.
_VARIANTS = ("707-320", "727-200", *(f"737-{series}00" for series in range(2, 10)))
_IMAGES_OF_SYNSET = {"train": 5, "val": 2}  # ImageNet-100 has no use without all of its hundred


def here(name: str, data_dir: str) -> bool:
    """Whether a data set lies ready to be read; nothing is fetched, prepared or written.

    Args:
      name: as `ssljax.data.load` takes it.
      data_dir: where data lie, as for `load`.
    """
    kind, _, place = name.partition(":")
    path = os.path.expanduser(os.path.join(data_dir, place))
    if kind == "digits":
        return True
    if kind in ("folder", "npz", "crops"):
        return os.path.exists(path)
    if kind == "bbbc021":
        return bool(place or data_dir) and os.path.isfile(os.path.join(path, "crops.csv"))
    if kind == "imagenet100":
        return os.path.isdir(os.path.join(path, "train"))
    if kind == "aircraft":
        return os.path.isfile(os.path.join(aircraft.folder_of(place, data_dir), "data", "variants.txt"))
    try:
        with constructed(Request(name, "", data_dir, "", 0)) as builder:
            return bool(builder.is_prepared())
    except UserError:
        return False


def make(name: str, folder: str | Path) -> str:
    """Writes a miniature of a data set, unless it is there: 512 training images of its first ten classes, 128 of other splits.

    Of BBBC021 it is 1,300 cells of six compounds at eight concentrations and of untreated wells.

    The same name always makes the same images. The folder of a set appears whole or not at all.

    Args:
      name: a tfds set of images, `imagenet100:DIR`, `aircraft:DIR` or `bbbc021:DIR`; `digits` are embedded, and small as they are.
      folder: to be the `data_dir` of the set.

    Returns:
      The name to load it by from `folder`.

    Raises:
      UserError: a name of no set, a set that is only its files (`folder:`, `npz:`, `crops:`), or a folder that cannot be written.
    """
    kind = name.partition(":")[0]
    if kind == "digits":
        return name
    if kind in ("folder", "npz", "crops"):
        raise UserError(
            f"data set '{name}': its layout is its files'; a miniature stands in for sets with a layout of their own"
        )
    if kind == "imagenet100":
        _once(Path(folder) / "imagenet100", _imagenet100)
        return "imagenet100:imagenet100"
    if kind == "bbbc021":
        _once(Path(folder) / "bbbc021", miniature_cells.write)
        return "bbbc021:bbbc021"
    if kind == "aircraft":
        _once(Path(folder) / aircraft.FOLDER, _aircraft)
        return f"aircraft:{aircraft.FOLDER}"
    with constructed(Request(name, "", str(folder), "", 0)) as builder:
        if not builder.is_prepared():
            _once(Path(builder.data_path), lambda path: _tfds(path, builder, name))
    return name


def _once(target: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a new folder and gives it the target's name; another process that was faster has written the same."""
    if _filled_folder(target):
        return
    new = target.with_name(f".{target.name}.new-{uuid.uuid4().hex}")
    try:
        new.mkdir(parents=True)
        write(new)
        new.rename(target)
    except OSError as error:
        if _filled_folder(target):
            return
        raise UserError(f"cannot write a made data set to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _filled_folder(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


def _imagenet100(path: Path) -> None:
    for kind, synset in enumerate(imagenet100.SYNSETS):
        for split, count in _IMAGES_OF_SYNSET.items():
            place = path / split / synset
            place.mkdir(parents=True)
            for i in range(count):
                picture = draw((kind,), f"imagenet100/{split}/{synset}/{i}")
                (place / f"{synset}_{i}.JPEG").write_bytes(picture.data)


def _aircraft(path: Path) -> None:
    (path / "data" / "images").mkdir(parents=True)
    (path / "data" / "variants.txt").write_text("".join(f"{variant}\n" for variant in _VARIANTS))
    first = 0
    for split, part in (("train", "train"), ("validation", "val"), ("test", "test")):
        lines: list[str] = []
        for i in range(SIZES[split]):
            kind, number = i % len(_VARIANTS), f"{first + i:07d}"
            picture = draw((kind,), f"aircraft/{split}/{i}", banner=aircraft.BANNER)
            (path / "data" / "images" / f"{number}.jpg").write_bytes(picture.data)
            lines.append(f"{number} {_VARIANTS[kind]}\n")
        (path / "data" / f"images_variant_{part}.txt").write_text("".join(lines))
        first += SIZES[split]


def _tfds(path: Path, builder: Any, name: str) -> None:
    """Writes what tfds would have prepared, with its own features, into a folder."""
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    info = builder.info
    superclass = _name_classes(builder.name, info.features)
    infos = []
    for split in _SPLITS.get(builder.name, ("train", "test")):
        records = _records(builder, split, name, superclass)
        file = path / f"{builder.name}-{split}.array_record-00000-of-00001"
        writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1")
        for record in records:
            writer.write(info.features.serialize_example(record))
        writer.close()
        template = tfds.core.ShardedFileTemplate(
            dataset_name=builder.name, split=split, data_dir=str(path), filetype_suffix="array_record"
        )
        shards = dict(shard_lengths=[len(records)], num_bytes=file.stat().st_size)
        infos.append(tfds.core.SplitInfo(name=split, filename_template=template, **shards))
    info.set_file_format("array_record", override=True)
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(str(path))


def _name_classes(name: str, features: Any) -> dict[int, int]:
    """Gives CIFAR's classes the names that tfds reads from its archives; the superclass of each class where there are any."""
    if name == "cifar10":
        features["label"].names = _CIFAR10
    if name != "cifar100":
        return {}
    text = resources.files("ssljax.study").joinpath("cifar100_superclasses.csv").read_text(encoding="utf-8")
    above = {row["class"]: _as_in_archive(row["superclass"]) for row in csv.DictReader(text.splitlines())}
    fine, coarse = sorted(above), sorted(set(above.values()))  # both are numbered alphabetically
    features["label"].names, features["coarse_label"].names = fine, coarse
    return {number: coarse.index(above[one]) for number, one in enumerate(fine)}


def _as_in_archive(superclass: str) -> str:
    """As CIFAR-100's archive spells what its page calls fruit and vegetables, or medium-sized mammals."""
    return superclass.replace("medium-sized", "medium").replace(" ", "_")


def _records(builder: Any, split: str, name: str, superclass: dict[int, int]) -> list[dict[str, Any]]:
    """The examples of a split as the set's features take them."""
    features = builder.info.features
    image, label = image_and_label(builder, name)
    many = label is not None and is_many(features[label])
    known = (features[label].feature if many else features[label]).num_classes if label is not None else None
    classes = min(known or _CLASSES, _CLASSES_OF_MANY if many else _CLASSES)
    # The lists of few labels are of ImageNet's own training images.
    name = name.partition(":")[0]
    drawn = "imagenet2012" if builder.name == "imagenet2012_subset" else name
    rows = np.arange(SIZES[split])
    if drawn != name and split == "train":
        rows = some(len(rows), rows % classes, _LISTED[builder.builder_config.name])
    records: list[dict[str, Any]] = []
    for i in rows:
        key = f"{drawn}/{split}/{i}"
        shown = _shown(int(i) % classes, classes, key) if many else (int(i) % classes,)
        picture = draw(shown, key, features[image].shape)
        record = {
            feature: _filled(one, feature, picture, f"{split}_{i:05d}.jpg")
            for feature, one in features.items()
            if feature != image
        }
        record[image] = io.BytesIO(picture.data)
        if superclass:
            record["coarse_label"] = superclass[shown[0]]
        records.append(record)
    return records


def _shown(kind: int, classes: int, key: str) -> tuple[int, ...]:
    """A class and up to two others."""
    random = random_of(f"shown/{key}")
    others = [int(one) for one in random.permutation(classes) if one != kind]
    return (kind, *others[: random.randint(3)])


def _filled(feature: Any, name: str, picture: Picture, text: str) -> Any:
    """A valid value of a feature other than the image: classes that are shown, boxes about the middle, masks of one part."""
    import tensorflow_datasets as tfds

    kind = tfds.features
    if isinstance(feature, kind.FeaturesDict):
        return {key: _filled(one, key, picture, text) for key, one in feature.items()}
    if isinstance(feature, kind.Sequence):
        sure = tuple(one for one in picture.shown if one not in picture.difficult)
        shown = sure if name.endswith("_no_difficult") else picture.shown
        difficult = picture.difficult
        single = [picture._replace(shown=(one,), difficult=(one,) if one in difficult else ()) for one in sorted(shown)]
        return [_filled(feature.feature, name, one, text) for one in single]
    if isinstance(feature, kind.ClassLabel):
        return picture.shown[0] % (feature.num_classes or 1)
    if isinstance(feature, kind.BBoxFeature):
        return kind.BBox(ymin=0.25, xmin=0.25, ymax=0.75, xmax=0.75)
    if isinstance(feature, kind.Image):
        return io.BytesIO(encoded(np.ones((*picture.shape[:2], feature.shape[-1]), np.uint8), "PNG"))
    if isinstance(feature, kind.Text):
        return text
    if name == "is_difficult":
        return bool(picture.difficult)
    return np.zeros([side or 0 for side in feature.shape], feature.np_dtype)[()]
