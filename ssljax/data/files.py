"""Images that are decoded when they are read: `Decoded`, an array of images whose pixels stay in their files.

It is picklable, so that worker processes can hold it, as long as what it is made of is: module-level functions and
`functools.partial` of them.
"""

import functools
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ssljax.data.pixels import WORTH_THREADS, describe
from ssljax.errors import UserError

_log = logging.getLogger("ssljax")

# Broken files that a warning names before it only counts.
_NAMED = 5
# Broken files one after another from which on the set itself is at fault, and nothing sound is looked for any more.
_IN_A_ROW = 1000


class Files(NamedTuple):
    """The images of a split where each can be read by itself.

    Attributes:
      paths: what `load` takes, and what messages name; in the split's order.
      labels: as of `splits.Split`, or None.
      load: path -> uint8 or uint16 [h, w, c], brought to the asked size; None of a file that cannot be read. A module-level
        function or a `functools.partial` of one.
      columns: what else is known of each image: name -> text [n].
    """

    paths: Sequence[str]
    labels: np.ndarray | None
    load: Callable[[str], np.ndarray | None]
    columns: Mapping[str, np.ndarray] = MappingProxyType({})


class Decoded:
    """Images [n, h, w, c] as of an array; an index, a slice, an index array or a mask decodes what it asks for.

    In the place of one that cannot be read stands the next sound one, so that what is read is a function of the index alone.
    Those that were met are collected; `tell` names them.

    Args:
      load: from an image's number to its pixels, None where they cannot be read; called from several threads at once.
      n: how many there are.
      shape: (h, w, c) of each.
      dtype: uint8 or uint16.
      name_of: what messages call an image.

    Attributes:
      broken: the images that could not be read, as far as is known.
    """

    ndim = 4

    def __init__(
        self,
        load: Callable[[int], np.ndarray | None],
        n: int,
        shape: tuple[int, ...],
        dtype: Any,
        name_of: Callable[[int], str],
    ):
        self.shape: tuple[int, ...] = (n, *shape)
        self.dtype = np.dtype(dtype)
        self.broken: set[int] = set()
        self._load, self.name_of = load, name_of
        self._told = 0

    @property
    def size(self) -> int:
        """Values in all."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes that they would take once decoded."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        rows = np.arange(len(self))[key]
        images, broken = self.read(np.ravel(rows))
        self.note(broken)
        return images.reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("images in files cannot be given without a copy")
        return self[:] if dtype is None else self[:].astype(dtype)

    def read(self, rows: Sequence[int] | np.ndarray, *, threads: bool = True) -> tuple[np.ndarray, list[int]]:
        """The images of some rows [m, h, w, c], and which of the rows cannot be read: nothing is noted down.

        Args:
          rows: numbers of images, from 0.
          threads: whether to use all cores where that is faster; worker processes are many already.

        Raises:
          UserError: an image of another shape, or a thousand broken ones in a row (or all).
        """
        images = np.empty((len(rows), *self.shape[1:]), self.dtype)
        broken: list[int] = []

        def one(place: int) -> None:
            row = int(rows[place])
            images[place], sound = self._sound(row)
            if not sound:
                broken.append(row)

        began = time.perf_counter()
        for place in range(min(1, len(rows))):
            one(place)
        rest = range(1, len(rows))
        if threads and len(rest) and time.perf_counter() - began > WORTH_THREADS:
            for _ in _pool().map(one, rest):
                pass
        else:
            for place in rest:
                one(place)
        return images, sorted(broken)

    def _sound(self, row: int) -> tuple[np.ndarray, bool]:
        """An image, or the next sound one, and whether it is the image itself."""
        tries = min(len(self), _IN_A_ROW)
        for further in range(tries):
            at = (row + further) % len(self)
            image = self._load(at)
            if image is None:
                continue
            if image.shape != self.shape[1:] or image.dtype != self.dtype:
                given, expected = describe(image.shape, image.dtype), describe(self.shape[1:], self.dtype)
                same = image.shape[-1] == self.shape[-1] and image.dtype == self.dtype
                hint = "; --resize=SIDE brings all images to one size" if same else ""
                raise UserError(f"{self.name_of(at)}: {given}, expected {expected} as of the first{hint}")
            return image, further == 0
        what = "no image" if tries == len(self) else f"none of {tries} images in a row"
        raise UserError(f"{self.name_of(row)}: {what} of this split can be read from here on; are the files there?")

    def note(self, broken: Iterable[int]) -> None:
        """Remembers images that could not be read, as found here or by a worker."""
        self.broken.update(broken)

    def tell(self) -> None:
        """Names in one warning the images that could not be read, if there are any that it has not told of."""
        if len(self.broken) == self._told:
            return
        self._told = len(self.broken)
        named = ", ".join(self.name_of(row) for row in sorted(self.broken)[:_NAMED])
        more = f" and {self._told - _NAMED} more" if self._told > _NAMED else ""
        _log.warning(
            "%d of %d images cannot be read, and the next sound one stands in the place of each: %s%s",
            self._told, len(self), named, more,
        )  # fmt: skip

    def take(self, rows: np.ndarray) -> "Decoded":
        """The images that an index array or a mask chooses, still in their files."""
        chosen = np.arange(len(self))[rows]
        return Decoded(
            functools.partial(_row_of, self._load, chosen),
            len(chosen),
            self.shape[1:],
            self.dtype,
            functools.partial(_row_of, self.name_of, chosen),
        )


def decoded(files: Files, like: tuple[tuple[int, ...], Any] | None = None) -> Decoded:
    """The images of some files.

    Args:
      files: see there.
      like: shape (h, w, c) and dtype of the images; None to find them out from the first sound one.

    Raises:
      UserError: none of them (or of the first thousand) can be read.
    """
    load = functools.partial(_path_of, files.load, files.paths)
    name_of: Callable[[int], str] = functools.partial(_item, files.paths)
    if like is not None:
        return Decoded(load, len(files.paths), *like, name_of)
    for row in range(min(len(files.paths), _IN_A_ROW)):
        image = load(row)
        if image is not None:
            return Decoded(load, len(files.paths), image.shape, image.dtype, name_of)
    first = f"{files.paths[0]}: " if len(files.paths) else ""
    raise UserError(f"{first}none of the first {min(len(files.paths), _IN_A_ROW)} images can be read")


def _row_of(function: Callable[[int], Any], rows: np.ndarray, row: int) -> Any:
    return function(int(rows[row]))


def _item(paths: Sequence[str], row: int) -> str:
    return paths[row]


def _path_of(load: Callable[[str], np.ndarray | None], paths: Sequence[str], row: int) -> np.ndarray | None:
    return load(paths[row])


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="decode")
