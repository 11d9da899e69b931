"""Images from a NumPy archive (`npz:FILE`), and streams over arrays in memory."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ssljax.data.pixels import in_blocks, resize
from ssljax.data.source import Block, Contents, Request, Source, Stream
from ssljax.errors import UserError

# Names of images and labels in an archive: ours, MedMNIST's and Keras'.
_KEYS = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels")),
    "validation": (
        ("validation_images", "validation_labels"),
        ("val_images", "val_labels"),
        ("x_val", "y_val"),
    ),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}


def array_stream(images: np.ndarray, labels: np.ndarray | None, image_size: int) -> Stream:
    """A stream over images [n, h, w, c] and labels int32 [n] in memory, resized when `image_size` asks."""

    def load(share: Any) -> list[np.ndarray | None]:
        return [resize(images[i], image_size) if image_size else images[i] for i in share]

    def read() -> Iterator[Block]:
        for block, loaded in in_blocks(range(len(images)), load):
            stacked = np.stack([image for image in loaded if image is not None])
            yield stacked, None if labels is None else labels[block.start : block.stop]  # type: ignore[attr-defined]

    return Stream(len(images), labels is not None, read)


def source(request: Request) -> Source:
    """An .npz archive; its path follows the colon, or is `data_dir`, or lies in `data_dir`.

    Images [n, h, w] or [n, h, w, c], uint8, uint16, or float in [0, 1] (rounded to uint8); labels integers
    [n] or [n, 1], which may be left out. Keys: images/labels, train_images/train_labels and so on, or
    x_train/y_train and so on.

    Raises:
      UserError: no file, no archive, unknown keys, unusable dtype, shape or length.
    """
    if not request.place and not request.data_dir:
        raise UserError(f"data set '{request.name}': expected a file, as in npz:FILE")
    path = os.path.abspath(os.path.expanduser(os.path.join(request.data_dir, request.place).rstrip("/")))

    def identity() -> dict[str, Any]:
        try:
            stat = os.stat(path)
        except OSError:
            return {}
        return {"file": os.path.basename(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}

    def open_() -> Contents:
        arrays = _read(path)
        notes: list[str] = []
        streams: dict[str, Stream] = {}
        first: np.ndarray | None = None
        for split, names in _KEYS.items():
            found = next((pair for pair in names if pair[0] in arrays), None)
            if found is None:
                continue
            images = _checked_images(arrays[found[0]], f"{path}: '{found[0]}'", notes)
            labels = None
            if found[1] in arrays:
                labels = _checked_labels(arrays[found[1]], len(images), f"{path}: '{found[1]}'")
            first = images if first is None else first
            fixed = 3 if request.image_size else 1  # resizing leaves only the channels to agree on
            if (images.shape[fixed:], images.dtype) != (first.shape[fixed:], first.dtype):
                raise UserError(
                    f"{path}: '{found[0]}' is {images.dtype} {images.shape[1:]}, the images before it are "
                    f"{first.dtype} {first.shape[1:]}; all splits must agree"
                )
            streams[split] = array_stream(images, labels, request.image_size)
        if "train" not in streams:
            raise UserError(
                f"{path}: expected the key 'images', 'train_images' or 'x_train', "
                f"found {', '.join(sorted(arrays)) or 'none'}"
            )
        return Contents(streams, None, lambda: notes)

    return Source(location=path, identity=identity, open=open_)


def _read(path: str) -> dict[str, np.ndarray]:
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; expected a .npz archive")
    wanted = {key for pairs in _KEYS.values() for pair in pairs for key in pair}
    try:
        opened = np.load(path, allow_pickle=False)
        if isinstance(opened, np.ndarray):
            raise UserError(f"{path}: not a .npz archive (a single array); save it with numpy.savez")
        with opened as archive:
            # Members nobody asks for are not read: they may be huge or not arrays at all.
            found = {key: archive[key] for key in archive.files if key in wanted}
            return found or {key: np.empty(0) for key in archive.files}
    except UserError:
        raise
    except Exception as error:  # of zipfile, of its decompressors, or of the tokenizer that NumPy reads headers with
        raise UserError(f"{path}: not a readable .npz archive ({error})") from error


def _checked_images(images: np.ndarray, where: str, notes: list[str]) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise UserError(f"{where} has shape {images.shape}; expected [n, h, w] or [n, h, w, c]")
    if 0 in images.shape:
        raise UserError(f"{where} has shape {images.shape}: no image, or images of 0 pixels")
    # Nobody's images are 4 pixels high and have 17 channels: these are PyTorch's [n, c, h, w].
    if images.shape[1] <= 4 and images.shape[3] > 16:
        raise UserError(f"{where} has shape {images.shape}; expected channels last, [n, h, w, c]")
    native = images.dtype.newbyteorder("=")
    if native in (np.uint8, np.uint16):
        return images.astype(native, copy=False)
    if images.dtype.kind != "f":
        raise UserError(f"{where} is {images.dtype}; expected uint8, uint16 or float in [0, 1]")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # also catches nan
        raise UserError(f"{where} has float values from {low:g} to {high:g}; expected [0, 1]")
    notes.append(f"{where} holds floats: rounded to uint8")
    return np.rint(images * 255).astype(np.uint8)


def _checked_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:  # Keras' CIFAR
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise UserError(f"{where} has shape {labels.shape}; expected [{count}], a label an image")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{where} is {labels.dtype}; expected integers")
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise UserError(f"{where} has values {labels.min()} to {labels.max()}; expected classes from 0 on")
    return labels.astype(np.int32)
