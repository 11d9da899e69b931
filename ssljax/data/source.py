"""What a source of images hands over, before anything is cached: `Request` in, `Source` out."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ssljax.data.files import Files

# Images [b, h, w, c] and their labels int32 [b] or int8 [b, n_classes], as `splits.Split` has them (None when the split has none).
Block = tuple[np.ndarray, np.ndarray | None]


NO_LABELS = "none"  # as `--label`: what could be the labels is not


class Subset(NamedTuple):
    """Which cells of a set of treated and untreated ones are used: a compound's, and as many untreated.

    Attributes:
      compound: its name, upper or lower case.
      concentrations: how many of its highest concentrations; 0 for all.
      controls: where the untreated cells come from: "plates", the treated ones, as many of each plate as there are treated cells
        of it, or "any".
      most: cells in all, treated and untreated; 0 for as many as there are.
    """

    compound: str
    concentrations: int = 4  # the papers'
    controls: str = "plates"
    most: int = 0


class Request(NamedTuple):
    """What the user asked for.

    Attributes:
      name: the whole name, such as "folder:flowers".
      place: what follows the kind, such as "flowers"; empty when there is nothing.
      data_dir: where data lie; empty for the source's default.
      manual_dir: files downloaded by hand (tfds only).
      image_size: side in pixels that images are brought to; 0 leaves them as they are.
      label: the column that is the label; "" for the source's own choice, "none" for no labels.
      subset: of cells; None for all.
      channels: how often the channel of a grey image is repeated; 0 leaves it alone.
      channel_files: how the files of an image's channels are named, of a folder; "" where a file holds all channels.
      path_columns: of a table, the column of the files' paths; several where a file is a channel.
      split_column: of a table, the column that says train, validation or test, where it is there.
      group: the column whose values stand in one split each; "" for the source's own choice, "none" for none.
      decode: whether random access to the images is wanted (`Stream.files`), for sources that must do something for it.
      cache_dir: where what was found out about a source is kept; empty for the default.
    """

    name: str
    place: str
    data_dir: str
    manual_dir: str
    image_size: int
    label: str = ""
    subset: Subset | None = None
    channels: int = 0
    channel_files: str = ""
    path_columns: tuple[str, ...] = ("path",)
    split_column: str = "split"
    group: str = ""
    decode: bool = False
    cache_dir: str = ""


class Stream(NamedTuple):
    """One split as its source gives it.

    Attributes:
      size: number of records, for the progress bar; some of them may turn out to be broken.
      labelled: whether `read` gives labels.
      read: yields the split once, in order, in blocks.
      columns: what else is known of each image that was read, name -> text [n]; call it after `read` has ended.
      files: random access to all images of the split, sound or not, for a source that has it.
    """

    size: int
    labelled: bool
    read: Callable[[], Iterator[Block]]
    columns: Callable[[], Mapping[str, np.ndarray]] = dict
    files: Files | None = None


class Contents(NamedTuple):
    """An opened source.

    Attributes:
      streams: of "train", "validation" and "test", those that the source has.
      class_names: the name of each label, or None.
      notes: what the reading met that the user should know; call it after the last stream is read.
      group: the column whose values are kept together where splits are drawn, unless the user says otherwise; "" for none.
    """

    streams: dict[str, Stream]
    class_names: tuple[str, ...] | None
    notes: Callable[[], list[str]]
    group: str = ""


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
