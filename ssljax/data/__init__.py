"""Where images come from: one function, `load`, for every source.

`digits` (embedded), `folder:DIR`, `table:FILE.csv`, `imagenet100:DIR`, `aircraft:DIR`, `npz:FILE`, `bbbc021:DIR`, `crops:FILE`,
or the name of any TensorFlow Datasets image set; `miniature:` before a name is a small made set in its layout. NumPy only;
what reads a source is imported when that source is read.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

from ssljax.data import aircraft, arrays, cells, digits, folder, imagenet100, miniature, table, tfds_source
from ssljax.data.build import in_files, in_memory, looked_at, part, write
from ssljax.data.cache import fetch, folder_for, remembered, root_of
from ssljax.data.source import NO_LABELS, Request, Source, Subset
from ssljax.data.splits import Dataset, Split
from ssljax.errors import UserError

__all__ = ["Dataset", "Split", "Subset", "load", "part", "superclasses"]

# By what stands before the colon of a name; every other name is a tfds set's.
SOURCES: dict[str, Callable[[Request], Source]] = {
    "aircraft": aircraft.source,
    "bbbc021": cells.bbbc021,
    "crops": cells.crops,
    "digits": digits.source,
    "folder": folder.source,
    "imagenet100": imagenet100.source,
    "npz": arrays.source,
    "table": table.source,
}
WITH_COLUMNS = ("bbbc021", "crops", "table")  # sources that know more of an image than its label
# Options of `load` on how files are read: the sources that they are for, and their defaults.
_OF_FILES: dict[str, tuple[tuple[str, ...], Any]] = {
    "channels": (("folder", "table"), 0),
    "channel_files": (("folder", "table"), ""),
    "path_column": (("table",), ("path",)),
    "split_column": (("table",), "split"),
}


def load(
    name: str,
    *,
    data_dir: str = "",
    manual_dir: str = "",
    cache_dir: str = "",
    validation_fraction: float = 0.0,
    image_size: int = 0,
    label: str = "",
    group: str = "",
    subset: Subset | None = None,
    channels: int = 0,
    channel_files: str = "",
    path_column: tuple[str, ...] = ("path",),
    split_column: str = "split",
    decode: bool = False,
) -> Dataset:
    """Loads a set of images with its splits.

    The first load decodes the images and caches them; later ones map the cached files. Every set has "train"
    and "test". Where the source has no test split, or one whose labels are withheld, its validation split
    plays test; without either, a stratified fifth of train does.

    Args:
      name: `digits`; `folder:DIR`; `table:FILE.csv`; `imagenet100:DIR`; `aircraft:DIR`; `npz:FILE`; `bbbc021:DIR`; `crops:FILE`;
        or a tfds name such as `mnist` or `cifar10:3.0.2`. `miniature:` before one of them is the made set of
        `miniature.make`, kept beside the cache.
      data_dir: where data lie: the folder that DIR and FILE are relative to, or tfds' data_dir.
      manual_dir: files downloaded by hand, for preparing a tfds set.
      cache_dir: where decoded images are kept; default $SSLJAX_CACHE or ~/.cache/ssljax/data.
      validation_fraction: in [0, 1), the part of train that becomes "validation", stratified and always the
        same. A validation split of the source takes precedence, unless it plays test.
      image_size: brings the shorter side to this many pixels, antialiased, and cuts the central square;
        0 leaves images as they are.
      label: the column that is the label, of cells (`bbbc021:`, `crops:`) and tables; "" for the compound or the column "label".
        "none": of a folder or table, there are no labels.
      group: the column whose values stay together when splits are drawn: all images of a value are held out, or none. "none":
        images are held out one by one. "" for the field of view of cells, the column "group" of a table that has it, none of
        other sets.
      subset: of cells, a compound's and as many untreated ones, drawn before the splits are; None for all.
      channels: of a folder or table, how often the channel of a grey image is repeated; 0 leaves it alone.
      channel_files: of a folder where a file is a channel, how its files are named; see `listed.pattern`.
      path_column: of a table, the column of the files' paths, relative to its folder or to `data_dir`; several where a file is a
        channel.
      split_column: of a table, the column that says train, validation or test, where it has it; "none" for none.
      decode: no cache of decoded images: they are decoded each time that they are read, see `files.Decoded`. For folders, tables
        and tfds sets.

    Returns:
      The set; images uint8 or uint16 [n, h, w, c], read-only.

    Raises:
      UserError: anything wrong with the name, the options, the files or the cache's folder, in one line.

    Example:
      >>> digits = load("digits")
      >>> digits.splits["train"].images.shape
      (1438, 8, 8, 1)
    """
    if not 0 <= validation_fraction < 1:
        raise UserError(f"validation_fraction is {validation_fraction}; expected a number in [0, 1)")
    if image_size < 0:
        raise UserError(f"image_size is {image_size}; expected pixels, or 0 to leave images as they are")
    if name.startswith(miniature.MADE):
        made, place = _made(name, cache_dir)
        found = load(
            made,
            data_dir=place,
            cache_dir=cache_dir,
            validation_fraction=validation_fraction,
            image_size=image_size,
            label=label,
            group=group,
            subset=subset,
            channels=channels,
            channel_files=channel_files,
            path_column=path_column,
            split_column=split_column,
            decode=decode,
        )
        return found._replace(name=name)
    kind, _, place = name.partition(":")
    if kind not in WITH_COLUMNS and (label or subset) and (kind, label) != ("folder", NO_LABELS):
        flag, given = ("--label", label) if label else ("--compound", subset.compound if subset else "")
        raise UserError(
            f"{flag}: no more is known of the images of {name} than their labels; given {given}, expected none"
        )
    own = {
        "channels": channels,
        "channel_files": channel_files,
        "path_column": tuple(path_column),
        "split_column": split_column,
    }
    for option, (kinds, default) in _OF_FILES.items():
        if own[option] != default and kind not in kinds:
            raise UserError(f"--{option}: is of {' and '.join(f'{one}:' for one in kinds)}; given with {name}")
    request = Request(
        name, place, data_dir, manual_dir, image_size, label, subset, channels, channel_files, tuple(path_column),
        split_column, group, decode, cache_dir,
    )  # fmt: skip
    source = SOURCES.get(kind, tfds_source.source)(request)
    if source.location is None and not decode:
        return _named(in_memory(name, source.open(), validation_fraction, group))

    def build(new: str) -> dict[str, Any]:
        contents = source.open()
        return write(new, name, contents, source.identity(), validation_fraction, group)

    key: dict[str, Any] = {
        "location": source.location,
        "validation_fraction": validation_fraction,
        "image_size": image_size,
    }
    if label or group or subset:
        key |= {"label": label, "group": group, "subset": subset}
    key |= {option: value for option, value in own.items() if value != _OF_FILES[option][1]}
    if decode:
        contents, identity = source.open(), source.identity()
        folder_of_it = folder_for(cache_dir, name, {**key, "decode": True})
        known = remembered(folder_of_it, identity, lambda: looked_at(name, contents))
        return _named(in_files(name, contents, identity, validation_fraction, group, known))
    return _named(fetch(folder_for(cache_dir, name, key), name, source.identity, build))


def _made(name: str, cache_dir: str) -> tuple[str, str]:
    """The name of a miniature's set and the folder that it is in, made at the first call."""
    place = os.path.join(root_of(cache_dir), f"miniatures-{miniature.EDITION}")
    return miniature.make(name.removeprefix(miniature.MADE), place), place


def _named(dataset: Dataset) -> Dataset:
    """The same set; labels that the source gives without names are named by their numbers."""
    labels = [split.labels for split in dataset.splits.values() if split.labels is not None and len(split.labels)]
    if dataset.class_names is not None or not labels:
        return dataset
    return dataset._replace(class_names=tuple(str(i) for i in range(max(int(one.max()) for one in labels) + 1)))


@functools.cache
def superclasses(
    name: str, feature: str, *, data_dir: str = "", manual_dir: str = "", cache_dir: str = ""
) -> dict[str, str]:
    """Which superclass each class of a tfds set belongs to, by a label feature of the set.

    Args:
      name: of the set, such as `cifar100`.
      feature: that holds the superclass: `coarse_label`.
      data_dir, manual_dir, cache_dir: as for `load`.

    Raises:
      UserError: not a tfds set, no such feature, or a class of two superclasses.
    """
    if name.startswith(miniature.MADE):
        made, place = _made(name, cache_dir)
        return superclasses(made, feature, data_dir=place)
    kind = name.partition(":")[0].lower()
    if kind in SOURCES:
        raise UserError(f"data set '{name}': {kind} has no label feature '{feature}'; expected a tfds set")
    return tfds_source.superclasses(Request(name, "", data_dir, manual_dir, 0), feature)
