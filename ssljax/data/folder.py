"""Images from a folder (`folder:DIR`), a folder for each class, with or without train/val/test above them."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ssljax.data.pixels import Broken, SameShape, decode, in_blocks, resize
from ssljax.data.source import Block, Contents, Request, Source, Stream
from ssljax.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
# Broken files that a warning names before it only counts.
_NAMED = 5

Layout = tuple[tuple[str, ...] | None, dict[str, list[tuple[str, int]]]]


def everything(folder: str) -> bool:
    """Keeps every folder."""
    return True


def source(request: Request, *, keep: Callable[[str], bool] = everything) -> Source:
    """A folder of images; its path follows the colon, or is `data_dir`, or lies in `data_dir`.

    Below DIR, or below DIR/train, DIR/validation (or val) and DIR/test, the first folder names the class;
    classes are numbered in alphabetical order. Images without class folders have no labels. Files that
    cannot be decoded are left out and named in one warning. Hidden files and folders are ignored, links are
    followed.

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
        paths = images_under(root, keep)
        if not paths:
            raise UserError(f"{root}: no image in it; expected files that end in {' '.join(EXTENSIONS)}")
        class_names, splits = layout(paths, root)
        same, broken = SameShape(), list[str]()

        def notes() -> list[str]:
            if not broken:
                return []
            named = ", ".join(broken[:_NAMED])
            more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
            count = f"{len(broken)} of {len(paths)}"
            return [f"{root}: {count} images cannot be read and are left out: {named}{more}"]

        streams = {
            split: _stream(root, files, class_names is not None, request.image_size, same, broken)
            for split, files in splits.items()
        }
        return Contents(streams, class_names, notes)

    return Source(location=root, identity=lambda: identity(root, EXTENSIONS, keep), open=open_)


def _stream(
    root: str,
    files: Sequence[tuple[str, int]],
    has_classes: bool,
    image_size: int,
    same: SameShape,
    broken: list[str],
) -> Stream:
    labelled = has_classes and files[0][1] >= 0

    def load(share: Sequence[tuple[str, int]]) -> list[np.ndarray | None]:
        return [_load(os.path.join(root, path), image_size) for path, _ in share]

    def read() -> Iterator[Block]:
        for block, images in in_blocks(files, load):
            sound, labels = list[np.ndarray](), list[int]()
            for (path, label), image in zip(block, images, strict=True):
                if image is None:
                    broken.append(path)
                    continue
                same.check(image, os.path.join(root, path))
                sound.append(image)
                labels.append(label)
            if sound:
                yield np.stack(sound), np.array(labels, np.int32) if labelled else None

    return Stream(len(files), labelled, read)


def _load(path: str, image_size: int) -> np.ndarray | None:
    try:
        with open(path, "rb") as file:
            image = decode(file.read(), path)
    except (Broken, OSError):
        return None
    return resize(image, image_size) if image_size else image


def layout(paths: Sequence[str], root: str) -> Layout:
    """Reads splits, classes and labels off the paths of the images.

    Args:
      paths: relative to `root`, with "/" between folders, sorted.
      root: for messages.

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

    classes: dict[str, set[str]] = {}
    for split, parts in splits.items():
        loose = [part[0] for part in parts if len(part) == 2]
        if loose and len(loose) < len(parts):
            raise UserError(f"{root}: '{loose[0]}' lies beside class folders; move it into one of them")
        classes[split] = set() if loose else {part[1] for part in parts}
    names = tuple(sorted(classes["train"]))
    for split, given in classes.items():
        if given - set(names):
            raise UserError(f"{root}: class '{min(given - set(names))}' of {split} is not in train")
    numbers = {name: number for number, name in enumerate(names)}
    labelled = {
        split: [(part[0], numbers[part[1]] if classes[split] else -1) for part in parts]
        for split, parts in splits.items()
    }
    return names or None, labelled


def images_under(root: str, keep: Callable[[str], bool] = everything) -> list[str]:
    """The relative paths, with "/", of the image files in the folders that `keep` keeps, sorted."""
    return [path for path, _ in files_under(root, keep) if path.lower().endswith(EXTENSIONS)]


def files_under(root: str, keep: Callable[[str], bool] = everything) -> list[tuple[str, os.stat_result]]:
    """All files below `root` as (relative path with "/", stat), sorted; nothing hidden; links followed.

    Folders that `keep` refuses are not even listed: of a set of a million files only those wanted cost time.
    """

    def below(path: str) -> str:
        return os.path.relpath(path, root).replace(os.sep, "/")

    found: list[tuple[str, os.stat_result]] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and keep(below(os.path.join(folder, n))))
        for name in names:
            path = os.path.join(folder, name)
            if not name.startswith(".") and os.path.isfile(path):
                found.append((below(path), os.stat(path)))
    return sorted(found, key=lambda item: item[0])


def identity(
    root: str, extensions: tuple[str, ...] = ("",), keep: Callable[[str], bool] = everything
) -> dict[str, Any]:
    """Number, bytes and a digest over path, size and modification time of the files below `root`.

    Returns:
      Empty when there is no such file.
    """
    files = [(path, stat) for path, stat in files_under(root, keep) if path.lower().endswith(extensions)]
    lines = "".join(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n" for path, stat in files)
    if not files:
        return {}
    return {
        "files": len(files),
        "bytes": sum(stat.st_size for _, stat in files),
        "digest": hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest(),
    }
