"""What a source of images hands over, before anything is cached: `Request` in, `Source` out."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

# Images [b, h, w, c] and their labels int32 [b] (None when the split has none).
Block = tuple[np.ndarray, np.ndarray | None]


class Request(NamedTuple):
    """What the user asked for.

    Attributes:
      name: the whole name, such as "folder:flowers".
      place: what follows the kind, such as "flowers"; empty when there is nothing.
      data_dir: where data lie; empty for the source's default.
      manual_dir: files downloaded by hand (tfds only).
      image_size: side in pixels that images are brought to; 0 leaves them as they are.
    """

    name: str
    place: str
    data_dir: str
    manual_dir: str
    image_size: int


class Stream(NamedTuple):
    """One split as its source gives it.

    Attributes:
      size: number of records, for the progress bar; some of them may turn out to be broken.
      labelled: whether `read` gives labels.
      read: yields the split once, in order, in blocks.
    """

    size: int
    labelled: bool
    read: Callable[[], Iterator[Block]]


class Contents(NamedTuple):
    """An opened source.

    Attributes:
      streams: of "train", "validation" and "test", those that the source has.
      class_names: the name of each label, or None.
      notes: what the reading met that the user should know; call it after the last stream is read.
    """

    streams: dict[str, Stream]
    class_names: tuple[str, ...] | None
    notes: Callable[[], list[str]]


class Source(NamedTuple):
    """Where a data set comes from.

    Attributes:
      location: what tells this set from every other, such as an absolute path; None: small and always at
        hand, not worth a cache.
      identity: a JSON value that changes whenever the files of the source do; falsy when they are absent.
      open: finds the data, preparing them if need be.
    """

    location: str | None
    identity: Callable[[], dict[str, Any]]
    open: Callable[[], Contents]
