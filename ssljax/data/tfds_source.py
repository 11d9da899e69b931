"""Any image set of TensorFlow Datasets by its name, read from array_record files without TensorFlow.

The records hold the encoded images, which are decoded here.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssljax.data.cache import folder_for, remembered
from ssljax.data.files import Files
from ssljax.data.folder import identity
from ssljax.data.formats import Broken, decode
from ssljax.data.pixels import SameShape, in_blocks, resize
from ssljax.data.source import Block, Contents, Request, Source, Stream
from ssljax.data.tfds_builder import first_line, opened, place_of
from ssljax.errors import UserError


def source(request: Request) -> Source:
    """A tfds set, such as mnist, cifar10:3.0.2 or caltech_birds2011; the Image and the
    ClassLabel of the set's supervised pair, else the first ones, are used. A set without one but with a sequence of
    them, such as voc/2007, has many labels an image; of several, the one whose name comes first.

    `data_dir` defaults to tfds' own, $TFDS_DATA_DIR or ~/tensorflow_datasets. A set that is not prepared
    there is prepared, from files in `manual_dir` where that holds the downloads by their own names.

    Raises:
      UserError: an unknown name or version, a set that cannot be prepared, or one without images.
    """
    name, root, folder = place_of(request)

    def open_() -> Contents:
        with opened(request) as builder:
            return _contents(builder, request, name)

    return Source(location=f"{root}:{name}", identity=lambda: identity(folder), open=open_)


def superclasses(request: Request, feature: str) -> dict[str, str]:
    """Which superclass each class of a set belongs to, by the training images' labels of another feature of the set.

    Args:
      request: names a tfds set.
      feature: of the superclasses, such as cifar100's coarse_label.

    Returns:
      class -> superclass, in the order of the classes.

    Raises:
      UserError: as `source`; no such label feature, or a class of two superclasses.
    """
    import tensorflow_datasets as tfds

    name = request.name.lower()
    with opened(request) as builder:
        features = builder.info.features
        image, label = image_and_label(builder, name)
        known = [key for key, one in features.items() if isinstance(one, tfds.features.ClassLabel) and key != label]
        if label is None or feature not in known:
            raise UserError(
                f"data set '{name}': expected a label feature besides {label}, of {known}, given '{feature}'"
            )
        records = _Records(name, "train", _open_split(builder, "train", image, name), image, label, builder.data_path)
        names, above = features[label].names, features[feature].names
        found: dict[int, int] = {}
        for start in range(0, len(records.source), _BLOCK):
            for record in _read(records, range(start, min(start + _BLOCK, len(records.source)))):
                its = found.setdefault(record[label], record[feature])
                if its != record[feature]:
                    given = f"{above[its]} and {above[record[feature]]}"
                    raise UserError(f"data set '{name}': {feature} of {names[record[label]]} is {given}; expected one")
    return {str(names[one]): str(above[found[one]]) for one in sorted(found)}


_BLOCK = 1024  # records read at once


def image_and_label(builder: Any, name: str) -> tuple[str, str | None]:
    """The features that hold the image and its label."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    items = list(features.items()) if hasattr(features, "items") else []
    # The order of features is not kept in the files of a prepared set: of CIFAR-100's two labels, of the pets' images and masks,
    # the supervised ones are meant.
    first = sorted(items, key=lambda item: item[0] not in (builder.info.supervised_keys or ()))
    image = next((key for key, feature in first if isinstance(feature, tfds.features.Image)), None)
    label = next((key for key, feature in first if isinstance(feature, tfds.features.ClassLabel)), None)
    label = label or min((key for key, feature in items if is_many(feature)), default=None)
    if image is None:
        raise UserError(f"data set '{name}': no image feature among {[key for key, _ in items]}")
    if features[image].np_dtype not in (np.uint8, np.uint16):
        raise UserError(f"data set '{name}': images are {features[image].np_dtype}; expected uint8 or uint16")
    return image, label


def is_many(feature: Any) -> bool:
    """Whether a feature is a sequence of class labels."""
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.Sequence) and isinstance(feature.feature, tfds.features.ClassLabel)


def _contents(builder: Any, request: Request, name: str) -> Contents:
    features = builder.info.features
    image, label = image_and_label(builder, name)
    class_names, many = _classes(features, label, name)
    same, streams = SameShape(), dict[str, Stream]()
    for split in ("train", "validation", "test"):
        if split in builder.info.splits and builder.info.splits[split].num_examples:
            source = _open_split(builder, split, image, name)
            records = _Records(name, split, source, image, label, builder.data_path, many)
            streams[split] = one = _stream(records, features[image].shape[-1], request.image_size, same)
            if request.decode:
                files = _files(records, features[image].shape[-1], request, one.labelled)
                streams[split] = one._replace(files=files)
    if "train" not in streams:
        raise UserError(f"data set '{name}': no train split among {sorted(builder.info.splits)}")
    return Contents(streams, class_names, list)


class _Many(NamedTuple):
    """How many classes there are, and the features of those that an image shows, and shows without doubt."""

    classes: int
    shown: str
    certain: str


def _classes(features: Any, label: str | None, name: str) -> tuple[tuple[str, ...] | None, _Many | None]:
    """The classes' names, where the set has them, and how to read the labels where there are many an image."""
    if label is None:
        return None, None
    many = is_many(features[label])
    feature = features[label].feature if many else features[label]
    names = tuple(str(class_name) for class_name in feature.names) if feature.num_classes else None
    if not many:
        return names, None
    if names is None:
        raise UserError(f"data set '{name}': {label} does not say how many classes there are")
    # VOC's: the classes that an image shows in an object that is not difficult.
    certain = f"{label}_no_difficult"
    return names, _Many(len(names), label, certain if certain in features else label)


def _open_split(builder: Any, split: str, image: str, name: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return builder.as_data_source(split=split, decoders={image: tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise UserError(
            f"data set '{name}': {builder.data_path} holds {builder.info.file_format.value}, expected "
            "array_record; convert it (python -m tensorflow_datasets.scripts.convert_format), or give "
            "another data_dir"
        ) from error
    except Exception as error:  # a damaged or missing shard: array_record raises its own types
        raise _damaged(name, builder.data_path, error) from error


class _Records(NamedTuple):
    """A split's records, still encoded, and which features of them count."""

    name: str
    split: str
    source: Any
    image: str
    label: str | None
    place: Any
    many: _Many | None = None


def _stream(records: _Records, channels: int | None, image_size: int, same: SameShape) -> Stream:
    count, many = len(records.source), records.many
    labelled = _labelled(records)
    labels = np.full((count, many.classes), -1, np.int8) if many else np.full(count, -1, np.int32)

    def where(index: int) -> str:
        return f"{records.name} {records.split}[{index}]"

    def load(share: Sequence[int]) -> list[np.ndarray | None]:
        images: list[np.ndarray | None] = []
        for index, record in zip(share, _read(records, share), strict=True):
            if labelled and many:
                labels[index, _numbers(record[many.shown])] = 0
                labels[index, _numbers(record[many.certain])] = 1
            elif labelled and records.label is not None:
                labels[index] = record[records.label]
            try:
                images.append(_image(record[records.image], channels, image_size, where(index)))
            except Broken as error:
                raise _damaged(records.name, records.place, error) from error
        return images

    def read() -> Iterator[Block]:
        for block, loaded in in_blocks(range(count), load):
            images = [image for image in loaded if image is not None]
            for index, image in zip(block, images, strict=True):
                same.check(image, where(index))
            known = labels[block[0] : block[-1] + 1]
            if labelled and not many and known.min() < 0:
                raise UserError(f"data set '{records.name}': {records.split} has labels for some images only")
            yield np.stack(images), known if labelled else None

    return Stream(count, labelled, read)


@dataclasses.dataclass(frozen=True)
class _Names:
    """The names of a split's images, made when they are asked for: a `Sequence` as far as `Files` needs one."""

    name: str
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> str:
        return f"{self.name}[{range(self.size)[index]}]"


def _files(records: _Records, channels: int | None, request: Request, labelled: bool) -> Files:
    """Random access to a split's images. Labels stand in the records beside the images: all are read once, and remembered."""
    count = len(records.source)
    labels: np.ndarray | None = None
    if labelled:
        key = {"tfds": str(records.place), "split": records.split, "label": records.label}
        place = folder_for(request.cache_dir, f"{records.name}-labels", key)
        kept = remembered(place, identity(str(records.place)), lambda: {"labels": _labels(records).tolist()})["labels"]
        labels = np.array(kept, np.int8 if records.many else np.int32)
    load = functools.partial(_at, records._replace(place=str(records.place)), channels, request.image_size)
    return Files(_Names(f"{records.name} {records.split}", count), labels, load)  # type: ignore[arg-type]


def _labels(records: _Records) -> np.ndarray:
    count, many = len(records.source), records.many
    labels = np.full((count, many.classes), -1, np.int8) if many else np.full(count, -1, np.int32)
    for start in range(0, count, _BLOCK):
        share = range(start, min(start + _BLOCK, count))
        for index, record in zip(share, _read(records, share), strict=True):
            if many:
                labels[index, _numbers(record[many.shown])] = 0
                labels[index, _numbers(record[many.certain])] = 1
            else:
                labels[index] = record[str(records.label)]
    if not many and labels.min() < 0:
        raise UserError(f"data set '{records.name}': {records.split} has labels for some images only")
    return labels


def _at(records: _Records, channels: int | None, image_size: int, name: str) -> np.ndarray | None:
    """The image of one of `_Names`."""
    index = int(name[name.rindex("[") + 1 : -1])
    try:
        return _image(_read(records, [index])[0][records.image], channels, image_size, name)
    except Broken:
        return None


def _labelled(records: _Records) -> bool:
    """Whether a split has labels: hidden ones are -1 in tfds, and no class in any image where there may be many."""
    if records.label is None:
        return False
    if records.many:
        first = _read(records, range(min(_BLOCK, len(records.source))))
        return any(len(record[records.label]) for record in first)
    return _read(records, [0])[0][records.label] >= 0


def _numbers(labels: Any) -> np.ndarray:
    return np.asarray(labels, np.int64)  # an empty list would be floats


def _read(records: _Records, indices: Sequence[int]) -> list[dict[str, Any]]:
    try:
        return records.source.__getitems__(list(indices))
    except Exception as error:  # as in _open_split
        raise _damaged(records.name, records.place, error) from error


def _image(data: bytes, channels: int | None, image_size: int, where: str) -> np.ndarray:
    pixels = decode(data, where)
    if channels == 3 and pixels.shape[-1] == 1:  # ImageNet's and Caltech's few grey photographs
        pixels = np.repeat(pixels, 3, axis=-1)
    return resize(pixels, image_size) if image_size else pixels


def _damaged(name: str, place: Any, error: Exception) -> UserError:
    return UserError(
        f"data set '{name}': damaged files in {place} ({first_line(error)}); delete that folder and prepare it again"
    )
