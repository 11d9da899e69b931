"""From an opened source to a `Dataset`: reads the streams, holds out splits, measures, fingerprints."""

import contextlib
import hashlib
import json
import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ssljax.data.cache import (
    CHUNK,
    FORMAT,
    NpyWriter,
    check_room,
    chunks,
    content_of_columns,
    digest,
    record,
    record_columns,
    writing,
)
from ssljax.data.files import Decoded, Files, decoded
from ssljax.data.source import Block, Contents, Stream
from ssljax.data.splits import Dataset, Split, plan, some
from ssljax.errors import UserError, unknown

# The column of what should stand alike on both sides of a split of groups.
BATCH = "plate"
# Reading that is over sooner shows no progress bar.
_PATIENCE_SECONDS = 2
_NAMED = 5  # classes named in a line


# Images that the mean and deviation of channels are measured on where measuring all would decode all of them: 50,000,000 pixels
# even of 70 x 70 (our choice).
SAMPLE = 10_000

NO_GROUPS = "none"  # as `--group`: images are held out one by one


def in_memory(name: str, contents: Contents, validation_fraction: float, group: str = "") -> Dataset:
    """A small set, without a cache: all splits in memory, read-only."""
    read: dict[str, Split] = {}
    for split, stream in _streams(contents).items():
        blocks: list[Block] = []
        for images, labels in stream.read():
            if images[:1].nbytes * stream.size > _memory() / 2:  # they are put together, and so there twice
                gigabytes = images[:1].nbytes * stream.size / 2**30
                raise UserError(f"{name}: {gigabytes:,.0f} GB of images do not fit in memory; give a smaller --resize")
            blocks.append((images, labels))
        known = [labels for _, labels in blocks if labels is not None]
        images = np.concatenate([images for images, _ in blocks])
        read[split] = Split(images, np.concatenate(known) if known else None, stream.columns())
    sizes = {split: len(data.images) for split, data in read.items()}
    targets = {split: data.labels for split, data in read.items()}
    splits: dict[str, Split] = {}
    groups = _groups(name, group or contents.group, read["train"].columns)
    batches = read["train"].columns.get(BATCH)
    for split, (origin, rows) in plan(sizes, targets, validation_fraction, name, groups, batches).items():
        splits[split] = read[origin] if rows is None else read[origin].rows(rows)
    return _described(name, splits, contents.class_names)


def _memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def looked_at(name: str, contents: Contents) -> dict[str, Any]:
    """What must be decoded to be known of a set whose images stay in their files: shape, dtype, mean and std of images.

    Mean and deviation are those of at most `SAMPLE` training images, evenly spread over the set.

    Raises:
      UserError: a source whose images cannot be read one by one, or a split without a sound image.
    """
    with _quiet_readers():
        train = decoded(_files(name, contents)["train"])
        sample = train.take(np.linspace(0, len(train) - 1, min(SAMPLE, len(train))).astype(int))
        mean, std = channel_statistics(sample)
    return {"shape": list(sample.shape[1:]), "dtype": str(sample.dtype), "mean": mean, "std": std}


def in_files(
    name: str,
    contents: Contents,
    identity: dict[str, Any],
    validation_fraction: float,
    group: str,
    known: Mapping[str, Any],
) -> Dataset:
    """A set whose images stay in their files, to be decoded when they are read.

    The fingerprint is made of the files' names, their bytes in all, labels and columns: nothing is decoded for it, and a copy of
    the files has the same.

    Args:
      name: the data set.
      contents: the opened source.
      identity: the source's.
      validation_fraction: see `plan`.
      group: the column whose values are kept together; `NO_GROUPS` for none, "" for the source's own choice.
      known: from `looked_at`.

    Raises:
      UserError: a source whose images cannot be read one by one, or what `plan` raises.
    """
    files = _files(name, contents)
    sizes = {split: len(each.paths) for split, each in files.items()}
    labels = {split: each.labels for split, each in files.items()}
    columns = files["train"].columns
    groups = _groups(name, group or contents.group, columns)
    shape, dtype = tuple(known["shape"]), np.dtype(known["dtype"])
    whole = {split: Split(decoded(each, (shape, dtype)), each.labels, each.columns) for split, each in files.items()}
    splits: dict[str, Split] = {}
    digests: dict[str, list[Any]] = {}
    for split, (origin, rows) in plan(sizes, labels, validation_fraction, name, groups, columns.get(BATCH)).items():
        splits[split] = one = whole[origin] if rows is None else whole[origin].rows(rows)
        names = hashlib.sha256(
            "\0".join(map(one.images.name_of, range(len(one.images)))).encode("utf-8", "surrogateescape")
        )
        digests[split] = [
            [str(dtype), [len(one.images), *shape], names.hexdigest()],
            one.labels if one.labels is None else content_of(one.labels),
            *([content_of_columns(one.columns)] if one.columns else []),
            identity.get("bytes"),
        ]
    mean, std = tuple(known["mean"]), tuple(known["std"])
    return Dataset(name, splits, contents.class_names, mean, std, fingerprint(digests, contents.class_names))


def _files(name: str, contents: Contents) -> dict[str, Files]:
    """The source's splits where each image can be read by itself."""
    streams = _streams(contents)
    files = {split: stream.files for split, stream in streams.items() if stream.files is not None}
    if len(files) < len(streams):
        raise UserError(
            f"--stream=decode: the images of {name} cannot be read one by one; that is for folder:, imagenet100:, table: and tfds "
            "sets; give --stream=cache"
        )
    return files


def part(dataset: Dataset, most: int) -> Dataset:
    """A data set of at most so many images of each split: stratified parts, always the same, copied into memory.

    Images are drawn regardless of their labels where these are many an image, or of more classes than `most`.

    Args:
      dataset: what is chosen from.
      most: images of a split; 0 for all.

    Returns:
      The part, with the mean, deviation and fingerprint of what is in it; `dataset` itself where nothing is left out. Images
      that are decoded as they are read stay so, and keep the whole set's mean and deviation.
    """
    if not most or all(len(split.images) <= most for split in dataset.splits.values()):
        return dataset
    splits: dict[str, Split] = {}
    for name, split in dataset.splits.items():
        size, labels = len(split.images), split.labels
        if size > most:
            classes = None if labels is None or labels.ndim > 1 or len(np.unique(labels)) > most else labels
            split = split.rows(some(size, classes, most))
        splits[name] = split
    if isinstance(splits["train"].images, Decoded):
        return dataset._replace(splits=splits, fingerprint=fingerprint({"part": [dataset.fingerprint, most]}, None))
    return _described(dataset.name, splits, dataset.class_names)


def _described(name: str, splits: dict[str, Split], class_names: tuple[str, ...] | None) -> Dataset:
    """The set of these splits, which are made read-only, with what is measured on them."""
    for split in splits.values():
        for array in (split.images, split.labels, *split.columns.values()):
            if array is not None:
                array.flags.writeable = False
    digests = {
        name: [
            content_of(split.images),
            split.labels if split.labels is None else content_of(split.labels),
            *([content_of_columns(split.columns)] if split.columns else []),
        ]
        for name, split in splits.items()
    }
    mean, std = channel_statistics(splits["train"].images)
    return Dataset(name, splits, class_names, mean, std, fingerprint(digests, class_names))


def _groups(name: str, group: str, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The group of each image; None where images stand for themselves.

    Raises:
      UserError: a column that the images do not have.
    """
    if not group or group == NO_GROUPS:
        return None
    if not columns:
        raise UserError(
            f"--group: nothing is known of the images of {name} but their labels, given {group}; expected none"
        )
    if group not in columns:
        raise unknown("column", group, [*columns, NO_GROUPS], "--group")
    return columns[group]


def write(
    folder: str,
    name: str,
    contents: Contents,
    identity: dict[str, Any],
    validation_fraction: float,
    group: str = "",
) -> dict[str, Any]:
    """Writes a set into `folder`, two .npy files a split and one .npz of its columns, and returns the manifest's content.

    Args:
      folder: new and empty.
      name: the data set.
      contents: the opened source.
      identity: the source's.
      validation_fraction: see `plan`.
      group: the column whose values are kept together; `NO_GROUPS` for none, "" for the source's own choice.

    Raises:
      UserError: a split without a sound image, splits that differ in shape, a group that is no column, or a folder that cannot be
        written to.
    """
    sizes, labels = _write_streams(folder, name, contents, validation_fraction)
    columns = {split: stream.columns() for split, stream in _streams(contents).items()}
    files: dict[str, dict[str, Any]] = {}
    groups = _groups(name, group or contents.group, columns["train"])
    parts = plan(sizes, labels, validation_fraction, name, groups, columns["train"].get(BATCH))
    with writing(folder):
        for split, (origin, rows) in parts.items():
            files[split] = _write_split(folder, split, origin, rows, labels[origin], columns[origin])
        for origin in sizes:
            if os.path.exists(_raw(folder, origin)):
                os.remove(_raw(folder, origin))
    train = np.load(os.path.join(folder, files["train"]["images"]["file"]), mmap_mode="r")
    mean, std = channel_statistics(train)
    digests = {
        split: [
            *(
                parts[kind] and [parts[kind][of] for of in ("dtype", "shape", "sha256")]
                for kind in ("images", "labels")
            ),
            *([parts["columns"]["sha256"]] if parts["columns"] else []),
        ]
        for split, parts in files.items()
    }
    lost = [] if groups is None else _without(name, parts, groups, labels["train"], contents.class_names)
    return {
        "format": FORMAT,
        "name": name,
        "identity": identity,
        "class_names": contents.class_names and list(contents.class_names),
        "mean": mean,
        "std": std,
        "fingerprint": fingerprint(digests, contents.class_names),
        "notes": [*contents.notes(), *lost],
        "splits": files,
    }


def _write_streams(
    folder: str, name: str, contents: Contents, validation_fraction: float
) -> tuple[dict[str, int], dict[str, np.ndarray | None]]:
    """Writes the images of each of the source's splits to a file; returns their sizes and labels."""
    from tqdm import tqdm

    streams = _streams(contents)
    total = sum(stream.size for stream in streams.values())
    # Splitting train writes its images a second time.
    rows = total + (streams["train"].size if "test" not in streams or validation_fraction else 0)
    sizes: dict[str, int] = {}
    labels: dict[str, np.ndarray | None] = {}
    kind: tuple[tuple[int, ...], np.dtype] | None = None
    bar = tqdm(total=total, desc=f"reading {name}", unit="image", delay=_PATIENCE_SECONDS, disable=None)
    with bar, _quiet_readers():
        for split, stream in streams.items():
            found: list[np.ndarray] = []
            writer: NpyWriter | None = None
            for images, targets in stream.read():
                if kind is None:
                    kind = images.shape[1:], images.dtype
                    check_room(folder, rows * images[0].nbytes)
                with writing(folder):
                    writer = writer or NpyWriter(_raw(folder, split), *kind)
                    writer.append(images)
                if targets is not None:
                    found.append(targets)
                sizes[split] = sizes.get(split, 0) + len(images)
                bar.update(len(images))
            if writer is None:
                raise UserError("; ".join([f"{name}: no image of {split} can be read", *contents.notes()]))
            with writing(folder):
                writer.close()
            labels[split] = np.concatenate(found) if found else None
    return sizes, labels


@contextlib.contextmanager
def _quiet_readers() -> Iterator[None]:
    """Without Pillow's and tifffile's remarks on single files: what is broken is told once, in the notes."""
    log = logging.getLogger("tifffile")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            log.setLevel(level)


def _raw(folder: str, split: str) -> str:
    return os.path.join(folder, f"source.{split}.npy")


def _write_split(
    folder: str,
    split: str,
    origin: str,
    indices: np.ndarray | None,
    labels: np.ndarray | None,
    columns: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    path = os.path.join(folder, f"{split}.images.npy")
    if indices is None:
        os.rename(_raw(folder, origin), path)
    else:
        images = np.load(_raw(folder, origin), mmap_mode="r")
        writer = NpyWriter(path, images.shape[1:], images.dtype)
        rows = max(1, CHUNK // images[0].nbytes)
        for start in range(0, len(indices), rows):
            writer.append(images[indices[start : start + rows]])
        writer.close()
    files: dict[str, Any] = {"images": record(path), "labels": None, "columns": None}
    if labels is not None:
        path = os.path.join(folder, f"{split}.labels.npy")
        np.save(path, labels if indices is None else labels[indices])
        files["labels"] = record(path)
    if columns:
        path = os.path.join(folder, f"{split}.columns.npz")
        held = {name: column if indices is None else column[indices] for name, column in columns.items()}
        np.savez_compressed(path, *held.values())
        files["columns"] = record_columns(path, held)
    return files


def _without(
    name: str,
    parts: Mapping[str, tuple[str, np.ndarray | None]],
    groups: np.ndarray,
    labels: np.ndarray | None,
    class_names: tuple[str, ...] | None,
) -> list[str]:
    """A line for each split that came to be one group alone, or lacks a class of the images it was drawn from."""
    lines = []
    for split, (_, rows) in parts.items():
        if rows is None:
            continue
        if len(np.unique(groups[rows])) == 1:
            lines.append(f"{name}: all {len(rows)} images of {split} are of one group, {groups[rows[0]]}")
        if labels is None or labels.ndim > 1:
            continue
        if len(missing := np.setdiff1d(labels, labels[rows])):
            named = ", ".join(class_names[i] if class_names else str(i) for i in missing[:_NAMED])
            count = f"{len(missing)} classes whose images" if len(missing) > 1 else "a class whose images"
            lines.append(f"{name}: {split} has none of {count} stand in few groups: {named}")
    return lines


def _streams(contents: Contents) -> dict[str, Stream]:
    """The source's splits to read; a test split whose labels are withheld gives way to validation."""
    streams = dict(contents.streams)
    withheld = "test" in streams and not streams["test"].labelled and streams["train"].labelled
    if withheld and "validation" in streams and streams["validation"].labelled:
        del streams["test"]
    return streams


def channel_statistics(images: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, the largest value of the dtype counting as 1.

    Sums are exact integers, so that the result does not depend on the order or the size of the chunks.

    Args:
      images: uint8 or uint16 [n, h, w, c].

    Returns:
      (mean, std), std divided by n h w (biased), each a tuple of c.
    """
    channels = images.shape[-1]
    first, second = [0] * channels, [0] * channels
    for chunk in chunks(images):
        # 65535^2 times the 2^23 pixels of a chunk stays below 2^64.
        values = np.asarray(chunk).reshape(-1, channels).astype(np.uint64)
        for channel in range(channels):
            column = np.ascontiguousarray(values[:, channel])
            first[channel] += int(column.sum())
            second[channel] += int(column @ column)
    count, peak = images.size // channels, int(np.iinfo(images.dtype).max)
    mean = tuple(total / (count * peak) for total in first)
    std = tuple(
        math.sqrt((squares * count - total * total) / (count * count * peak * peak))
        for total, squares in zip(first, second, strict=True)
    )
    return mean, std


def content_of(array: np.ndarray) -> list[Any]:
    """dtype, shape and sha256 of an array: what `fingerprint` takes of it."""
    return [str(array.dtype), list(array.shape), digest(array)]


def fingerprint(digests: Mapping[str, list[Any]], class_names: tuple[str, ...] | None) -> str:
    """sha256 (hex) over dtype, shape and digest of images and labels of all splits, and the class names.

    The same content has the same fingerprint, whatever it was read from.
    """
    text = json.dumps([sorted(digests.items()), class_names], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
