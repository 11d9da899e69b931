"""Single cells as a data set: `bbbc021:DIR`, written by experiments/bbbc021.py, and `crops:FILE`, an .npz with a CSV beside it."""

import contextlib
import functools
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ssljax.data.bbbc021.metadata import CONTROL, MOA, read_mechanisms
from ssljax.data.columns import labels_of, read_csv
from ssljax.data.pixels import BLOCK, in_blocks, resize
from ssljax.data.source import Block, Contents, Request, Source, Stream
from ssljax.data.subset import drawn
from ssljax.errors import UserError, unknown

LABEL, GROUP = "compound", "site"  # unless the user says otherwise
# Plain names of BBBC021's own columns. The numbers of table and image together name a field of view.
_PLAIN = {
    "compound": "Image_Metadata_Compound",
    "concentration": "Image_Metadata_Concentration",
    "plate": "Image_Metadata_Plate_DAPI",
    "well": "Image_Metadata_Well_DAPI",
    "replicate": "Replicate",
}
_NUMBERS = ("TableNumber", "ImageNumber")
_OF_SUBSET = ("compound", "concentration", "plate")
_OPEN_SHARDS = 64  # files open at a time; a shard is a well's crops

Read = Callable[[np.ndarray], Iterator[np.ndarray]]  # from increasing rows to their images in blocks, in order


def bbbc021(request: Request) -> Source:
    """A folder of crops that experiments/bbbc021.py has written; its path follows the colon, or is `data_dir`, or lies in it.

    Raises:
      UserError: no such folder, one that is not finished, a table or shard that cannot be read.
    """
    root = _path(request, "a folder that experiments/bbbc021.py wrote, as in bbbc021:DIR")
    table, manifest = os.path.join(root, "crops.csv"), os.path.join(root, "manifest.json")

    def open_() -> Contents:
        _check_finished(manifest)
        rows = read_csv(table)
        for name in ("file", "row"):
            if name not in rows:
                raise UserError(f"{table}: has no column '{name}'; expected what experiments/bbbc021.py writes")
        return _contents(request, columns_of(rows, table), _shards(root, rows["file"], rows["row"]))

    return Source(f"{root}:bbbc021", lambda: _identity(table, manifest), open_)


def crops(request: Request) -> Source:
    """An .npz with `images` uint8 or uint16 [n, h, w, c], and a CSV of the same name beside it, a row an image.

    The archive is read from beginning to end, never as a whole. With BBBC021's own columns in the CSV the images have the columns
    compound, treated, concentration, plate, week, well, site, replicate and moa (from BBBC021_v1_moa.csv beside it, where it is
    not in the CSV); any other CSV's stand under their own names.

    Raises:
      UserError: no file, no such archive, a CSV with another number of rows.
    """
    path = _path(request, "a file, as in crops:FILE.npz")
    table = os.path.splitext(path)[0] + ".csv"
    beside = os.path.join(os.path.dirname(path), MOA)

    def open_() -> Contents:
        count, read = _archive(path)
        rows = read_csv(table)
        if len(next(iter(rows.values()))) != count:
            given = len(next(iter(rows.values())))
            raise UserError(f"{table}: {given} rows for the {count} images of {path}; expected a row an image")
        return _contents(request, columns_of(rows, table, beside), read)

    return Source(f"{path}:crops", lambda: _identity(path, table, optional=beside), open_)


def columns_of(rows: Mapping[str, np.ndarray], where: str, mechanisms: str = "") -> dict[str, np.ndarray]:
    """What is known of each image, under plain names where the table has BBBC021's own.

    Args:
      rows: column -> text [n], as read.
      where: the table's file, for messages.
      mechanisms: BBBC021_v1_moa.csv, which gives "moa" where it is there and `rows` has none.

    Returns:
      Column -> text [n]. From BBBC021's: compound, treated (treated or untreated), concentration (micromolar, as short as it can
      be), plate, week (the plate's prefix), well, site (a field of view, named by plate, well, table and image), replicate, moa
      ("" where unknown).

    Raises:
      UserError: some but not all of BBBC021's columns, or a concentration that is no number.
    """
    if _PLAIN["compound"] not in rows:
        return dict(rows)
    for name in (*_PLAIN.values(), *_NUMBERS):
        if name not in rows:
            raise UserError(f"{where}: has no column '{name}'; expected all of BBBC021's, or names of its own")
    columns = {name: rows[own] for name, own in _PLAIN.items()}
    columns["treated"] = np.where(columns["compound"] == CONTROL, "untreated", "treated")
    columns["concentration"] = _mapped(columns["concentration"], lambda text: _amount(text, where))
    columns["week"] = _mapped(columns["plate"], lambda plate: plate.partition("_")[0])
    parts = (columns["plate"], columns["well"], *(rows[name] for name in _NUMBERS))
    columns["site"] = np.array(["/".join(one) for one in zip(*(part.tolist() for part in parts))], np.str_)
    columns["moa"] = rows["moa"] if "moa" in rows else _moa(columns, mechanisms)
    return columns


def _moa(columns: Mapping[str, np.ndarray], path: str) -> np.ndarray:
    known = read_mechanisms(Path(path)) if path and os.path.isfile(path) else {}
    pairs = zip(columns["compound"].tolist(), columns["concentration"].astype(float).tolist())
    return np.array([known.get(pair, "") for pair in pairs], np.str_)


def _mapped(column: np.ndarray, of: Callable[[str], str]) -> np.ndarray:
    """A function of each text, called once for each that differs."""
    texts, index = np.unique(column, return_inverse=True)
    return np.array([of(text) for text in texts.tolist()], np.str_)[index]


def _amount(text: str, where: str) -> str:
    try:
        return f"{float(text):g}"
    except ValueError:
        raise UserError(f"{where}: a concentration is '{text}'; expected a number") from None


def _contents(request: Request, columns: Mapping[str, np.ndarray], read: Read) -> Contents:
    """The chosen images of a set with columns: subset, then label; the splits are drawn from what is left."""
    rows, notes = np.arange(len(next(iter(columns.values())))), list[str]()
    if request.subset:
        for name in _OF_SUBSET:
            if name not in columns:
                raise UserError(f"--compound: {request.name} has no column '{name}', only {', '.join(columns)}")
        _mapped(columns["concentration"], lambda text: _amount(text, request.name))  # for its error
        rows, notes = drawn(columns, request.subset, request.name)
    held = {name: column[rows] for name, column in columns.items()}
    if request.label and request.label not in held:
        raise unknown("column", request.label, held, "--label")
    labels, names = labels_of(held[request.label or LABEL]) if request.label or LABEL in held else (None, None)

    def blocks() -> Iterator[Block]:
        start = 0
        for images in read(rows):
            if request.image_size:
                images = np.stack([resize(image, request.image_size) for image in images])
            yield images, None if labels is None else labels[start : start + len(images)]
            start += len(images)

    stream = Stream(len(rows), labels is not None, blocks, lambda: held)
    return Contents({"train": stream}, names, lambda: notes, GROUP if GROUP in held else "")


def _path(request: Request, expected: str) -> str:
    if not request.place and not request.data_dir:
        raise UserError(f"data set '{request.name}': expected {expected}")
    return os.path.abspath(os.path.expanduser(os.path.join(request.data_dir, request.place).rstrip("/")))


def _identity(*paths: str, optional: str = "") -> dict[str, Any]:
    """Names, sizes and times of the files that the set is read from; empty where one is absent."""
    try:
        stats = {os.path.basename(path): os.stat(path) for path in paths}
    except OSError:
        return {}
    if optional and os.path.isfile(optional):
        stats[os.path.basename(optional)] = os.stat(optional)
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _check_finished(manifest: str) -> None:
    try:
        with open(manifest, encoding="utf-8") as file:
            finished = json.load(file)["finished"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{manifest}: cannot be read ({error}); expected a folder that experiments/bbbc021.py wrote"
        ) from None
    if not finished:
        raise UserError(
            f"{os.path.dirname(manifest)}: is not finished; the same experiments/bbbc021.py command goes on"
        )


def _shards(root: str, names: np.ndarray, numbers: np.ndarray) -> Read:
    """Reads crops from the shards of a folder, which are mapped and never loaded whole."""

    @functools.lru_cache(_OPEN_SHARDS)
    def shard(name: str) -> np.ndarray:
        path = os.path.join(root, name)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: cannot be read ({error}); run experiments/bbbc021.py again") from None

    def load(share: Sequence[int]) -> list[np.ndarray | None]:
        return [_row(shard(names[i].item()), numbers[i], os.path.join(root, names[i])) for i in share]

    def read(rows: np.ndarray) -> Iterator[np.ndarray]:
        for _, images in in_blocks(rows.tolist(), load):
            yield np.stack([image for image in images if image is not None])

    return read


def _row(images: np.ndarray, number: Any, where: str) -> np.ndarray:
    try:
        return images[int(number)]
    except (ValueError, IndexError):
        wanted = f"crops.csv wants row {number}"
        raise UserError(f"{where}: has {len(images)} crops, {wanted}; run experiments/bbbc021.py again") from None


def _archive(path: str) -> tuple[int, Read]:
    """How many images an .npz holds, and how they are read: from beginning to end, a block at a time."""
    with _images(path) as (shape, _, _):
        count = shape[0]

    def read(rows: np.ndarray) -> Iterator[np.ndarray]:
        with _images(path) as (shape, dtype, file):
            size = int(np.prod(shape[1:])) * dtype.itemsize
            for start in range(0, count, BLOCK):
                block = min(BLOCK, count - start)
                data = file.read(block * size)
                if len(data) < block * size:
                    raise EOFError("it ends too early")
                chosen = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + block)] - start
                if len(chosen):
                    images = np.frombuffer(data, dtype).reshape(block, *shape[1:])
                    yield images[chosen].astype(dtype.newbyteorder("="))

    return count, read


@contextlib.contextmanager
def _images(path: str) -> Iterator[tuple[tuple[int, ...], np.dtype, IO[bytes]]]:
    """Shape and type of an archive's `images`, and the file that yields their bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            if "images.npy" not in archive.namelist():
                raise UserError(f"{path}: expected the key 'images', found {', '.join(archive.namelist()) or 'none'}")
            with archive.open("images.npy") as file:
                version = np.lib.format.read_magic(file)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, turned, dtype = header(file)
                if dtype.newbyteorder("=") not in (np.uint8, np.uint16) or len(shape) != 4 or 0 in shape or turned:
                    order = " in Fortran's order" if turned else ""
                    raise UserError(
                        f"{path}: 'images' is {dtype} {shape}{order}; expected uint8 or uint16 [n, h, w, c]"
                    )
                yield shape, dtype, file
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path}: not a readable .npz archive ({reason})") from None
