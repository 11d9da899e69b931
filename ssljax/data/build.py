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

from ssljax.data.cache import CHUNK, FORMAT, NpyWriter, check_room, chunks, digest, record, writing
from ssljax.data.source import Contents, Stream
from ssljax.data.splits import Dataset, Split, plan
from ssljax.errors import UserError

# Reading that is over sooner shows no progress bar.
_PATIENCE_SECONDS = 2


def in_memory(name: str, contents: Contents, validation_fraction: float) -> Dataset:
    """A small set, without a cache: all splits in memory, read-only."""
    read: dict[str, Split] = {}
    for split, stream in _streams(contents).items():
        blocks = list(stream.read())
        known = [labels for _, labels in blocks if labels is not None]
        images = np.concatenate([images for images, _ in blocks])
        read[split] = Split(images, np.concatenate(known) if known else None)
    sizes = {split: len(data.images) for split, data in read.items()}
    targets = {split: data.labels for split, data in read.items()}
    splits: dict[str, Split] = {}
    for split, (origin, rows) in plan(sizes, targets, validation_fraction, name).items():
        chosen = slice(None) if rows is None else rows
        images, labels = read[origin]
        part = Split(images[chosen], None if labels is None else labels[chosen])
        for array in part:
            if array is not None:
                array.flags.writeable = False
        splits[split] = part
    digests = {
        split: [array if array is None else content_of(array) for array in part] for split, part in splits.items()
    }
    mean, std = channel_statistics(splits["train"].images)
    return Dataset(name, splits, contents.class_names, mean, std, fingerprint(digests, contents.class_names))


def write(
    folder: str, name: str, contents: Contents, identity: dict[str, Any], validation_fraction: float
) -> dict[str, Any]:
    """Writes a set into `folder`, two .npy files a split, and returns the manifest's content.

    Raises:
      UserError: a split without a sound image, splits that differ in shape, or a folder that cannot be
        written to.
    """
    sizes, labels = _write_streams(folder, name, contents, validation_fraction)
    files: dict[str, dict[str, Any]] = {}
    parts = plan(sizes, labels, validation_fraction, name)
    with writing(folder):
        for split, (origin, rows) in parts.items():
            files[split] = _write_split(folder, split, origin, rows, labels[origin])
        for origin in sizes:
            if os.path.exists(_raw(folder, origin)):
                os.remove(_raw(folder, origin))
    train = np.load(os.path.join(folder, files["train"]["images"]["file"]), mmap_mode="r")
    mean, std = channel_statistics(train)
    digests = {
        split: [entry and [entry["dtype"], entry["shape"], entry["sha256"]] for entry in pair.values()]
        for split, pair in files.items()
    }
    return {
        "format": FORMAT,
        "name": name,
        "identity": identity,
        "class_names": contents.class_names and list(contents.class_names),
        "mean": mean,
        "std": std,
        "fingerprint": fingerprint(digests, contents.class_names),
        "notes": contents.notes(),
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
    folder: str, split: str, origin: str, indices: np.ndarray | None, labels: np.ndarray | None
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
    files: dict[str, Any] = {"images": record(path), "labels": None}
    if labels is not None:
        path = os.path.join(folder, f"{split}.labels.npy")
        np.save(path, labels if indices is None else labels[indices])
        files["labels"] = record(path)
    return files


def _streams(contents: Contents) -> dict[str, Stream]:
    """The source's splits to read; a test split whose labels are withheld gives way to validation."""
    streams = dict(contents.streams)
    withheld = "test" in streams and not streams["test"].labelled and streams["train"].labelled
    if withheld and "validation" in streams and streams["validation"].labelled:
        del streams["test"]
    return streams


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
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
