"""What files lie in a folder, with their sizes and modification times; of a large folder remembered from one start to the next.

A folder of up to `WHOLE` files is gone through at each start. The list of a larger one is kept beside the cache, and taken as it is
as long as no folder below has another modification time (files were added, removed or renamed then) and an evenly spread sample
of `SAMPLE` files has the recorded sizes and times. What that cannot see is a file that was written over in place and is not in
the sample.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ssljax.data.cache import root_of, writing
from ssljax.files import replacing

# 100,000 files take about a second on a local disk; a network's takes a hundred times as long (our choice).
WHOLE = 100_000
SAMPLE = 2_000


class File(NamedTuple):
    """A file below a folder: its path relative to it, with "/", its bytes and its modification time in nanoseconds."""

    path: str
    size: int
    mtime: int


def files_under(root: str, keep: Callable[[str], bool], cache_dir: str = "") -> list[File]:
    """All files below `root`, sorted; nothing hidden; links followed.

    Args:
      root: the folder.
      keep: from a folder's path below root, with "/", to whether it is looked into. Those that it refuses are not even listed.
      cache_dir: where the list of a large folder is kept, see `cache.root_of`.
    """
    index = _file_of(root, keep, cache_dir)
    kept = _read(index, root)
    if kept is not None:
        return kept
    folders, files = _walked(root, keep)
    if len(files) > WHOLE:
        _write(index, folders, files)
    return files


def _walked(root: str, keep: Callable[[str], bool]) -> tuple[list[File], list[File]]:
    """The folders below `root`, itself as "", and the files."""
    folders, files = list[File](), list[File]()
    seen: set[str] = set()
    left = [""]
    while left:
        below = left.pop()
        folder = os.path.join(root, below) if below else root
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            continue
        seen.add(real)
        further = []
        with contextlib.suppress(OSError), os.scandir(folder) as entries:  # what cannot be listed has no images
            folders.append(File(below, 0, os.stat(folder).st_mtime_ns))
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    further.append(path)
                elif entry.is_file():
                    stat = entry.stat()
                    files.append(File(path, stat.st_size, stat.st_mtime_ns))
        left += [path for path in sorted(further, reverse=True) if keep(path)]
    return folders, sorted(files)


def _file_of(root: str, keep: Callable[[str], bool], cache_dir: str) -> str:
    key = f"{os.path.abspath(root)}\0{keep.__module__}.{keep.__qualname__}"
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return os.path.join(root_of(cache_dir), f"files-{name}.npz")


def _write(index: str, folders: list[File], files: list[File]) -> None:
    parts = {}
    for name, each in (("folders", folders), ("files", files)):
        text = "\0".join(file.path for file in each).encode("utf-8", "surrogateescape")
        parts[f"{name}.paths"] = np.frombuffer(text, np.uint8)
        parts[f"{name}.stats"] = np.array([file[1:] for file in each], np.int64)
    with writing(os.path.dirname(index)):
        os.makedirs(os.path.dirname(index), exist_ok=True)
        with replacing(index, "wb") as file:
            np.savez(file, **parts)  # type: ignore[arg-type]


def _read(index: str, root: str) -> list[File] | None:
    """The list that is kept, if it is there and still true."""
    try:
        with np.load(index, allow_pickle=False) as archive:
            parts = {name: archive[name] for name in archive.files}
        lists = {}
        for name in ("folders", "files"):
            paths = parts[f"{name}.paths"].tobytes().decode("utf-8", "surrogateescape").split("\0")
            lists[name] = [File(path, *stat) for path, stat in zip(paths, parts[f"{name}.stats"].tolist(), strict=True)]
        for folder in lists["folders"]:
            if os.stat(os.path.join(root, folder.path)).st_mtime_ns != folder.mtime:
                return None
        files = lists["files"]
        for at in np.linspace(0, len(files) - 1, min(SAMPLE, len(files))).astype(int).tolist():
            stat = os.stat(os.path.join(root, files[at].path))
            if (stat.st_size, stat.st_mtime_ns) != files[at][1:]:
                return None
        return files
    except Exception:  # not there, cut off, of another kind: it is made anew
        return None
