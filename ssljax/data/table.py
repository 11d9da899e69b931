"""Images that a CSV lists (`table:FILE.csv`): a row an image, its file in one column, and what is known of it in the others.

A row may also name an .npy stack: all of its images are of that row, or one, as in `stack.npy[17]`.
"""

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssljax.data.columns import labels_of, read_csv
from ssljax.data.listed import JOINT, Reading, Remarks, file_of, references, stream
from ssljax.data.pixels import SameShape
from ssljax.data.source import NO_LABELS, Contents, Request, Source
from ssljax.data.subset import drawn
from ssljax.errors import UserError, unknown

LABEL, GROUP = "label", "group"  # where the user names no other and the table has them
NONE = "none"  # as `--group` and `--split_column`: there is no such column
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}
_OF_SUBSET = ("compound", "concentration", "plate")


def source(request: Request) -> Source:
    """A CSV with a row an image; its path follows the colon, and lies in `data_dir`.

    Files are named relative to the table's folder, or to `data_dir` where they are not found there. Several path columns are the
    channels of one image. The label column becomes the labels; the group column keeps images together where splits are drawn; the
    split column says train, validation (val, valid) or test. All columns stay known of each image. What cannot be read is left
    out and named in one warning.

    Raises:
      UserError: no file or one that is no CSV, no such column, no path, label or group in a row, an unknown split, a path or a
        group that stands twice, images that differ in size (without `image_size`) or channels, a split without a sound image.
    """
    if not request.place:
        raise UserError(f"data set '{request.name}': expected a CSV file, as in table:FILE.csv")
    if request.channel_files:
        raise UserError(
            "--channel_files is for folders; in a table every channel has a column: --path_column=dapi,tubulin,actin"
        )
    path = os.path.abspath(os.path.expanduser(os.path.join(request.data_dir, request.place)))

    @functools.lru_cache(1)  # by the table's own digest: it is parsed once, unless it changes
    def parsed(digest: str) -> tuple[dict[str, np.ndarray], list[str], str]:
        columns = read_csv(path)
        given = _paths(columns, request.path_columns, path)
        return columns, given, _root(given, path, request.data_dir)

    def identity() -> dict[str, Any]:
        if not os.path.isfile(path):
            return {}
        _, given, root = parsed(table := _digest([path], "")[0])
        files = list(dict.fromkeys(file_of(one) for name in given for one in name.split(JOINT)))
        digest, size = _digest(files, root)
        return {"table": table, "files": len(files), "bytes": size, "digest": digest}

    def open_() -> Contents:
        columns, given, root = parsed(_digest([path], "")[0])
        rows, notes = np.arange(len(given)), list[str]()
        if request.subset:
            for name in _OF_SUBSET:
                if name not in columns:
                    raise UserError(f"--compound: {path} has no column '{name}', only {', '.join(columns)}")
            try:
                columns["concentration"].astype(float)
            except ValueError as error:
                raise UserError(f"{path}: a concentration is no number ({error})") from None
            rows, notes = drawn(columns, request.subset, path)
        joined = len(request.path_columns) > 1
        images = [
            (row, one) for row in rows.tolist() for one in ([given[row]] if joined else references(root, given[row]))
        ]
        rows, names = np.array([row for row, _ in images]), [one for _, one in images]
        known = {name: column[rows] for name, column in columns.items()}
        labels, class_names = _labels(known, request.label, rows, path)
        parts = _splits(known, request.split_column, rows, path)
        if labels is not None and class_names is not None:
            _check_classes(labels, parts, class_names, path)
        group = GROUP if GROUP in known else ""
        _check_groups(known, parts, request.group or group, path)
        reading, same, remarks = Reading(root, request.image_size, request.channels, joined), SameShape(), Remarks()
        streams = {
            split: stream(
                reading,
                [names[i] for i in chosen],
                None if labels is None else labels[chosen],
                {name: column[chosen] for name, column in known.items()},
                same,
                remarks,
            )
            for split, chosen in parts.items()
        }
        return Contents(streams, class_names, lambda: notes + remarks.lines(path, len(names)), group)

    return Source(f"{path}:table", identity, open_)


def _paths(columns: Mapping[str, np.ndarray], names: Sequence[str], where: str) -> list[str]:
    """The path of each row, with "|" between those of its channels."""
    for name in names:
        if name not in columns:
            if name == Request._field_defaults["path_columns"][0]:
                raise UserError(
                    f"{where}: has no column '{name}', only {', '.join(columns)}; --path_column says which holds the paths"
                )
            raise unknown("column", name, columns, "--path_column")
        if not columns[name].all():
            raise UserError(f"{where}: row {_row(columns[name] == '')} has no '{name}'")
        if len(names) > 1 and np.char.count(columns[name], JOINT).any():
            raise UserError(f"{where}: '{name}' holds a '{JOINT}'; expected none where a column is a channel")
    given = [JOINT.join(parts) for parts in zip(*(columns[name].tolist() for name in names))]
    seen: dict[str, int] = {}
    for row, one in enumerate(given):
        if seen.setdefault(one, row) != row:
            raise UserError(f"{where}: rows {seen[one] + 1} and {row + 1} are both of {one}; expected a row an image")
    return given


def _row(wrong: np.ndarray) -> int:
    """The number of the first row where something is wrong, counted from 1 without the header."""
    return int(np.flatnonzero(wrong)[0]) + 1


def _root(given: Sequence[str], table: str, data_dir: str) -> str:
    """The folder that paths are relative to: the table's, or `data_dir` where the first that is found is found there."""
    folders = [os.path.dirname(table), *([os.path.abspath(os.path.expanduser(data_dir))] if data_dir else [])]
    for one in given:
        for folder in folders:
            if os.path.exists(os.path.join(folder, file_of(one.split(JOINT)[0]))):
                return folder
    return folders[0]


def _digest(paths: Sequence[str], root: str) -> tuple[str, int]:
    """sha256 (hex) over path, size and modification time of files, of one that is absent over its path; and their bytes in all."""
    result, size = hashlib.sha256(), 0
    for path in paths:
        try:
            stat = os.stat(os.path.join(root, path))
            line = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
            size += stat.st_size
        except OSError:
            line = f"{path}\0\n"
        result.update(line.encode("utf-8", "surrogateescape"))
    return result.hexdigest(), size


def _labels(
    columns: Mapping[str, np.ndarray], label: str, rows: np.ndarray, where: str
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    if label == NO_LABELS or (not label and LABEL not in columns):
        return None, None
    if label and label not in columns:
        raise unknown("column", label, [*columns, NO_LABELS], "--label")
    column = columns[label or LABEL]
    if not column.all():
        row = rows[_row(column == "") - 1] + 1
        raise UserError(
            f"{where}: row {row} has no '{label or LABEL}'; expected one of each image, another --label, or --label={NO_LABELS}"
        )
    return labels_of(column)


def _splits(columns: Mapping[str, np.ndarray], name: str, rows: np.ndarray, where: str) -> dict[str, np.ndarray]:
    """Which images each split holds; all of them in "train" where the table does not say."""
    if name not in columns:
        if name not in (NONE, Request._field_defaults["split_column"]):
            raise unknown("column", name, [*columns, NONE], "--split_column")
        return {"train": np.arange(len(rows))}
    given = np.array([_SPLITS.get(text.lower(), "") for text in columns[name].tolist()])
    if not given.all():
        wrong = _row(given == "") - 1
        raise UserError(
            f"{where}: row {rows[wrong] + 1} has '{columns[name][wrong]}' as '{name}'; expected train, validation (or val) or "
            f"test, or --split_column={NONE}"
        )
    if "train" not in given:
        raise UserError(f"{where}: no row has 'train' as '{name}'; expected some to train on, or --split_column={NONE}")
    return {split: np.flatnonzero(given == split) for split in ("train", "validation", "test") if split in given}


def _check_classes(labels: np.ndarray, parts: Mapping[str, np.ndarray], class_names: Sequence[str], where: str) -> None:
    for split, chosen in parts.items():
        unseen = np.setdiff1d(labels[chosen], labels[parts["train"]])
        if len(unseen):
            raise UserError(f"{where}: class '{class_names[unseen[0]]}' of {split} is not in train")


def _check_groups(columns: Mapping[str, np.ndarray], parts: Mapping[str, np.ndarray], group: str, where: str) -> None:
    """Refuses a column that there is not, and a table whose own splits tear a group apart."""
    if group in ("", NONE):
        return
    if group not in columns:
        raise unknown("column", group, [*columns, NONE], "--group")
    seen: dict[str, str] = {}
    for split, chosen in parts.items():
        for one in np.unique(columns[group][chosen]).tolist():
            if seen.setdefault(one, split) != split:
                raise UserError(
                    f"{where}: {group} '{one}' stands in {seen[one]} and in {split}; expected it in one of them, or "
                    f"--group={NONE}"
                )
