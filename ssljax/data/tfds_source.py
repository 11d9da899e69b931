"""Any image set of TensorFlow Datasets by its name, read from array_record files without TensorFlow.

Preparing a set that is not on disk may need the network and, for some sets, TensorFlow; reading never does.
The records hold the encoded images, which are decoded here.
"""

import contextlib
import difflib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssljax.data.folder import identity
from ssljax.data.pixels import Broken, SameShape, decode, in_blocks, resize
from ssljax.data.source import Block, Contents, Request, Source, Stream
from ssljax.errors import UserError

_log = logging.getLogger(__name__)

# Of requests, by name so that it need not be imported.
_NETWORK_ERRORS = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError", "SSLError")

# A tfds name: set, then /configuration, then :version.
_NAME = re.compile(r"\w+(/[\w.\-]+)?(:(\d+|\*)(\.(\d+|\*)){2})?")

# Attempts per download instead of tfds' ten, which keep a machine without network waiting for minutes.
_RETRIES = 4


def source(request: Request) -> Source:
    """A tfds set, such as mnist, cifar10:3.0.2 or caltech_birds2011; the first Image feature and
    the ClassLabel of the set's supervised pair, else the first, are used.

    `data_dir` defaults to tfds' own, $TFDS_DATA_DIR or ~/tensorflow_datasets. A set that is not prepared
    there is prepared, from files in `manual_dir` where that holds the downloads by their own names.

    Raises:
      UserError: an unknown name or version, a set that cannot be prepared, or one without images.
    """
    name, root, folder = _place(request)

    def open_() -> Contents:
        with _opened(request) as builder:
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
    with _opened(request) as builder:
        features = builder.info.features
        image, label = _image_and_label(builder, name)
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


def _place(request: Request) -> tuple[str, str, str]:
    """The set's name, the folder of all sets, and the set's own."""
    name = request.name.lower()
    default = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    root = os.path.abspath(os.path.expanduser(request.data_dir or default))
    # Every version of the set: a new one beside the old one may change what the bare name means.
    return name, root, os.path.join(root, name.partition(":")[0].partition("/")[0])


@contextlib.contextmanager
def _opened(request: Request) -> Iterator[Any]:
    """The builder of a prepared set, while tfds is kept quiet."""
    name, root, folder = _place(request)
    try:
        import tensorflow_datasets  # noqa: F401
    except ImportError as error:
        raise UserError(f"data set '{request.name}': needs tensorflow-datasets ({error})") from error
    with _quiet():
        yield _prepared(name, request, root, folder)


def _image_and_label(builder: Any, name: str) -> tuple[str, str | None]:
    """The features that hold the image and its label."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    items = list(features.items()) if hasattr(features, "items") else []
    image = next((key for key, feature in items if isinstance(feature, tfds.features.Image)), None)
    # CIFAR-100 has two label features, and their order is not kept in the files of a prepared set: the supervised one decides.
    first = sorted(items, key=lambda item: item[0] not in (builder.info.supervised_keys or ()))
    label = next((key for key, feature in first if isinstance(feature, tfds.features.ClassLabel)), None)
    if image is None:
        raise UserError(f"data set '{name}': no image feature among {[key for key, _ in items]}")
    if features[image].np_dtype not in (np.uint8, np.uint16):
        raise UserError(f"data set '{name}': images are {features[image].np_dtype}; expected uint8 or uint16")
    return image, label


def _contents(builder: Any, request: Request, name: str) -> Contents:
    features = builder.info.features
    image, label = _image_and_label(builder, name)
    class_names = None
    if label is not None and features[label].num_classes:
        class_names = tuple(str(class_name) for class_name in features[label].names)

    same, streams = SameShape(), dict[str, Stream]()
    for split in ("train", "validation", "test"):
        if split in builder.info.splits and builder.info.splits[split].num_examples:
            source = _open_split(builder, split, image, name)
            records = _Records(name, split, source, image, label, builder.data_path)
            streams[split] = _stream(records, features[image].shape[-1], request.image_size, same)
    if "train" not in streams:
        raise UserError(f"data set '{name}': no train split among {sorted(builder.info.splits)}")
    return Contents(streams, class_names, list)


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


def _stream(records: _Records, channels: int | None, image_size: int, same: SameShape) -> Stream:
    count = len(records.source)
    # Hidden test labels are -1 in tfds.
    labelled = records.label is not None and _read(records, [0])[0][records.label] >= 0
    labels = np.full(count, -1, np.int32)

    def where(index: int) -> str:
        return f"{records.name} {records.split}[{index}]"

    def load(share: Sequence[int]) -> list[np.ndarray | None]:
        images: list[np.ndarray | None] = []
        for index, record in zip(share, _read(records, share), strict=True):
            if labelled and records.label is not None:
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
            if labelled and known.min() < 0:
                raise UserError(f"data set '{records.name}': {records.split} has labels for some images only")
            yield np.stack(images), known if labelled else None

    return Stream(count, labelled, read)


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
        f"data set '{name}': damaged files in {place} ({_first_line(error)}); delete that folder and prepare it again"
    )


def _prepared(name: str, request: Request, root: str, folder: str) -> Any:
    """The builder of a set that is on disk, prepared now if it was not."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    if not _NAME.fullmatch(name):
        raise _unknown(request.name, [], root)
    try:
        builder = tfds.builder(name, data_dir=root)
    except registered.DatasetNotFoundError as error:
        raise _unknown(request.name, registered.list_imported_builders(), root) from error
    except Exception as error:  # an unknown version or config: tfds asserts
        raise UserError(f"data set '{request.name}': {_first_line(error)}") from error
    if builder.is_prepared():
        return builder

    looked = f"data set '{request.name}': not prepared in {builder.data_path}"
    if os.path.isdir(folder):
        looked += f" (that folder's versions: {', '.join(sorted(os.listdir(folder))) or 'none'})"
    if request.manual_dir and not os.path.isdir(os.path.expanduser(request.manual_dir)):
        raise UserError(f"{looked}; manual_dir {request.manual_dir}: no such folder")
    _log.info("%s; preparing it, downloads included", looked)
    try:
        _prepare(builder, request.manual_dir)
    except Exception as error:  # the network, a checksum, a full disk, a missing module: each its own type
        raise UserError(f"{looked}; {_reason(error, request)}") from error
    return builder


def _prepare(builder: Any, manual_dir: str) -> None:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    config = tfds.download.DownloadConfig(manual_dir=os.path.expanduser(manual_dir) or None)
    module = vars(downloader)  # tfds has no option for the retries
    before = module.get("MAX_RETRIES")
    module["MAX_RETRIES"] = _RETRIES
    try:
        builder.download_and_prepare(download_config=config, file_format="array_record")
    finally:
        module["MAX_RETRIES"] = before


def _reason(error: BaseException, request: Request) -> str:
    """Why preparing failed and what helps, from the error or any that it was raised from."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    missing = next((e.name for e in chain if isinstance(e, ModuleNotFoundError) and e.name), None)
    if missing and missing.split(".")[0] == "tensorflow":
        return "preparing it needs TensorFlow: pip install ssljax[prepare]"
    if missing:
        return f"preparing it needs the module {missing}: pip install {missing}"
    if any(type(e).__name__ in _NETWORK_ERRORS for e in chain):
        return "downloading failed, no network? Give manual_dir with its files, or a prepared data_dir"
    return f"preparing it failed: {_first_line(error)}"


def _unknown(name: str, known: Sequence[str], root: str) -> UserError:
    bare = name.lower().partition(":")[0]
    near = difflib.get_close_matches(bare, ["digits", "folder", "npz", *known], n=1)
    known = "digits, folder:DIR, imagenet100:DIR, npz:FILE or a tfds set's name"
    hint = f"did you mean '{near[0]}'?" if near else f"expected {known}"
    path = os.path.expanduser(name)
    if os.path.exists(path):
        hint = f"did you mean '{'folder' if os.path.isdir(path) else 'npz'}:{name}'?"
    return UserError(f"unknown data set '{name}' (also looked in {root}); {hint}")


def _first_line(error: BaseException) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"^Failed to construct dataset .*?\}\": ", "", line).rstrip(": ")  # tfds' own preamble


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without tfds' prints and warnings; its download bars stay where someone watches."""
    import tensorflow_datasets as tfds

    disabled = logging.root.manager.disable
    watched = sys.stderr.isatty()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        if not watched:
            tfds.disable_progress_bar()
        try:
            yield
        finally:
            logging.disable(disabled)
            if not watched:
                tfds.enable_progress_bar()
