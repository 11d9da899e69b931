"""Images that a folder or a table lists: one a file, a row of an .npy stack each, or one put together of a file for each channel.

An image is named by a *reference*: its file's path; `stack.npy[17]` for a row of a stack; for a file a channel the paths in the
order of the channels, with "|" between them.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ssljax.data.files import Files
from ssljax.data.formats import NPY, Broken, Unkept, decode, of_array
from ssljax.data.pixels import SameShape, describe, in_blocks, resize
from ssljax.data.source import Block, Stream
from ssljax.errors import UserError

JOINT = "|"
_ROW = re.compile(r"(.*\.npy)\[(\d+)\]", re.DOTALL | re.IGNORECASE)
# Files that a warning names before it only counts.
_NAMED = 5


class Reading(NamedTuple):
    """How references become images.

    Attributes:
      root: the folder that they are relative to.
      image_size: side that images are brought to; 0 leaves them as they are.
      channels: how often the channel of a grey image is repeated; 0 leaves it alone.
      joined: whether a reference holds several paths, one a channel.
    """

    root: str
    image_size: int = 0
    channels: int = 0
    joined: bool = False


@dataclasses.dataclass
class Remarks:
    """What the reading met, for the notes: images left out, with the reason where it is not plain damage, and animated ones."""

    left_out: list[str] = dataclasses.field(default_factory=list)
    animated: list[str] = dataclasses.field(default_factory=list)

    def lines(self, where: str, total: int) -> list[str]:
        """A line for each kind, with up to five names; `total` is how many images were looked at."""
        found = []
        if self.left_out:
            found.append(
                f"{len(self.left_out)} of {total} images cannot be read and are left out: {some(self.left_out)}"
            )
        if self.animated:
            found.append(f"of {len(self.animated)} files with several frames the first is read: {some(self.animated)}")
        return [f"{where}: {line}" for line in found]


def some(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def read(reading: Reading, reference: str, animated: list[str] | None = None) -> np.ndarray:
    """The image of a reference.

    Args:
      reading: how.
      reference: as in the module's first lines.
      animated: gets the file's path where it holds several frames; the first is read.

    Returns:
      uint8 or uint16 [h, w, c].

    Raises:
      Broken, OSError: it cannot be read.
    """
    if reading.joined:
        image = _together([(path, _one(reading.root, path, animated)) for path in reference.split(JOINT)])
    else:
        image = _one(reading.root, reference, animated)
    if reading.channels and image.shape[-1] == 1:
        image = np.repeat(image, reading.channels, axis=-1)
    return resize(image, reading.image_size) if reading.image_size else image


def read_or_none(reading: Reading, reference: str) -> np.ndarray | None:
    """The image of a reference, or None where it cannot be read."""
    try:
        return read(reading, reference)
    except (Broken, OSError):
        return None


def _one(root: str, path: str, animated: list[str] | None) -> np.ndarray:
    row = _ROW.fullmatch(path)
    if row is None:
        with open(os.path.join(root, path), "rb") as file:
            return decode(file.read(), path, animated)
    try:
        stack = np.load(os.path.join(root, row[1]), mmap_mode="r", allow_pickle=False)
        image = stack[int(row[2])]
    except IndexError:
        raise Unkept(f"the stack holds {len(stack)} images") from None
    except OSError:
        raise
    except Exception as error:  # NumPy reads a header with Python's own tokenizer and parser
        raise Broken(str(error)) from error
    if stack.ndim != 4:
        raise Unkept(f"shape {stack.shape}; expected a stack [n, h, w, c]")
    return of_array(image, most=0)


def _together(planes: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """One image of the channels that stand in several files."""
    first, expected = planes[0]
    for path, plane in planes:
        if plane.shape[-1] != 1:
            raise Unkept(f"{path} has {plane.shape[-1]} channels; expected a file for each")
        if (plane.shape, plane.dtype) != (expected.shape, expected.dtype):
            given = describe(plane.shape, plane.dtype)
            raise Unkept(f"{path} is {given}, {first} is {describe(expected.shape, expected.dtype)}")
    return np.concatenate([plane for _, plane in planes], axis=-1)


def references(root: str, path: str) -> list[str]:
    """The images of a file: itself, or each row of an .npy stack [n, h, w, c], of which no more than the header is read."""
    if not path.lower().endswith(".npy"):
        return [path]
    try:
        with open(os.path.join(root, path), "rb") as file:
            if file.read(len(NPY)) != NPY:
                return [path]
        shape = np.load(os.path.join(root, path), mmap_mode="r", allow_pickle=False).shape
    except Exception:  # as in `_one`
        return [path]  # what is wrong with it is said where it is read
    return [f"{path}[{row}]" for row in range(shape[0])] or [path] if len(shape) == 4 else [path]


def file_of(reference: str) -> str:
    """The path of the file that an image stands in, of a reference to one file."""
    row = _ROW.fullmatch(reference)
    return row[1] if row else reference


def stream(
    reading: Reading,
    names: Sequence[str],
    labels: np.ndarray | None,
    columns: Mapping[str, np.ndarray],
    same: SameShape,
    remarks: Remarks,
) -> Stream:
    """A split of listed images: those that cannot be read are left out, and noted in `remarks`.

    Args:
      reading: how references become images.
      names: a reference each.
      labels: int32 [n], or None.
      columns: what else is known of each image, text [n].
      same: checks that all images, of all splits, are of one shape.
      remarks: see there.
    """
    kept: list[int] = []

    def read_all() -> Iterator[Block]:
        kept.clear()
        reasons: dict[int, str] = {}

        def load(share: Sequence[int]) -> list[np.ndarray | None]:
            return [load_one(number) for number in share]

        def load_one(number: int) -> np.ndarray | None:
            try:
                return read(reading, names[number], remarks.animated)
            except Unkept as error:
                reasons[number] = f" ({error})"
            except (Broken, OSError):
                pass
            return None

        for block, images in in_blocks(range(len(names)), load):
            sound = [(number, image) for number, image in zip(block, images, strict=True) if image is not None]
            lost = [number for number, image in zip(block, images, strict=True) if image is None]
            remarks.left_out.extend(names[number] + reasons.pop(number, "") for number in lost)
            for number, image in sound:
                same.check(image, os.path.join(reading.root, names[number]))
            if sound:
                numbers = [number for number, _ in sound]
                kept.extend(numbers)
                yield np.stack([image for _, image in sound]), None if labels is None else labels[numbers]

    def known() -> Mapping[str, np.ndarray]:
        return {name: column[kept] for name, column in columns.items()}

    files = Files(names, labels, functools.partial(read_or_none, reading), columns)
    return Stream(len(names), labels is not None, read_all, known, files)


class Pattern(NamedTuple):
    """How the files of an image's channels are named.

    Attributes:
      text: as the user wrote it: `{stem}_w{1,2,4}*.tif`.
      channels: what stands in the list, in the order of the channels.
      regex: matches the path of a file of any channel, with the groups `folder`, `stem` and `channel`.
    """

    text: str
    channels: tuple[str, ...]
    regex: re.Pattern[str]


def pattern(text: str) -> Pattern:
    """Reads `--channel_files`: `{stem}` is what the files of an image share, `{a,b,c}` the channels in order, `*` anything.

    The pattern is matched with the end of a path, so that a channel may as well be a folder: `{DAPI,GFP}/{stem}.tif`.

    Raises:
      UserError: not one stem and one list of at least two channels that differ.
    """
    parts = re.split(r"(\{[^{}]*\}|\*)", text)
    lists = [part[1:-1].split(",") for part in parts if part.startswith("{") and part != "{stem}"]
    channels = tuple(name.strip() for name in lists[0]) if lists else ()
    if parts.count("{stem}") != 1 or len(lists) != 1 or len(set(channels)) < max(2, len(channels)):
        raise UserError(
            f"--channel_files: given '{text}'; expected {{stem}} and one list of two or more channels, as in "
            "{stem}_w{1,2,3}.tif"
        )
    one_of = "|".join(map(re.escape, sorted(channels, key=len, reverse=True)))
    meaning = {"{stem}": "(?P<stem>[^/]+)", "*": "[^/]*"}
    written = [
        f"(?P<channel>{one_of})" if part.startswith("{") and part != "{stem}" else meaning.get(part, re.escape(part))
        for part in parts
    ]
    return Pattern(text, channels, re.compile("(?P<folder>(?:.*/)?)" + "".join(written), re.DOTALL))


def by_channel(paths: Sequence[str], wanted: Pattern, root: str, remarks: Remarks) -> tuple[dict[str, str], int]:
    """Puts files together that are channels of one image.

    Args:
      paths: of all files.
      wanted: how they are named; files that are named otherwise are not read.
      root: for messages.
      remarks: gets the images that lack a channel.

    Returns:
      ({folder and stem: reference}, how many files are named otherwise).

    Raises:
      UserError: no file is named so, two files of one channel, or a path with "|" in it.
    """
    groups: dict[str, dict[str, str]] = {}
    others = 0
    for path in paths:
        found = wanted.regex.fullmatch(path)
        if found is None:
            others += 1
            continue
        group = groups.setdefault(found["folder"] + found["stem"], {})
        if found["channel"] in group:
            raise UserError(
                f"--channel_files: {group[found['channel']]} and {path} are both channel {found['channel']} of one image of "
                f"{root}; expected one file each"
            )
        group[found["channel"]] = path
        if JOINT in path:
            raise UserError(f"{os.path.join(root, path)}: expected no '{JOINT}' in the path, where a file is a channel")
    if not groups:
        raise UserError(
            f"--channel_files: none of the {len(paths)} images of {root}, as {paths[0]}, fits '{wanted.text}'"
        )
    whole: dict[str, str] = {}
    for name, group in groups.items():
        missing = [channel for channel in wanted.channels if channel not in group]
        if missing:
            some_file = next(iter(group.values()))
            remarks.left_out.append(f"{name} (no file of channel {', '.join(missing)} beside {some_file})")
        else:
            whole[name] = JOINT.join(group[channel] for channel in wanted.channels)
    return whole, others
