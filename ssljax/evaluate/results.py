"""The two long result tables on disk, results.csv and per_class.csv: one measured value a row.

A row is a plain dict. Its keys are the columns below and, between `seed` and `method`, one for each swept
hyper-parameter; per_class.csv has `class` before `metric`.
"""

import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssljax.errors import UserError
from ssljax.files import replacing

RUN_COLUMNS = ("run", "seed")
SETTING_COLUMNS = ("method", "backbone", "dataset", "transforms", "epoch", "evaluation", "target")
VALUE_COLUMNS = ("metric", "value")
CLASS_COLUMN = "class"
_FIXED = frozenset((*RUN_COLUMNS, *SETTING_COLUMNS, CLASS_COLUMN, *VALUE_COLUMNS))

Row = dict[str, Any]


def swept_names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the swept hyper-parameters in `rows`, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row if name not in _FIXED))


def program_of(run: str) -> str:
    """The program that a run's name "program/run" tells of; parts of a split one ("program~0") are one."""
    return re.sub(r"~\d+$", "", run.rpartition("/")[0])


def write_results(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one of the tables; the file appears whole or not at all.

    Rows that have the key `class` make it a per-class table. Floats are written with the digits that bring
    back the same float64; None is an empty cell.

    Args:
      path: the file; an existing one is replaced.
      rows: dicts with every column above; a swept name that a row lacks is an empty cell.

    Raises:
      UserError: a row lacks a column.
    """
    middle = (CLASS_COLUMN,) if any(CLASS_COLUMN in row for row in rows) else ()
    needed = (*RUN_COLUMNS, *SETTING_COLUMNS, *middle, *VALUE_COLUMNS)
    for row in rows:
        if missing := [name for name in needed if name not in row]:
            raise UserError(f"{path}: given a row without {', '.join(missing)}, expected {', '.join(needed)}")
    columns = (*RUN_COLUMNS, *swept_names(rows), *SETTING_COLUMNS, *middle, *VALUE_COLUMNS)
    write_csv(path, columns, ([row.get(name) for name in columns] for row in rows))


def write_csv(path: str | os.PathLike[str], columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file whole or not at all."""
    with replacing(path, encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in line] for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    # numpy's scalars print as np.float32(...): item() gives Python's own number first.
    plain = value.item() if hasattr(value, "item") else value
    return repr(plain) if isinstance(plain, float) else str(plain)


def read_results(path: str | os.PathLike[str]) -> list[Row]:
    """Read either table back: `value` a float, `seed` and `epoch` an int or None, swept values numbers.

    Raises:
      UserError: no such file, a column is missing or has no name, or a cell is not the number it should be.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV table ({error})") from error
    needed = (*RUN_COLUMNS, *SETTING_COLUMNS, *VALUE_COLUMNS)
    if missing := [name for name in needed if name not in header]:
        raise UserError(f"{path}: column {', '.join(missing)} is missing, expected {', '.join(needed)}")
    if "" in header:
        raise UserError(f"{path}: column {header.index('') + 1} has no name; expected a name, or no such column")
    rows = []
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise UserError(f"{path}: row {number} has {len(line)} cells, expected {len(header)}")
        row: Row = dict(zip(header, line, strict=True))
        for name in header:
            where = f"{path}: row {number}, column {name}"
            if name in ("seed", "epoch"):
                row[name] = _number(row[name], int, where) if row[name] else None
            elif name == "value":
                row[name] = _number(row[name], float, where)
            elif name not in _FIXED:
                row[name] = _swept_value(row[name])
        rows.append(row)
    return rows


def _number(text: str, kind: type[int] | type[float], where: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{where}: given '{text}', expected a number") from None


def _swept_value(text: str) -> int | float | str | None:
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
