"""Images from a folder (`folder:DIR`), at any depth, with or without a folder for each class and train/val/test above them."""

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ssljax.data.formats import EXTENSIONS
from ssljax.data.listed import Reading, Remarks, by_channel, pattern, references, stream
from ssljax.data.listing import files_under
from ssljax.data.pixels import SameShape
from ssljax.data.source import NO_LABELS, Contents, Request, Source
from ssljax.errors import UserError

_SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}

PATH = "path"  # the column that tells of each image where it is

Layout = tuple[tuple[str, ...] | None, dict[str, list[tuple[str, int]]]]


def everything(folder: str) -> bool:
    """Keeps every folder."""
    return True


def source(request: Request, *, keep: Callable[[str], bool] = everything) -> Source:
    """A folder of images; its path follows the colon, or is `data_dir`, or lies in `data_dir`.

    Below DIR, or below DIR/train, DIR/validation (or val) and DIR/test, the first folder names the class;
    classes are numbered in alphabetical order. Images without class folders, or with "none" as the label, have no labels.
    An .npy of four axes is a stack of images; with `channel_files` an image is a file for each channel. What cannot be
    read, or lacks a channel, is left out and named in one warning; the column "path" tells of each other where it is. Hidden
    files and folders are ignored, links are followed.

    Args:
      request: what the user asked for.
      keep: from a folder's path below DIR, with "/", to whether it is looked into.

    Raises:
      UserError: no folder, no image, images beside class folders, a class that train does not have,
        images that differ in size (without `image_size`) or channels, a split without a sound image.
    """
    if not request.place and not request.data_dir:
        raise UserError(f"data set '{request.name}': expected a folder, as in {request.name.split(':')[0]}:DIR")
    root = os.path.abspath(os.path.expanduser(os.path.join(request.data_dir, request.place)))

    def open_() -> Contents:
        if not os.path.isdir(root):
            raise UserError(f"{root}: no such folder; expected one with images in a folder for each class")
        paths = images_under(root, keep, request.cache_dir)
        if not paths:
            raise UserError(f"{root}: no image in it; expected files that end in {' '.join(EXTENSIONS)}")
        same, remarks, lines = SameShape(), Remarks(), list[str]()
        of_image: dict[str, str] = {}  # an image's folder and stem -> its files, where a file is a channel
        if request.channel_files:
            of_image, others = by_channel(paths, pattern(request.channel_files), root, remarks)
            if not of_image:
                raise UserError(f"{root}: no image has all channels of --channel_files; {remarks.left_out[0]}")
            if others:
                lines.append(f"{root}: {others} of {len(paths)} images do not fit --channel_files and are not read")
        class_names, splits = layout(sorted(of_image) or paths, root, classes=request.label != NO_LABELS)
        reading = Reading(root, request.image_size, request.channels, joined=bool(of_image))
        streams = {}
        for split, files in splits.items():
            listed = [
                (reference, label)
                for path, label in files
                for reference in ([of_image[path]] if of_image else references(root, path))
            ]
            labels = np.array([label for _, label in listed], np.int32)
            labelled = class_names is not None and labels[0] >= 0
            names = [reference for reference, _ in listed]
            known = {PATH: np.array(names, np.str_)}
            streams[split] = stream(reading, names, labels if labelled else None, known, same, remarks)
        total = sum(one.size for one in streams.values()) + len(remarks.left_out)
        return Contents(streams, class_names, lambda: lines + remarks.lines(root, total))

    return Source(location=root, identity=lambda: identity(root, EXTENSIONS, keep, request.cache_dir), open=open_)


def layout(paths: Sequence[str], root: str, classes: bool = True) -> Layout:
    """Reads splits, classes and labels off the paths of the images.

    Args:
      paths: relative to `root`, with "/" between folders, sorted.
      root: for messages.
      classes: whether folders are classes.

    Returns:
      (class names or None, {split: [(path, label or -1)]}).

    Raises:
      UserError: images beside class folders, or a class that train does not have.
    """
    tops = {path.split("/")[0] if "/" in path else "" for path in paths}
    # "train" may as well be a class, beside "bus" and "car".
    if "train" in tops and tops <= set(_SPLIT_FOLDERS):
        splits: dict[str, list[tuple[str, ...]]] = {}
        for path in paths:
            top, rest = path.split("/", 1)
            splits.setdefault(_SPLIT_FOLDERS[top], []).append((path, *rest.split("/")))
    else:
        splits = {"train": [(path, *path.split("/")) for path in paths]}

    found: dict[str, set[str]] = {}
    for split, parts in splits.items():
        loose = [part[0] for part in parts if len(part) == 2 or not classes]
        if loose and len(loose) < len(parts):
            raise UserError(
                f"{root}: '{loose[0]}' lies beside class folders; move it into one of them, or --label={NO_LABELS}: they "
                "are no classes"
            )
        found[split] = set() if loose else {part[1] for part in parts}
    names = tuple(sorted(found["train"]))
    for split, given in found.items():
        if given - set(names):
            raise UserError(f"{root}: class '{min(given - set(names))}' of {split} is not in train")
    numbers = {name: number for number, name in enumerate(names)}
    labelled = {
        split: [(part[0], numbers[part[1]] if found[split] else -1) for part in parts]
        for split, parts in splits.items()
    }
    return names or None, labelled


def images_under(root: str, keep: Callable[[str], bool] = everything, cache_dir: str = "") -> list[str]:
    """The relative paths, with "/", of the image files in the folders that `keep` keeps, sorted."""
    return [file.path for file in files_under(root, keep, cache_dir) if file.path.lower().endswith(EXTENSIONS)]


def identity(
    root: str, extensions: tuple[str, ...] = ("",), keep: Callable[[str], bool] = everything, cache_dir: str = ""
) -> dict[str, Any]:
    """Number, bytes and a digest over path, size and modification time of the files below `root`, see `listing.files_under`.

    Returns:
      Empty when there is no such file.
    """
    files = [file for file in files_under(root, keep, cache_dir) if file.path.lower().endswith(extensions)]
    lines = "".join(f"{file.path}\0{file.size}\0{file.mtime}\n" for file in files)
    if not files:
        return {}
    return {
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "digest": hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest(),
    }
