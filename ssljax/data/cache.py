"""Decoded images on disk: written once, read back by memory map, rebuilt whenever in doubt.

One folder a set (and validation fraction, image size and whatever else chooses its images) holds an .npy file for the
images and one for the labels of each split, an .npz of its columns where there are any, and `manifest.json`, which is
written last. A start without decoding needs all of:

* a manifest of this format whose own checksum is right, made from files that still have the paths, sizes
  and modification times that the source has now;
* files whose size, shape and dtype are the recorded ones. Where a file's modification time is not the
  recorded one either (it was copied, or written to), its whole sha256 must be right. A multi-gigabyte set
  that nobody touched is thus not hashed at each start.

Anything else is rebuilt in a new folder beside the old one and renamed into its place, under a lock, so that
a second process waits and then reads.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ssljax.data.splits import Dataset, Split
from ssljax.errors import UserError
from ssljax.files import replacing

_log = logging.getLogger(__name__)

# Raise whenever the files, the manifest or the decoding change.
FORMAT = 4
MANIFEST = "manifest.json"
# Bytes hashed, copied or summed at a time.
CHUNK = 1 << 24


class Unfit(Exception):
    """The cache cannot be used; the message says why."""


def root_of(cache_dir: str) -> str:
    """The folder of all sets: the one given, else $SSLJAX_CACHE, else ~/.cache/ssljax/data."""
    default = os.environ.get("SSLJAX_CACHE") or os.path.join("~", ".cache", "ssljax", "data")
    return os.path.abspath(os.path.expanduser(cache_dir or default))


def folder_for(cache_dir: str, name: str, key: dict[str, Any]) -> str:
    """The folder of one set: readable name first, then a hash of everything that tells it from others."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    readable = re.sub(r"[^\w.-]", "-", os.path.basename(name.rstrip("/")))[:40]
    return os.path.join(root_of(cache_dir), f"{readable}-{digest}")


def fetch(
    folder: str, name: str, identity: Callable[[], dict[str, Any]], build: Callable[[str], dict[str, Any]]
) -> Dataset:
    """The cached set in `folder`, built first when it is missing or does not fit its source.

    Args:
      folder: where it is or will be.
      name: the data set.
      identity: the source's identity now.
      build: writes the .npy files of all splits into the folder that it is given and returns the
        manifest's content.

    Raises:
      UserError: the folder cannot be written to, or whatever `build` raises.
    """
    try:
        return read(folder, name, identity())
    except Unfit as reason:
        if os.path.isdir(folder):
            _log.info("%s: the cache in %s is built anew: %s", name, folder, reason)
    with writing(folder):
        os.makedirs(os.path.dirname(folder), exist_ok=True)
    with _locked(folder, name):
        with contextlib.suppress(Unfit):  # another process may have built it meanwhile
            return read(folder, name, identity())
        _build(folder, build)
    try:
        return read(folder, name, identity())
    except Unfit as reason:
        raise UserError(f"{name}: the source changed while it was read ({reason}); start again") from reason


def _build(folder: str, build: Callable[[str], dict[str, Any]]) -> None:
    parent, prefix = os.path.dirname(folder), f".{os.path.basename(folder)}.new-"
    with writing(folder):
        for left in os.listdir(parent):  # by a process that was killed: the lock is ours
            if left.startswith(prefix):
                shutil.rmtree(os.path.join(parent, left), ignore_errors=True)
        new = _fresh(parent, prefix)
        os.mkdir(new)
    try:
        content = build(new)
        with writing(folder):
            with open(os.path.join(new, MANIFEST), "w", encoding="utf-8") as file:
                json.dump({"checksum": _checksum(content), "content": content}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            if os.path.lexists(folder):
                os.rename(folder, _fresh(parent, prefix))
            os.rename(new, folder)
    finally:
        for left in os.listdir(parent):
            if left.startswith(prefix):
                shutil.rmtree(os.path.join(parent, left), ignore_errors=True)


def _fresh(parent: str, prefix: str) -> str:
    # Not tempfile.mkdtemp: its folders are private, and a cache may be shared by a group.
    return os.path.join(parent, f"{prefix}{uuid.uuid4().hex}")


def read(folder: str, name: str, identity: dict[str, Any]) -> Dataset:
    """Opens the cached set after the checks of the module's first lines.

    Raises:
      Unfit: when any of them fails.
    """
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            manifest = json.load(file)
        content = manifest["content"]
        if manifest["checksum"] != _checksum(content):
            raise Unfit("garbled manifest")
        if content["format"] != FORMAT:
            raise Unfit(f"format {content['format']}, expected {FORMAT}")
        if not identity:
            raise Unfit("source not found")
        if content["identity"] != identity:
            raise Unfit("source changed")
        splits = {
            split: Split(
                _opened(folder, files["images"]),
                files["labels"] and _opened(folder, files["labels"]),
                _columns(folder, files["columns"]) if files["columns"] else {},
            )
            for split, files in content["splits"].items()
        }
    except FileNotFoundError as error:
        raise Unfit("none yet" if not os.path.isdir(folder) else f"no {error.filename}") from error
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise Unfit(f"unreadable: {error}") from error
    for note in content["notes"]:
        _log.warning(note)
    names = content["class_names"] and tuple(content["class_names"])
    return Dataset(name, splits, names, tuple(content["mean"]), tuple(content["std"]), content["fingerprint"])


def record(path: str) -> dict[str, Any]:
    """What the manifest keeps of an .npy file: name, shape, dtype, size, modification time, sha256."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    stat = os.stat(path)
    return {
        "file": os.path.basename(path),
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "sha256": digest(array),
    }


def record_columns(path: str, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the manifest keeps of an .npz file of columns: its name, theirs in its order, the sha256 of what is in it."""
    return {"file": os.path.basename(path), "names": list(columns), "sha256": content_of_columns(columns)}


def content_of_columns(columns: Mapping[str, np.ndarray]) -> str:
    """sha256 (hex) over names and values of columns, text [n] each, in any order."""
    held = [[name, np.asarray(columns[name]).tolist()] for name in sorted(columns)]
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()


def digest(array: np.ndarray) -> str:
    """sha256 (hex) of an array's elements in C order, read a chunk at a time."""
    result = hashlib.sha256()
    for chunk in chunks(array):
        result.update(np.ascontiguousarray(chunk).data)
    return result.hexdigest()


def chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array in pieces of whole rows (first axis), of about `CHUNK` bytes."""
    rows = max(1, CHUNK * len(array) // max(1, array.nbytes))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def remembered(folder: str, identity: dict[str, Any], find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found out about a source whose images are not cached, found out anew where the source has changed.

    Args:
      folder: where it is or will be.
      identity: the source's, now.
      find: gives a JSON value.

    Raises:
      UserError: the folder cannot be written to, or whatever `find` raises.
    """
    path = os.path.join(folder, MANIFEST)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(path, encoding="utf-8") as file:
        content = json.load(file)
        kept = content["content"]
        if content["checksum"] == _checksum(kept) and (kept["format"], kept["identity"]) == (FORMAT, identity):
            return kept["found"]
    content = json.loads(json.dumps({"format": FORMAT, "identity": identity, "found": find()}))
    with writing(folder):
        os.makedirs(folder, exist_ok=True)
        with replacing(path) as file:
            json.dump({"checksum": _checksum(content), "content": content}, file, indent=1)
    return content["found"]


class NpyWriter:
    """An .npy file that grows block by block; its header gets the final length at the end.

    Writes, unlike stores to a memory map, report a full disk as an error.
    """

    def __init__(self, path: str, shape: tuple[int, ...], dtype: np.dtype):
        self._shape, self._dtype, self._count = shape, dtype, 0
        self._file = open(path, "wb")  # noqa: SIM115 (closed by `close`)
        self._header()

    def _header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._count, *self._shape)}
        # NumPy pads the header so that the first axis can grow without moving the data.
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, rows: np.ndarray) -> None:
        """Adds rows of the file's own shape and dtype."""
        self._file.write(np.ascontiguousarray(rows).data)
        self._count += len(rows)

    def close(self) -> None:
        """Writes the final header and waits for the disk. The file is no whole .npy before."""
        self._file.seek(0)
        self._header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


@contextlib.contextmanager
def writing(folder: str) -> Iterator[None]:
    """Turns a failure to write into one line that says what to do."""
    try:
        yield
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from error


def check_room(folder: str, needed: int) -> None:
    """Raises a `UserError` before hours of decoding that the disk would not hold."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _unwritable(folder, f"it needs {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free")


def _unwritable(folder: str, why: str) -> UserError:
    return UserError(
        f"cannot write the image cache {folder}: {why}; make room, or set SSLJAX_CACHE or cache_dir to another folder"
    )


@contextlib.contextmanager
def _locked(folder: str, name: str) -> Iterator[None]:
    parent, base = os.path.split(folder)
    with contextlib.ExitStack() as stack:
        with writing(folder):
            file = stack.enter_context(open(os.path.join(parent, f".{base}.lock"), "a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.warning("%s: another process is preparing the image cache; waiting for it", name)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _columns(folder: str, expected: dict[str, Any]) -> dict[str, np.ndarray]:
    path = os.path.join(folder, expected["file"])
    with np.load(path, allow_pickle=False) as archive:
        columns = {name: archive[key] for name, key in zip(expected["names"], archive.files, strict=True)}
    for column in columns.values():
        column.flags.writeable = False
    if content_of_columns(columns) != expected["sha256"]:  # little beside the images: hashed at each start
        raise Unfit(f"{expected['file']} was changed")
    return columns


def _opened(folder: str, expected: dict[str, Any]) -> np.ndarray:
    path = os.path.join(folder, expected["file"])
    stat = os.stat(path)
    if stat.st_size != expected["bytes"]:
        raise Unfit(f"{expected['file']} has {stat.st_size} bytes, expected {expected['bytes']}")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if list(array.shape) != expected["shape"] or str(array.dtype) != expected["dtype"]:
        raise Unfit(f"{expected['file']} is {array.dtype} {array.shape}")
    if stat.st_mtime_ns != expected["mtime_ns"] and digest(array) != expected["sha256"]:
        raise Unfit(f"{expected['file']} was changed")
    return array
